"""What MkDocs calls while it builds the site; see ``hooks`` in ``mkdocs.yml``."""

from __future__ import annotations

import re
import runpy
from html import unescape
from pathlib import Path
from typing import Any

import components
import environments
import estimators
import figures
import navigation
import presets
import reference
import sources
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)


def generated(root: Path) -> dict[str, str]:
    """Site path -> Markdown of all pages that are made from code."""
    return {
        **environments.pages(),
        **components.pages(),
        **estimators.pages(root / "docs"),
        **presets.pages(),
        **reference.pages(),
        **sources.example_pages(root),
    }


# Before mkdocstrings reads its paths.
@event_priority(100)
def on_config(config: Any) -> Any:
    """Generate the pages and complete the table of contents."""
    root = Path(config.config_file_path).parent
    runpy.run_path(str(root / ".ci" / "link_sources.py"))["link_sources"](root)
    made = generated(root)
    written = {
        str(path.relative_to(config.docs_dir)) for path in Path(config.docs_dir).rglob("*.md")
    }
    config.nav = navigation.complete(config.nav, written | set(made))
    config.extra["generated"] = made
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and the files of the repository that any page links to."""
    root = Path(config.config_file_path).parent
    made = config.extra["generated"]
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()} | made
    linked = set().union(*(sources.linked(text, path, root) for path, text in texts.items()))
    for path in sorted(linked):
        uri = sources.site_path(path)
        if path.endswith(sources.PICTURES):
            files.append(File.generated(config, uri, abs_src_path=str(root / path)))
        elif uri not in made:
            files.append(File.generated(config, uri, content=sources.page(root, path)))
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    files.append(File.generated(config, "pictures/learning.svg", content=figures.hacking()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links that leave ``docs``."""
    return sources.rewrite(markdown, page.file.src_uri, Path(config.config_file_path).parent)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""
    return FORMULA.sub(_mathml, html)


def _mathml(match: re.Match[str]) -> str:
    display = "inline" if match["open"] == "(" else "block"
    return convert(unescape(match["latex"]).strip(), display=display)
