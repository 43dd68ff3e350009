"""Every Python block of the README runs as it stands, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


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
