"""Counts the phrases that make a reader go back, in pages, docstrings and messages.

Run ``make prose``. Each pattern is a habit that CONTRIBUTING advises against under "Plain English".
``--list`` shows where they are.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("reelrl", "rewards", "envs", "algos", "zoo")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md")
PATTERNS = {
    "that of, those of": r"\b(?:that|those) (?:of|that|which|whose|in|with|who)\b",
    "What as a noun": r"(?:^|(?<=[.:;] ))What (?![^.]{0,200}\?)[a-z]",
    "what as a noun": r"\b(?:of|with|to|from|by|for|than|and|or|is|on) what\b(?![^.]{0,200}\?)",
    "None is": r"\bNone is\b",
    "a number without its 0": r"(?<![\w.\]/)])\.\d+\b(?!\w)",
}
LIMIT = 10
"""Hits that are let pass: some are quotations and names."""


class Hit(NamedTuple):
    """One phrase of a paragraph."""

    name: str
    """File, relative to the repository."""
    line: int
    """First line of the paragraph."""
    kind: str
    """Key of :data:`PATTERNS`."""
    near: str
    """The phrase with the words around it."""


def found(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Kind and match of every phrase in one paragraph of plain text."""
    for kind, pattern in PATTERNS.items():
        for match in re.finditer(pattern, text):
            yield kind, match


def hits() -> Iterator[Hit]:
    """Every phrase in the repository."""
    for name, line, text in texts():
        for kind, match in found(text):
            yield Hit(name, line, kind, text[max(0, match.start() - 50) : match.end() + 50])


def texts() -> Iterator[tuple[str, int, str]]:
    """File, line and text of every paragraph that a reader meets."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            yield from of_page(path)
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            yield from of_source(path)


def of_page(path: Path) -> Iterator[tuple[str, int, str]]:
    """Paragraphs of a page, without its code."""
    text = path.read_text(encoding="utf-8")
    # Of the same number of lines, so that a hit is found.
    text = re.sub(r"```.*?```", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)|<[^>\n]*>", "`", text)
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", text):
        if paragraph.strip():
            yield str(path.relative_to(ROOT)), line, " ".join(paragraph.split())
        line += paragraph.count("\n")


def of_source(path: Path) -> Iterator[tuple[str, int, str]]:
    """Docstrings, and texts that are raised, warned or printed."""
    name = str(path.relative_to(ROOT))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    seen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node, clean=True)
            if doc and isinstance(node.body[0], ast.Expr):
                constant = node.body[0].value
                seen.add(id(constant))
                plain = re.sub(r"```.*?```", "", doc, flags=re.DOTALL)
                plain = re.sub(r"``[^`]*``|`[^`]*`|\\[a-z]+|>>> .*", "`", plain)
                for paragraph in re.split(r"\n\s*\n", plain):
                    yield name, constant.lineno, " ".join(paragraph.split())
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in seen and " " in node.value.strip():
            # A field such as {noise:.0%} holds a format and no number.
            yield name, node.lineno, " ".join(re.sub(r"\{[^{}]*\}", "`", node.value).split())


def main() -> int:
    """Print the count of every pattern; 1 if there are too many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="show every hit")
    arguments = parser.parse_args()
    everything = list(hits())
    if arguments.list:
        for hit in everything:
            print(f"{hit.name}:{hit.line}: {hit.kind}: ...{hit.near}...")
    counts = Counter(hit.kind for hit in everything)
    for kind in PATTERNS:
        print(f"{counts[kind]:5}  {kind}")
    total = len(everything)
    readme = sum(hit.name == "README.md" for hit in everything)
    print(f"{total:5}  in all, expected at most {LIMIT}; {readme} of them in README.md")
    return int(total > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
