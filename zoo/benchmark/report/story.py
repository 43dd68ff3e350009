"""``story.png``: proxy and gold of every method over training, the picture for a README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reelrl.zoo.benchmark.columns import eval_column
from reelrl.zoo.benchmark.report.numbers import Results
from reelrl.zoo.benchmark.report.reading import RecordedRun, RecordedScenario
from reelrl.zoo.benchmark.report.statistics import mean_interval

TOLD = ("goodhart", "goodhart_extreme", "proxies")
"""Scenarios in which proxy and gold may part; each that was run is one row."""
MOST_METHODS = 8
COLOURS = {"proxy": "#d4572a", "gold": "#1f6fd1"}


def _scores(run: RecordedRun, split: str) -> dict[str, np.ndarray]:
    """Proxy and gold in standard deviations of the base model's clips."""
    found = {}
    for name in COLOURS:
        column = run.axes[0] if name == "gold" else name
        values = run.evaluated(eval_column(split, column))
        std = run.evaluated(eval_column(split, f"std_{column}"))[0]
        found[name] = (values - values[0]) / std
    return found


def _panel(axes: Any, runs: list[RecordedRun], split: str) -> None:
    curves = [_scores(run, split) for run in runs]
    x = runs[0].evaluated("iteration")
    for name, colour in COLOURS.items():
        rows = np.array([c[name] for c in curves if len(c[name]) == len(x)])
        axes.plot(x, rows.T, color=colour, linewidth=0.6, alpha=0.35)
        axes.plot(x, rows.mean(0), color=colour, linewidth=2, label=name)
        if len(rows) > 2:
            bounds = [mean_interval(column) for column in rows.T]
            low, high = [b.low for b in bounds], [b.high for b in bounds]
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="#888888", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _told(results: Results) -> list[RecordedScenario]:
    scenarios = [s for s in results.suite.scenarios if s.runs]
    return [s for s in scenarios if s.name in TOLD] or scenarios[:1]


def story(results: Results, path: Path) -> None:
    """Draw one row per scenario and one column per method, all on one scale per row.

    Args:
        results: of a suite.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    scenarios = _told(results)
    methods = [m for m in results.suite.methods if any(results.has(s.name, m) for s in scenarios)]
    methods = methods[:MOST_METHODS]
    size = (1.2 + 1.9 * len(methods), 0.7 + 2.2 * len(scenarios))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.subplots(len(scenarios), len(methods), sharex=True, sharey="row", squeeze=False)
    for place, (row, scenario) in enumerate(zip(grid, scenarios, strict=True)):
        for axes, method in zip(row, methods, strict=True):
            runs = [run for (m, _), run in scenario.runs.items() if m == method]
            if runs:
                _panel(axes, runs, results.split)
            else:
                axes.set_axis_off()
            if place == 0:
                axes.set_title(method, fontsize=10)
            if place == len(scenarios) - 1:
                axes.set_xlabel("iteration", fontsize=8)
            axes.tick_params(labelsize=8)
        row[0].set_ylabel(f"{scenario.name}\nchange, base-model std", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    # Without a version in the file, equal numbers give equal bytes for longer.
    figure.savefig(path, metadata={"Software": None})
