"""``imports:`` of presets and suites: modules that register rewards, estimators or methods."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def import_all(names: Any, source: Path) -> tuple[str, ...]:
    """Import modules by dotted name, or Python files by path, and return the imported names.

    A module runs with the rights of the user: a file with ``imports`` is a program.

    Args:
        names: a list of texts. A path is looked for beside ``source`` and then in the folder of the
            process; it is returned whole, so that another process finds it.
        source: the yaml file that names them.

    Raises:
        ValueError: if it is no list of texts, or one of them cannot be imported.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{source}: imports must be a list of modules or .py files, got {names!r}")
    found = tuple(_place(name, source.parent) for name in names)
    for name in found:
        try:
            import_one(name)
        # Whatever a module does when it is imported, the file that asked for it has to be told.
        except Exception as error:
            raise ValueError(
                f"{source}: imports: {name} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    return found


def import_one(name: str) -> None:
    """Import a module by its dotted name, or a Python file by its path; once in a process."""
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = Path(name)
    known: Any = sys.modules.get(path.stem)
    if known is not None and Path(getattr(known, "__file__", None) or "").resolve() == path:
        return
    if known is not None:
        raise ImportError(f"there is another module of the name {path.stem}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("no Python file")
    module = importlib.util.module_from_spec(spec)
    # Before it runs, so that its classes can be pickled.
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


def import_again(names: Sequence[str]) -> None:
    """Import in this process the names that :func:`import_all` returned in another one."""
    for name in names:
        import_one(name)


def _place(name: str, beside: Path) -> str:
    if not name.endswith(".py"):
        return name
    places = [beside / name, Path(name)]
    return str(next((place for place in places if place.is_file()), places[0]).resolve())
