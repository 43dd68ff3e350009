"""The registered reward components: ``reelrl list rewards``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reelrl.rewards import list_rewards, reward_class


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def escape(text: str) -> str:
    """Text for a cell of a markdown table."""
    return text.replace("|", "\\|")


def value_range(reward: Any) -> str:
    """Declared bounds of a component."""
    low, high = reward.bounds
    left = "(-∞" if math.isinf(low) else f"[{low:.4g}"
    return f"{left}, ∞)" if math.isinf(high) else f"{left}, {high:.4g}]"


def flags(reward: Any) -> list[str]:
    """Cells for which way is better, gradient and frame rate."""
    return [
        "higher" if reward.higher_is_better else "lower",
        *("yes" if flag else "" for flag in (reward.differentiable, reward.fps_sensitive)),
    ]


def what(reward: Any) -> str:
    """First line of a component's docstring."""
    return escape((reward.__doc__ or "").split("\n")[0])


def report() -> str:
    """A markdown table with one row per registered component."""
    header = ["name", "range", "better", "gradient", "fps", "group", "weights", "GB", "licence"]
    rows = []
    for name in list_rewards():
        reward: Any = reward_class(name)
        size = f"{reward.memory_gb:g}" if reward.memory_gb else ""
        group = "yes" if reward.groupwise else ""
        cells = [name, value_range(reward), *flags(reward), group, reward.weights, size]
        rows.append([*cells, reward.license, what(reward)])
    return table([*header, "what"], rows)


def main() -> None:
    """Print the table."""
    print(report())
