"""The printed tables are reachable from the command line and agree with what the docs hold."""

from pathlib import Path

import pytest

from reelrl.rewards import list_rewards, reward_class
from reelrl.zoo.cli import main
from reelrl.zoo.documents.reward_page import programmatic

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_list_rewards_has_a_row_each(capsys):
    main(["list", "rewards"])
    printed = capsys.readouterr().out
    assert [name for name in list_rewards() if f"| {name} |" not in printed.replace("`", "")] == []


@pytest.mark.slow
def test_the_committed_attack_table_is_what_the_command_writes(tmp_path, capsys):
    main(["report", "attacks", "--out", str(tmp_path)])
    written = (tmp_path / "attacks.md").read_text()
    assert written == (DOCS / "attacks.md").read_text()
    assert "| clean |" in capsys.readouterr().out


@pytest.mark.slow
def test_the_committed_page_of_rewards_is_what_the_command_writes(tmp_path, capsys):
    main(["report", "rewards", "--out", str(tmp_path)])
    written = (tmp_path / "rewards.md").read_text()
    assert written == (DOCS / "rewards.md").read_text()
    shipped = [n for n in list_rewards() if reward_class(n).__module__.startswith("reelrl.")]
    assert [name for name in shipped if f"| `{name}` |" not in written] == []


def test_every_component_without_weights_is_in_the_hack_table():
    page = (DOCS / "rewards.md").read_text()
    headers = [line for line in page.splitlines() if line.startswith("| clip | gold |")]
    columns = [cell.strip(" ↓") for line in headers for cell in line.split("|")]
    assert set(programmatic()) <= set(columns)
    assert len(programmatic()) >= 17
