"""The files of a results folder: their names, their columns, and how a cell is written and read.

Writer (``store``) and reader (``report.reading``) both take these from here. ``suite.json`` says
what was run. ``<scenario>.csv`` has one row per method, seed and iteration. ``best_of_n.csv`` has
the baseline that trains nothing. A cell is empty where nothing was measured.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUITE = "suite.json"
BEST_OF_N = "best_of_n"
KEYS = ("method", "seed", "iteration")
SPLITS = ("seen", "unseen")
"""Prompts the policy was, and was not, trained on."""
OPEN = "open"
"""The split of the empty prompt, which asks for anything: how much variety is left."""
DEFAULT_TRUTH = "moving_shapes"
"""The truth of a suite that names none."""
GOLD_AXES = ("gold", "gold_align", "gold_phys", "gold_fid")
"""The axes of that truth: score first."""
WATCHED, EXAMINED = "watch/", "eval/"
"""Prefixes, in a run's ``metrics.jsonl``, of what is measured of rollouts and of examinations."""
DIGITS = 5
RENAMED = {
    "train/clip_fraction": "clip_fraction",
    "train/grad_norm": "grad_norm",
    "health/skipped_updates": "skipped",
}
"""Metric of ``metrics.jsonl`` -> column."""

Row = dict[str, Any]


def renamed(metric: str) -> str:
    """Column of a metric of ``metrics.jsonl``, empty if it has none."""
    if metric.startswith(WATCHED):
        return metric.removeprefix(WATCHED)
    if metric.startswith(EXAMINED):
        split, _, name = metric.removeprefix(EXAMINED).partition("/")
        return eval_column(split, name)
    if metric.startswith("advantage/influence/"):
        return metric.removeprefix("advantage/")
    if metric.startswith("reward/") and metric.count("/") == 1:
        return metric
    return RENAMED.get(metric, "")


def eval_column(split: str, name: str) -> str:
    """Column of a score of the fixed examination."""
    return f"eval_{split}/{name}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV as text; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with the union of their columns: keys first, the others in alphabetical order."""
    keys = [key for key in KEYS if any(key in row for row in rows)]
    names = [*keys, *sorted({name for row in rows for name in row} - set(keys))]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: a kill in between costs nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value
