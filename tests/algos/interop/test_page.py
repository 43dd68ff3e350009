"""The page for people who know other libraries: its code runs, its links lead somewhere."""

from __future__ import annotations

import doctest
import re
import warnings
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "interop.md"


def test_examples_in_the_page():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 40
    assert result.failed == 0


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()) if "://" not in link]
    assert links and [link for link in links if not (PAGE.parent / link).exists()] == []


def test_what_the_page_names_exists():
    tests = re.findall(r"`(tests/\S+\.py)`", PAGE.read_text())
    assert tests and all((PAGE.parents[1] / name).is_file() for name in tests)
