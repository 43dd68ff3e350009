"""Counts the phrases that make a reader go back, in pages, docstrings and messages.

Run ``make prose``. Each pattern is a habit that CONTRIBUTING advises against. ``--list`` shows
where they are.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

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
"""Hits that are let pass: some are quotations."""


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
            yield name, node.lineno, " ".join(node.value.split())


def main() -> int:
    """Print the count of every pattern; 1 if there are too many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="show every hit")
    arguments = parser.parse_args()
    counts = dict.fromkeys(PATTERNS, 0)
    for name, line, text in texts():
        for kind, pattern in PATTERNS.items():
            for match in re.finditer(pattern, text):
                counts[kind] += 1
                if arguments.list:
                    near = text[max(0, match.start() - 50) : match.end() + 50]
                    print(f"{name}:{line}: {kind}: ...{near}...")
    for kind, count in counts.items():
        print(f"{count:5}  {kind}")
    total = sum(counts.values())
    print(f"{total:5}  in all, expected at most {LIMIT}")
    return int(total > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
