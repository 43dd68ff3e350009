"""The registered reward components: ``reelrl list rewards``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reelrl.rewards import list_rewards
from reelrl.rewards.base import reward_class


def report() -> str:
    """A markdown table with one row per registered component."""
    lines = ["| name | bounds | better | licence | what |", "|---|---|---|---|---|"]
    for name in list_rewards():
        reward: Any = reward_class(name)
        low, high = reward.bounds
        better = "higher" if reward.higher_is_better else "lower"
        what = (reward.__doc__ or "").split("\n")[0]
        lines.append(f"| {name} | [{low:g}, {high:g}] | {better} | {reward.license} | {what} |")
    return "\n".join(lines)


def main(out: Path | None = None) -> None:
    """Print the table; with ``out``, also write it to ``out/rewards.md``."""
    table = report()
    print(table)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "rewards.md").write_text(table + "\n", encoding="utf-8")
