"""The files of a results folder: their names, their columns, and how a cell is written and read.

Writer (``store``) and reader (``report.reading``) both take these from here. ``suite.json`` says
what was run. ``<scenario>.csv`` has one row per method, seed and iteration. ``best_of_n.csv`` has
the baseline that trains nothing. A cell is empty where nothing was measured.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
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
"""Prefixes, in a run's ``metrics.jsonl``, of the measurements on rollouts and on examinations."""
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
    """Rows of a CSV as text; none if there is no such file.

    Raises:
        ValueError: in one line with file and row, for a file that is empty, cut off, not UTF-8, or
            has rows of another length than its header.
    """
    if not path.exists():
        return []
    text = _whole_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, row {reader.line_num}: {error}") from error
    names = header[1]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"{path}, row 1: expected different names of columns, got {names[:5]} ...")
    for number, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"{path}, row {number}: expected {len(names)} cells, got {len(cells)}")
    return [dict(zip(names, cells, strict=True)) for _, cells in rows]


def _whole_text(path: Path) -> str:
    raw = path.read_bytes()
    bad = raw.find(b"\0")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        raise ValueError(
            f"{path}, row {raw[:bad].count(10) + 1}: expected text in UTF-8, got byte "
            f"0x{raw[bad]:02x}"
        )
    if not text.endswith("\n") or not text.strip():
        what = "ends in the middle of a row" if text.strip() else "is empty"
        raise ValueError(f"{path}, row {raw.count(10) + 1}: the file {what}")
    return text


def whole_number(path: Path, row: Mapping[str, str], name: str, place: str) -> int:
    """A cell that must hold a whole number of at least 0.

    Raises:
        ValueError: for anything else, with file, row and column.
    """
    text = row[name]
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(
            f"{path}, {place}, column {name}: expected a whole number of at least 0, got "
            f"{text[:40]!r}"
        )
    return int(text)


def number_in(path: Path, row: Mapping[str, str], name: str, place: str) -> float:
    """The number in a cell; nan for an empty one.

    Raises:
        ValueError: for anything else, with file, row and column.
    """
    try:
        return float(row[name]) if row[name] else math.nan
    except ValueError as error:
        raise ValueError(
            f"{path}, {place}, column {name}: expected a number, got {row[name][:40]!r}"
        ) from error


def read_runs(path: Path) -> dict[tuple[str, int], list[dict[str, str]]]:
    """(method, seed) -> rows in the order of iterations, of a scenario's CSV; none without a file.

    Raises:
        ValueError: as :func:`read_rows`, for a missing key column, or keys that are none.
    """
    rows = read_rows(path)
    if rows and not set(KEYS) <= rows[0].keys():
        raise ValueError(
            f"{path} needs the columns method, seed and iteration, got {list(rows[0])[:5]} ..."
        )
    runs: dict[tuple[str, int], list[tuple[int, dict[str, str]]]] = {}
    for number, row in enumerate(rows, start=2):
        place = f"row {number}"
        seed, iteration = (whole_number(path, row, name, place) for name in ("seed", "iteration"))
        runs.setdefault((row["method"], seed), []).append((iteration, row))
    return {
        key: [row for _, row in sorted(found, key=lambda pair: pair[0])]
        for key, found in runs.items()
    }


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
    # The same bytes on every system.
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, path)


def as_text(row: Row) -> dict[str, str]:
    """A row as it is read back."""
    return {name: str(_cell(value)) for name, value in row.items()}


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value
