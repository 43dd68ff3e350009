"""The printed tables are reachable from the command line and agree with what the docs hold."""

from pathlib import Path

from reelrl.rewards import list_rewards
from reelrl.zoo.cli import main

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_list_rewards_has_a_row_each(capsys):
    main(["list", "rewards"])
    printed = capsys.readouterr().out
    assert [name for name in list_rewards() if f"| {name} |" not in printed.replace("`", "")] == []


def test_the_committed_attack_table_is_what_the_command_writes(tmp_path, capsys):
    main(["report", "attacks", "--out", str(tmp_path)])
    written = (tmp_path / "attacks.md").read_text()
    assert written == (DOCS / "attacks.md").read_text()
    assert "| clean |" in capsys.readouterr().out
