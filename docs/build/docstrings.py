r"""Docstrings as the site shows them: links for cross-references, ``\(...\)`` for formulas.

The code is written with Sphinx roles, which editors understand; the site is Markdown. What a role
names is looked up in the parsed sources, so a name that leads nowhere stays plain code.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([\w.]+)`")
MATH = re.compile(r":math:`([^`]*)`")
MATH_BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*|(?=\n\1 )))*)", re.MULTILINE)

Resolver = Callable[[str], str | None]
"""Full path of a documented object from a name in a docstring; None if there is none."""


def to_markdown(text: str, resolve: Resolver) -> str:
    r"""A docstring with roles as links and formulas in ``\(...\)`` and ``\[...\]``."""

    def link(match: re.Match[str]) -> str:
        short, name = match.groups()
        shown = name.rpartition(".")[2] if short else name
        path = resolve(name)
        return f"[`{shown}`][{path}]" if path else f"`{shown}`"

    def block(match: re.Match[str]) -> str:
        indent, formula = match.groups()
        body = " ".join(textwrap.dedent(formula).split())
        return f"\n{indent}\\[ {body} \\]\n"

    text = MATH_BLOCK.sub(block, text)
    text = MATH.sub(lambda match: f"\\({' '.join(match[1].split())}\\)", text)
    return ROLE.sub(link, text)


class Roles(griffe.Extension):
    """Rewrites every docstring of a package once it is parsed."""

    # The signature is griffe's, whose types it does not export to checkers.
    def on_package(self, *, pkg: Any, **_: Any) -> None:
        """Called by griffe with the parsed package."""
        for item in _documented(pkg):
            text = item.docstring.value
            item.docstring.value = to_markdown(text, partial(_find, pkg, item))


def _documented(item: Any) -> Iterator[Any]:
    """The object and all below it that have a docstring; aliases are documented where they live."""
    if item.docstring:
        yield item
    for member in item.members.values():
        if not member.is_alias:
            yield from _documented(member)


def _find(pkg: Any, at: Any, name: str) -> str | None:
    """Path of what ``name`` means in the docstring of ``at``, or of the class it is a part of."""
    try:
        path = name if name.startswith(f"{pkg.path}.") else _scoped(at, name)
        found = pkg[path.removeprefix(f"{pkg.path}.")] if path.startswith(f"{pkg.path}.") else None
        found = found.final_target if found is not None and found.is_alias else found
    except (KeyError, griffe.NameResolutionError, griffe.AliasResolutionError):
        return None
    while found is not None and not found.is_module and not _shown(found):
        found = found.parent
    # Pages of packages are plain Markdown, of which the links of docstrings know nothing.
    return None if found is None or (found.is_module and found.is_init_module) else found.path


def _shown(item: Any) -> bool:
    """The reference has an entry for what is documented and has a public name."""
    return bool(item.docstring) and not item.name.startswith("_")


def _scoped(at: Any, name: str) -> str:
    first, dot, rest = name.partition(".")
    return at.resolve(first) + dot + rest
