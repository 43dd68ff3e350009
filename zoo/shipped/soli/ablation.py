"""Heads and losses against each other, over seeds: ``reelrl train-reward --ablation all``.

Every (dimension, head, loss, seed) is a training run of its own folder and one row per held-out
split in a table; rows that are there with the same settings are never made again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from reelrl.rewards.soli.heads import HEADS
from reelrl.zoo.benchmark.columns import number_in, read_rows, whole_number
from reelrl.zoo.shipped.soli.config import Dimension, RewardModelConfig
from reelrl.zoo.shipped.soli.fit_head import (
    CACHE,
    HELD_OUT,
    Report,
    load_splits,
    train_reward_model,
)

TABLE, SETTINGS = "ablation.csv", "settings.json"
KEYS = ("dimension", "head", "loss", "seed", "split")
VALUES = ("clips", "passes", "accuracy", "pairwise", "spread", "spread_raw", "gap")
DIGITS = 5
HEAD, LOSS = "hpqa", "paper"
"""The setting that is held fixed while the other varies."""
ABLATIONS = {
    "heads": [(head, LOSS) for head in HEADS],
    "losses": [(HEAD, loss) for loss in ("bt", "paper", "code", "btt")],
}
"""Ablation -> its variants, (head, loss)."""
DIMENSIONS: tuple[str, ...] = get_args(Dimension)

Row = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """The compared settings.

    Attributes:
        names: of :data:`ABLATIONS`.
        seeds: of the runs, paired over variants.
        dimensions: gold axes.
    """

    names: tuple[str, ...] = tuple(ABLATIONS)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    dimensions: tuple[str, ...] = DIMENSIONS

    def runs(self, config: RewardModelConfig) -> Iterator[RewardModelConfig]:
        """Settings of all runs, each once, seed by seed, so that one cut short has every cell."""
        variants = dict.fromkeys(pair for name in self.names for pair in ABLATIONS[name])
        for seed in self.seeds:
            for dimension in self.dimensions:
                for head, loss in variants:
                    chosen: dict[str, Any] = {"dimension": dimension, "head": head, "loss": loss}
                    yield replace(config, seed=seed, **chosen)


def run_ablation(
    config: RewardModelConfig,
    plan: Plan,
    out: Path,
    results: Path,
    *,
    cache: Path = CACHE,
    report: Report = print,
) -> int:
    """Make the missing runs of a plan.

    Args:
        config: settings of all runs; dimension, head, loss and seed are the plan's.
        plan: the compared settings.
        out: folder of the runs.
        results: folder of the table.
        cache: of clips and hidden states.
        report: gets lines of progress.

    Returns:
        How many runs were made.
    """
    done = {tuple(row[key] for key in KEYS): row["digest"] for row in read_table(results)}
    missing = [run for run in plan.runs(config) if not _has(done, run)]
    results.mkdir(parents=True, exist_ok=True)
    _write_settings(results, config, plan)
    loaded: tuple[str, Any] = ("", None)
    for number, run in enumerate(missing):
        if loaded[0] != run.dimension:
            # The question depends on the dimension, and with it the hidden states.
            loaded = run.dimension, load_splits(run, cache, report)
        result = train_reward_model(
            run, out / run.name, splits=loaded[1], cache=cache, report=report
        )
        add_rows(results, [row_of(run, split, result) for split in HELD_OUT])
        said = ", ".join(f"{split} {result[split]['pairwise']:.3f}" for split in HELD_OUT)
        report(f"{number + 1}/{len(missing)} {run.name}: pairs in order {said}")
    return len(missing)


def _has(done: dict[tuple[str, ...], str], run: RewardModelConfig) -> bool:
    keys = [(run.dimension, run.head, run.loss, str(run.seed), split) for split in HELD_OUT]
    return all(done.get(key) == run.digest for key in keys)


def row_of(run: RewardModelConfig, split: str, result: dict[str, Any]) -> Row:
    """A row of the table."""
    keys = zip(KEYS, (run.dimension, run.head, run.loss, str(run.seed), split), strict=True)
    values = {name: f"{result[split][name]:.{DIGITS}g}" for name in VALUES}
    return {**dict(keys), **values, "digest": run.digest}


def read_table(folder: Path) -> list[Row]:
    """Rows of a folder's table; none if there is no table.

    Raises:
        ValueError: in one line with file and row, if it is no such table.
    """
    path = folder / TABLE
    rows = read_rows(path)
    for number, row in enumerate(rows, start=2):
        if missing := {*KEYS, *VALUES, "digest"} - row.keys():
            raise ValueError(f"{path} needs the column {min(missing)}, got {list(row)[:5]} ...")
        whole_number(path, row, "seed", f"row {number}")
        for name in VALUES:
            number_in(path, row, name, f"row {number}")
    return rows


def add_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Put rows into the table in place of the rows with the same keys; it is replaced whole."""
    table = {tuple(row[key] for key in KEYS): row for row in [*read_table(folder), *rows]}
    text = io.StringIO()
    writer = csv.DictWriter(text, [*KEYS, *VALUES, "digest"], lineterminator="\n")
    writer.writeheader()
    ordered = sorted(table.values(), key=_place)
    writer.writerows(ordered)
    temporary = folder / f".{TABLE}"
    temporary.write_text(text.getvalue(), encoding="utf-8")
    os.replace(temporary, folder / TABLE)


def _place(row: Row) -> tuple[str, str, str, int, str]:
    """Order of the rows; seeds are numbers, 10 comes after 9."""
    return row["dimension"], row["head"], row["loss"], int(row["seed"]), row["split"]


def _write_settings(folder: Path, config: RewardModelConfig, plan: Plan) -> None:
    """The page's facts about the runs; settings that vary over them are left out."""
    varied = ("dimension", "head", "loss", "seed", "backbone")
    facts = {key: value for key, value in config.plain().items() if key not in varied}
    text = json.dumps({"config": facts, "seeds": plan.seeds}, indent=1)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")
