"""Names of scenarios and methods: they become files and folders, so not every text will do."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from reelrl.naming import nearest
from reelrl.zoo.benchmark.columns import BEST_OF_N

NAME = re.compile(r"(?!\.)[A-Za-z0-9_@.+-]{1,100}")
RESERVED = (BEST_OF_N, "suite", "clips", "base.gif", "results", "report", "story", "lock")
"""Names that a folder of results or of runs needs itself."""
PAIRS, SINGLE = ("better", "same"), ("rises", "falls")
"""Kinds of predictions: of two methods, and of one."""


def check_name(name: Any, path: str) -> str:
    """The name, if a file may be called so.

    Args:
        name: of a scenario or a method.
        path: name of the place in error messages.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        shown = repr(name) if len(repr(name)) < 80 else f"{repr(name)[:80]}..."
        raise ValueError(
            f"{path} must be a name of letters, digits and _ @ . + -, which does not begin with a "
            f"dot, got {shown}"
        )
    if name.lower() in RESERVED:
        raise ValueError(f"{path} must not be one of {', '.join(RESERVED)}, got {name!r}")
    return name


def named(given: Any, path: str) -> dict[str, Any]:
    """Names with their settings: a list has names alone, a mapping has both.

    Raises:
        ValueError: for something else, for no names, a name that comes twice or is none, or if
            an entry's settings are no mapping.
    """
    if not isinstance(given, list | dict) or not given:
        raise ValueError(f"{path} must hold names, or names with settings, got {given!r}")
    for name in given:
        check_name(name, path)
    twice = [name for name in given if list(given).count(name) > 1]
    if twice:
        raise ValueError(f"{path} must hold every name once, got {twice[0]!r} again")
    if isinstance(given, list):
        return dict.fromkeys(given)
    for name, said in given.items():
        if not isinstance(said, dict | None):
            raise ValueError(f"{path}.{name} must hold keys and values, got {said!r}")
    return given


def check_expected(expected: dict[str, Any], known: Iterable[str], path: str) -> None:
    """Refuse a prediction that could never be tested.

    Args:
        expected: ``expect`` of a scenario.
        known: names of methods.
        path: name of the place in error messages.

    Raises:
        ValueError: for another kind of prediction, something else than pairs or names, or a method
            that is not known.
    """
    methods = set(known)
    for kind, entries in expected.items():
        if kind not in (*PAIRS, *SINGLE):
            raise ValueError(f"unknown key {f'{path}.{kind}'!r}{nearest(kind, (*PAIRS, *SINGLE))}")
        if not isinstance(entries, list):
            raise ValueError(f"{path}.{kind} must be a list, got {entries!r}")
        for entry in entries:
            pair = entry if kind in PAIRS else [entry]
            if not _are_names(pair, 2 if kind in PAIRS else 1):
                wanted = "a list of two methods" if kind in PAIRS else "the name of a method"
                raise ValueError(f"{path}.{kind} must hold {wanted} each, got {entry!r}")
            _check_known(pair, methods, f"{path}.{kind}")


def _are_names(pair: Any, count: int) -> bool:
    return (
        isinstance(pair, list)
        and all(isinstance(name, str) for name in pair)
        and len(pair) == len(set(pair)) == count
    )


def _check_known(names: list[str], known: Collection[str], path: str) -> None:
    for name in names:
        # An estimator may come with a preset of its own.
        if name not in known and name.partition("@")[0] not in known:
            raise ValueError(f"{path}: unknown method {name!r}{nearest(name, known)}")
