"""``RESULTS.md`` of the ablations, from their table alone; it regenerates to the byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reelrl.zoo.benchmark.report.statistics import (
    Floats,
    Interval,
    mean_interval,
    paired_difference,
)
from reelrl.zoo.benchmark.report.table import quoted
from reelrl.zoo.shipped.soli.ablation import (
    ABLATIONS,
    DIMENSIONS,
    HEAD,
    LOSS,
    SETTINGS,
    Row,
    read_table,
)
from reelrl.zoo.shipped.soli.fit_head import HELD_OUT

RESULTS = "RESULTS.md"
TITLES = {
    "heads": f"Heads, with the loss `{LOSS}`",
    "losses": f"Losses, with the head `{HEAD}`",
}
COLUMNS = {
    "id accuracy": ("id", "accuracy"),
    "ood accuracy": ("ood", "accuracy"),
    "id pairs": ("id", "pairwise"),
    "ood pairs": ("ood", "pairwise"),
    "id spread": ("id", "spread"),
    "ood spread": ("ood", "spread"),
}
"""Column -> split and value of the table."""

_TEXT = """# SoliReward on MovingShapes: heads and losses

A head on a frozen backbone, trained on Pass/Fail labels of single clips, {noise:.0%} of them
flipped; a clip passes where its gold axis reaches {thresholds}. Measured against the true labels of
clips that were not trained on: *id* of the same sources, *ood* under attacks that no training clip
of the head has seen (some of the backbone's own: see its card). Mean over seeds with Student's 95 %
interval; the intervals are over {seeds}, which decide initial weights, order, dropout and the
annotator's errors, not over backbones or clips. The {epochs} epochs were chosen on the held-out
clips of one seed, `phys`, with an earlier state of the backbone.

- **accuracy**: share of clips called right; the level that a Bradley-Terry score lacks is fitted on
  the training labels. Read it against *passes*, the share of clips that pass.
- **pairs**: share of (pass, fail) pairs in order.
- **spread**: standard deviation of the scores of passes over the standard deviation of all scores.
  Passes are equally good by their labels, so a lower spread leaves less that a group's
  normalisation could amplify.

{sections}

Settings are in `{settings}`. Make the numbers with
`reelrl train-reward --ablation all --results {folder}`, this page with `reelrl report {folder}`.
"""


def results_page(folder: Path) -> str:
    """The page of a results folder.

    Raises:
        ValueError: if the folder holds no table.
    """
    rows = read_table(folder)
    if not rows:
        raise ValueError(f"{folder} holds no rows of an ablation of reward models")
    facts = _facts(folder / SETTINGS)
    sections = [
        _section(rows, name, dimension)
        for name in ABLATIONS
        for dimension in DIMENSIONS
        if any(_values(rows, dimension, variant, "id", "accuracy") for variant in ABLATIONS[name])
    ]
    seeds = sorted({int(row["seed"]) for row in rows})
    return _TEXT.format(
        **facts,
        seeds=f"{len(seeds)} seeds",
        sections="\n\n".join(sections),
        settings=SETTINGS,
        folder=Path("zoo") / "results" / folder.name,
    )


def _facts(path: Path) -> dict[str, Any]:
    """The page's facts about the settings.

    Raises:
        ValueError: in one line that names the file, if it does not hold them.
    """
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))["config"]
        thresholds = {str(axis): float(value) for axis, value in found["thresholds"].items()}
        noise, epochs = float(found["noise"]), int(found["epochs"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r:.100}") from error
    texts = [f"{value:g} ({quoted(axis)})" for axis, value in thresholds.items()]
    return {"noise": noise, "epochs": epochs, "thresholds": ", ".join(texts)}


def report(folder: Path) -> list[Path]:
    """Write ``RESULTS.md`` beside the table, and return its path in a list."""
    path = folder / RESULTS
    path.write_text(results_page(folder), encoding="utf-8")
    return [path]


def _section(rows: Sequence[Row], name: str, dimension: str) -> str:
    reference = (HEAD, LOSS)
    label, kind = (0, "head") if name == "heads" else (1, "loss")
    header = [kind, "seeds", *COLUMNS]
    means, gaps = [header], [[header[0], *COLUMNS]]
    for variant in ABLATIONS[name]:
        found = {c: _values(rows, dimension, variant, *at) for c, at in COLUMNS.items()}
        if not found["id pairs"]:
            continue
        cells = [_interval(mean_interval(list(v.values()))) for v in found.values()]
        means.append([f"`{variant[label]}`", str(len(found["id pairs"])), *cells])
        if variant != reference:
            other = {c: _values(rows, dimension, reference, *at) for c, at in COLUMNS.items()}
            cells = [_difference(found[c], other[c]) for c in COLUMNS]
            gaps.append([f"`{variant[label]}` − `{reference[label]}`", *cells])
    passed = {split: _values(rows, dimension, reference, split, "passes") for split in HELD_OUT}
    shares = {split: np.mean(list(values.values())) for split, values in passed.items() if values}
    passes = ", ".join(f"{split} {share:.2f}" for split, share in shares.items())
    parts = [f"## {TITLES[name]}: `{dimension}`", f"Passes: {passes or 'not measured'}."]
    parts.append(_table(means))
    if len(gaps) > 1:
        parts.append(
            "Differences over paired seeds; **bold** where the interval leaves out zero, "
            "uncorrected for the number of cells:"
        )
        parts.append(_table(gaps))
    return "\n\n".join(parts)


def _values(
    rows: Sequence[Row], dimension: str, variant: tuple[str, str], split: str, value: str
) -> dict[int, float]:
    """Seed -> value of a cell."""
    return {
        int(row["seed"]): float(row[value])
        for row in rows
        if (row["dimension"], row["head"], row["loss"], row["split"])
        == (dimension, *variant, split)
    }


def _difference(first: dict[int, float], second: dict[int, float]) -> str:
    seeds = sorted(first.keys() & second.keys())
    x, y = (np.array([values[seed] for seed in seeds]) for values in (first, second))
    found: Interval = paired_difference(x, y)
    text = _interval(found, sign="+")
    decided = np.isfinite(found.low) and (found.low > 0 or found.high < 0)
    return f"**{text}**" if decided else text


def _interval(interval: Interval, sign: str = "") -> str:
    values: Floats = np.array([interval.estimate, interval.low, interval.high]) + 0.0
    if np.isnan(values[0]):
        return "-"
    shown = [format(0.0 if abs(v) < 5e-4 else v, f"{sign}.3f") for v in values]
    if not np.isfinite(values).all():
        return shown[0]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
