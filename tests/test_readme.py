"""Every Python block of the README and the judges' page runs as it stands; links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


PAGE = (ROOT / "docs" / "judges.md").read_text()


@pytest.fixture(scope="module")
def page_names():
    """The page's blocks build on each other."""
    return {"__name__": "judges"}


@pytest.mark.parametrize("source", re.findall(r"```python\n(.*?)```", PAGE, flags=re.S))
def test_block_of_the_judges_page_runs(source, page_names, capsys):
    exec(compile(source, "docs/judges.md", "exec"), page_names)
    assert capsys.readouterr().out


@pytest.mark.parametrize("source", BLOCKS, ids=[block.split("\n")[0] for block in BLOCKS])
def test_block_runs(source, capsys):
    exec(compile(source, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_both_commands_are_make_targets():
    targets = (ROOT / "Makefile").read_text()
    for command in ("bench", "test"):
        assert f"make {command}" in TEXT and f"\n{command}: setup" in targets
