"""Links that leave ``docs``: on the site they lead to a page that shows the file.

Pages are read in two places, in a checkout and on the site. A link such as
``../tests/test_layout.py`` works in the first as it stands, and is turned into one to a page of
the file's text for the second.
"""

from __future__ import annotations

import ast
import os
import posixpath
import re
from pathlib import Path

LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
TEST = re.compile(r"(?<![\[`])`(tests/[\w/]+\.py)(?:::(\w+))?`(?![\]`])")
"""A test as pages name it, ``tests/test_layout.py::test_imports_only_go_down``."""
FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[`~]*$", re.MULTILINE | re.DOTALL)
PICTURES = (".png", ".gif", ".svg", ".jpg")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".md": "markdown", ".json": "json"}
FOLDER = "source"


def example_pages(root: Path) -> dict[str, str]:
    """Site path -> Markdown of ``examples``: what each says of itself, and its code."""
    index = ["# Examples", "", "One file each, read top to bottom.", ""]
    index += ["| file | what |", "|---|---|"]
    made = {}
    for path in sorted((root / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        doc = (ast.get_docstring(ast.parse(text)) or "").split("\n")
        made[f"examples/{path.stem}.md"] = f"# {path.stem}\n\n" + code_block(text, "python")
        index.append(f"| [`{path.name}`]({path.stem}.md) | {doc[0]} |")
    return {"examples/index.md": "\n".join(index) + "\n", **made}


def site_path(path: str) -> str:
    """Where the page (or picture) of a file of the repository is on the site."""
    if path.startswith("examples/") and path.endswith(".py"):
        return f"{path.removesuffix('.py')}.md"
    return f"{FOLDER}/{path}" if path.endswith(PICTURES) else f"{FOLDER}/{path}.md"


def page(root: Path, path: str) -> str:
    """The page of one file; search finds what is written about code, not code."""
    language = LANGUAGES.get(Path(path).suffix, "text")
    text = (root / path).read_text(encoding="utf-8")
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n" + code_block(text, language)


def code_block(text: str, language: str) -> str:
    """Fenced so that fences inside stay text."""
    return f"~~~~~~{language}\n{text.rstrip()}\n~~~~~~\n"


def linked(markdown: str, page_path: str, root: Path) -> set[str]:
    """Files of the repository outside ``docs`` that a page links to, or names as a test."""
    text = FENCE.sub("", markdown)
    found = {_outside(match[2], page_path) for match in LINK.finditer(text)}
    found |= {match[1] for match in TEST.finditer(text)}
    return {path for path in found if path and (root / path).is_file()}


def rewrite(markdown: str, page_path: str, root: Path) -> str:
    """The page with those links turned, and tests it names as links to their lines."""
    here = posixpath.dirname(page_path) or "."

    def turn(match: re.Match[str]) -> str:
        path = _outside(match[2], page_path)
        if not path or not (root / path).is_file():
            return match[0]
        return f"{match[1]}{posixpath.relpath(site_path(path), here)}{match[4]}"

    def find(match: re.Match[str]) -> str:
        path, name = match.groups()
        line = _line(root / path, name)
        if line is None:
            return match[0]
        shown = name or posixpath.basename(path)
        return f"[`{shown}`]({posixpath.relpath(site_path(path), here)}#__codelineno-0-{line})"

    pieces, last = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [TEST.sub(find, LINK.sub(turn, markdown[last : fence.start()])), fence[0]]
        last = fence.end()
    return "".join([*pieces, TEST.sub(find, LINK.sub(turn, markdown[last:]))])


def _line(path: Path, name: str | None) -> int | None:
    """Line of a test in its file, counted from 1; None if it is not there."""
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (n for n, line in enumerate(lines, 1) if line.startswith(f"def {name}("))
    return 1 if name is None else next(found, None)


def _outside(link: str, page_path: str) -> str | None:
    """Path in the repository of a relative link that leaves ``docs``."""
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page_path), link))
    outside = not path.startswith(("docs/", ".."))
    return path.replace(os.sep, "/") if outside else None
