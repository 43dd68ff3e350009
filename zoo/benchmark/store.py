"""Results of a benchmark: tidy CSV files and one JSON file, small enough to be committed.

``<scenario>.csv`` has one row per method, seed and iteration; the last iteration is a measurement
of the finished policy. A cell is empty where nothing was measured.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reelrl.algos.run.runlog import read_metrics
from reelrl.rewards.spec import build_reward
from reelrl.zoo.benchmark.design import Run, Suite
from reelrl.zoo.benchmark.report.reading import SUITE, read_rows
from reelrl.zoo.benchmark.run import CLIPS

KEYS = ("method", "seed", "iteration")
DIGITS = 5
RENAMED = {
    "train/clip_fraction": "clip_fraction",
    "train/grad_norm": "grad_norm",
    "health/skipped_updates": "skipped",
}
"""Column of ``metrics.jsonl`` -> column of the results."""

Row = dict[str, Any]


def columns_of(run: Run, folder: Path) -> list[Row]:
    """The rows of a run from what its folder holds."""
    clips = run.config.learner.prompts_per_iteration * run.config.learner.group_size
    rows, wall = [], 0.0
    for metrics in read_metrics(folder):
        # Before the update of this iteration: what it took to get here.
        row: Row = {
            "method": run.method,
            "seed": run.seed,
            "iteration": metrics["iteration"],
            "wall_s": wall,
            "reward_calls": metrics["iteration"] * clips,
        }
        wall += sum(metrics.get(f"time/{part}", 0.0) for part in ("rollout", "estimate", "update"))
        row |= {renamed(key): value for key, value in metrics.items() if renamed(key)}
        rows.append(row)
    return rows


def renamed(key: str) -> str:
    """Column of a metric, empty if it is none."""
    if key.startswith("watch/"):
        return key.removeprefix("watch/")
    if key.startswith("eval/"):
        return key.replace("eval/", "eval_", 1)
    if key.startswith("advantage/influence/"):
        return key.removeprefix("advantage/")
    if key.startswith("reward/") and key.count("/") == 1:
        return key
    return RENAMED.get(key, "")


class Results:
    """The folder of results.

    Args:
        folder: made if it does not exist.
        suite: what they are of.
    """

    def __init__(self, folder: Path, suite: Suite) -> None:
        self.folder, self.suite = folder, suite
        path = folder / SUITE
        self.facts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        examined = asdict(suite.examined)
        if self.facts.get("examined", examined) != examined:
            self.facts["runs"] = {}  # read from other clips, they compare with nothing from now on

    def has(self, run: Run) -> bool:
        """True if these are results of that run, with the settings it has now."""
        return self.facts.get("runs", {}).get(str(run.path), {}).get("digest") == run.digest

    def add(self, run: Run, folder: Path, facts: Mapping[str, Any]) -> None:
        """Take over the rows and clips of a finished run.

        Args:
            run: which.
            folder: its own.
            facts: ``commit`` and ``machine`` are remembered with it: a benchmark that is killed and
                goes on may do so elsewhere.
        """
        path = self.folder / f"{run.scenario}.csv"
        mine = columns_of(run, folder)
        others = [
            row for row in read_rows(path)
            if (row["method"], int(row["seed"])) != (run.method, run.seed)
        ]  # fmt: skip
        order = {name: place for place, name in enumerate(self.suite.methods)}
        rows = sorted(
            [*others, *mine],
            key=lambda r: (order.get(r["method"], len(order)), r["method"], int(r["seed"]),
                           int(r["iteration"])),
        )  # fmt: skip
        write_rows(path, rows)
        if run.seed == self.suite.seeds[0]:
            clips = self.folder / "clips" / run.scenario
            clips.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / CLIPS["after"], clips / f"{run.method}.gif")
            shutil.copyfile(folder / CLIPS["base"], clips.parent / "base.gif")
        self.facts.setdefault("runs", {})[str(run.path)] = {
            "digest": run.digest,
            "commit": facts.get("commit"),
            "machine": facts.get("machine"),
        }

    def describe(self, facts: Mapping[str, Any], failed: Iterable[tuple[Run, str]]) -> None:
        """Write what was run, where, and what failed."""
        suite = self.suite
        described = {
            "suite": suite.name,
            "title": suite.title,
            **facts,
            "margin": suite.margin,
            "baseline": suite.baseline,
            "control": suite.control,
            "iterations": suite.iterations,
            "seeds": list(suite.seeds),
            "base": suite.base,
            "examined": asdict(suite.examined),
            "scenarios": {
                name: {**asdict(scenario), "rewards": self._reward_names(name),
                       "methods": list(scenario.methods)}
                for name, scenario in suite.scenarios.items()
            },
            "methods": {
                name: {"estimator": method.estimator or name, "set": method.set}
                for name, method in suite.methods.items()
            },
            "failed": [
                {"scenario": run.scenario, "method": run.method, "seed": run.seed, "error": error}
                for run, error in failed
            ],
            "runs": dict(sorted(self.facts.get("runs", {}).items())),
        }  # fmt: skip
        self.facts = described
        _write(self.folder / SUITE, json.dumps(described, indent=1) + "\n")

    def _reward_names(self, scenario: str) -> list[str]:
        return [build_reward(spec).name for spec in self.suite.scenarios[scenario].rewards]


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows with the union of their columns: keys first, the others in alphabetical order."""
    keys = [key for key in KEYS if any(key in row for row in rows)]
    names = [*keys, *sorted({name for row in rows for name in row} - set(keys))]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    _write(path, text.getvalue())


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value


def _write(path: Path, text: str) -> None:
    """Replace a file in one step: a kill in between costs nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
