"""The table of contents: patterns in it stand for pages, so that a new page needs no line.

In ``nav`` of ``mkdocs.yml`` an entry with ``*`` is replaced by the pages that match and are named
nowhere else, and one that ends in ``?`` is left out while its page does not exist.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from typing import Any

INDEXES = ("README.md", "index.md")


def complete(nav: list[Any], pages: Iterable[str]) -> list[Any]:
    """The table with all patterns replaced.

    Args:
        nav: strings, ``{title: path}`` and ``{title: [...]}``, as in ``mkdocs.yml``.
        pages: paths of all pages.
    """
    every = set(pages)
    named = {entry.removesuffix("?") for entry in _leaves(nav)}
    return _complete(nav, every, every - named)


def _complete(nav: list[Any], every: set[str], free: set[str]) -> list[Any]:
    done: list[Any] = []
    for entry in nav:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            inner = _complete(value, every, free)
            done += [{title: inner}] if inner else []
        elif "*" in value:
            done += sorted((page for page in free if _matches(page, value)), key=_place)
        elif not value.endswith("?") or value.removesuffix("?") in every:
            path = value.removesuffix("?")
            done.append(path if title is None else {title: path})
    return done


def _leaves(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from _leaves(value) if isinstance(value, list) else [value]


def _matches(page: str, pattern: str) -> bool:
    """``*`` does not reach into folders."""
    return page.count("/") == pattern.count("/") and fnmatch.fnmatchcase(page, pattern)


def _place(page: str) -> tuple[bool, str]:
    return not page.endswith(INDEXES), page.removesuffix(".md")
