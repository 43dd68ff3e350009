"""Pictures that the site draws from committed results."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "zoo" / "results" / "learning"
RUNS = (
    ("gold", "grpo", "reward: GOLD", "#2a9d5c"),
    ("gold", "random_sign", "random signs (control)", "#8a8a8a"),
    ("proxies", "grpo", "reward: proxies", "#e0332e"),
    ("proxies", "grpo_kl", "proxies, penalty towards the base", "#e39a2d"),
)
"""Scenario, method, label and colour."""


def curves(scenario: str, method: str, column: str) -> dict[str, tuple[list[int], list[float]]]:
    """Iterations and values of a column, by seed."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    with (RESULTS / f"{scenario}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["method"] == method and row[column]:
                iterations, values = found.setdefault(row["seed"], ([], []))
                iterations.append(int(row["iteration"]))
                values.append(float(row[column]))
    return found


def hacking() -> str:
    """SVG: the known truth beside the proxy over training, a thin line per seed."""
    import matplotlib
    from matplotlib.figure import Figure

    grey = "#808080"  # read on a light and on a dark page
    style: dict[str, Any] = {
        "svg.hashsalt": "reelrl",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
    }
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), grey)
    style |= {"xtick.color": grey, "ytick.color": grey, "font.size": 10}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        truth, proxy = figure.subplots(1, 2)
        for scenario, method, label, colour in RUNS:
            _draw(truth, curves(scenario, method, "gold").values(), label, colour)
            if scenario == "proxies":
                _draw(proxy, curves(scenario, method, "proxy").values(), label, colour)
        truth.set(title="GOLD, the known truth", xlabel="iteration", ylim=(0, None))
        proxy.set(title="sum of the proxies", xlabel="iteration")
        for axes in (truth, proxy):
            axes.spines[["top", "right"]].set_visible(False)
            axes.patch.set_alpha(0)
        figure.legend(*truth.get_legend_handles_labels(), loc="outside lower center", ncols=2,
                      frameon=False)  # fmt: skip
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return target.getvalue()


def _draw(
    axes: Any, runs: Iterable[tuple[list[int], list[float]]], label: str, colour: str
) -> None:
    for number, (iterations, values) in enumerate(runs):
        shown = None if number else label
        axes.plot(iterations, values, color=colour, linewidth=1.5, label=shown)
