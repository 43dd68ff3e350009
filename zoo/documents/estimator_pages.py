"""The generated part of estimator pages: ``reelrl report estimator-pages --out docs/estimators``.

Prose is written by hand; the registry's facts (requirements, presets, settings) stand between
two markers and is rewritten from it, so that a page cannot disagree with the code. The site shows
an estimator without a written page by its docstring (:func:`drafted`).
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from reelrl.algos.advantages import NormSpec, estimator_class, list_estimators, make_estimator

BEGIN, END = "<!-- generated from the registry -->", "<!-- end -->"
SECTIONS = (
    "Idea",
    "Formula",
    "Paper",
    "Inputs, presets and settings",
    "Invariances",
    "Differences between implementations",
    "Degenerate cases",
    "Example",
)
"""Headings of every page, in order."""


def show(value: Any) -> str:
    """A setting as one would type it; a normalisation by its differences from the z-score."""
    if not isinstance(value, NormSpec):
        return repr(value)
    plain = NormSpec()
    changed = [
        f"{field.name}={getattr(value, field.name)!r}"
        for field in dataclasses.fields(NormSpec)
        if getattr(value, field.name) != getattr(plain, field.name)
    ]
    return f"NormSpec({', '.join(changed)})"


def presets_table(name: str) -> str:
    """The changes of each preset against the canonical reading."""
    cls = estimator_class(name)
    if not cls.presets:
        return "No presets."
    default = make_estimator(name).config
    lines = ["| preset | differs from the default by |", "|---|---|"]
    for preset in cls.presets:
        config = make_estimator(name, preset).config
        changed = [
            f"`{field.name}={show(getattr(config, field.name))}`"
            for field in dataclasses.fields(config)
            if getattr(config, field.name) != getattr(default, field.name)
        ]
        lines.append(f"| `{preset}` | {', '.join(changed) or 'nothing'} |")
    return "\n".join(lines)


def settings_table(name: str) -> str:
    """Settings and their defaults."""
    config = make_estimator(name).config
    lines = ["| setting | default |", "|---|---|"]
    for field in dataclasses.fields(config):
        lines.append(f"| `{field.name}` | `{show(getattr(config, field.name))}` |")
    return "\n".join(lines)


def generated(name: str) -> str:
    """The block between the markers."""
    cls, estimator = estimator_class(name), make_estimator(name)
    needs = ", ".join(f"`{need}`" for need in sorted(estimator.requires)) or "nothing extra"
    return "\n".join(
        [
            BEGIN,
            f"Needs besides the rewards: {needs}. Loss: {cls.loss_mode.replace('_', ' ')}. "
            f"Class: `{cls.__module__}.{cls.__name__}`.",
            "",
            presets_table(name),
            "",
            settings_table(name),
            END,
        ]
    )


def refresh(page: str, name: str) -> str:
    """The page with its generated block brought up to date.

    Raises:
        ValueError: if a marker is missing.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page of {name!r} must have one {BEGIN!r} and one {END!r}")
    before, rest = page.split(BEGIN)
    return before + generated(name) + rest.split(END)[1]


def drafted(name: str) -> str:
    """The page of an estimator about which nobody has written: its docstring and the block."""
    cls = estimator_class(name)
    first, _, rest = (inspect.getdoc(cls) or "").partition("\n")
    paper = f"## Paper\n\n{cls.source}" if cls.source else ""
    parts = (f"# `{name}`: {first}", rest.strip(), paper, f"## {SECTIONS[3]}", generated(name))
    return "\n\n".join(part for part in parts if part) + "\n"


def main(out: Path | None) -> None:
    """Print the generated blocks; with the folder of the pages, rewrite them in those there are."""
    refreshed = 0
    for name in list_estimators():
        if out is None:
            print(f"## {name}\n\n{generated(name)}\n")
            continue
        path = out / f"{name}.md"
        if path.is_file():
            page = refresh(path.read_text(encoding="utf-8"), name)
            path.write_text(page, encoding="utf-8")
            refreshed += 1
    if out is not None:
        print(f"refreshed {refreshed} pages in {out}")
