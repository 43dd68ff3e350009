"""The API reference: one page per package, filled from docstrings when the site is built."""

from __future__ import annotations

import importlib
import pkgutil

FLOORS = ("rewards", "envs", "algos", "zoo")


def packages() -> list[str]:
    """Full names of the public packages, floor by floor."""
    found = []
    for floor in FLOORS:
        package = importlib.import_module(f"reelrl.{floor}")
        found.append(package.__name__)
        below = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        found += sorted(info.name for info in below if info.ispkg)
    return found


def pages() -> dict[str, str]:
    """Site path -> Markdown of every page of the reference."""
    return {f"api/{name.removeprefix('reelrl.')}.md": page(name) for name in packages()}


def page(package: str) -> str:
    """The package's docstring, then its public modules one after the other."""
    folder = importlib.import_module(package).__path__
    names = [info.name for info in pkgutil.iter_modules(folder) if not info.ispkg]
    lines = [
        f"# `{package}`",
        "",
        f"::: {package}",
        "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}",
        "",
    ]
    for name in names:
        if not name.startswith("_"):
            lines += [f"::: {package}.{name}", ""]
    return "\n".join(lines)
