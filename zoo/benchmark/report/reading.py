"""A results folder as it was read: the expected runs, the present ones and the missing ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reelrl.zoo.benchmark.columns import (
    BEST_OF_N,
    DEFAULT_TRUTH,
    GOLD_AXES,
    OPEN,
    SPLITS,
    SUITE,
    eval_column,
    number_in,
    read_rows,
    read_runs,
    whole_number,
)
from reelrl.zoo.benchmark.names import check_name
from reelrl.zoo.benchmark.report.statistics import Floats
from reelrl.zoo.benchmark.seals import Damage, find_damage, read_facts

JUDGED = SPLITS[::-1]
"""Splits, unseen prompts first: the first that was measured is judged."""


@dataclass(frozen=True)
class RecordedRun:
    """One (scenario, method, seed).

    Attributes:
        method: name.
        seed: number.
        columns: of the CSV, one row per iteration, nan where not measured.
        axes: of the truth, the score first.
    """

    method: str
    seed: int
    columns: Mapping[str, Floats]
    axes: tuple[str, ...] = GOLD_AXES

    def column(self, name: str) -> Floats:
        """A metric over iterations; all nan if it was never logged."""
        missing = np.full(len(self.columns["iteration"]), np.nan)
        return self.columns.get(name, missing)

    def evaluations(self) -> NDArray[np.intp]:
        """Rows at which the policy was evaluated on any split."""
        gold = [self.column(eval_column(split, self.axes[0])) for split in SPLITS]
        return np.flatnonzero(np.isfinite(gold).any(0))

    def evaluated(self, name: str) -> Floats:
        """A metric at the evaluated iterations."""
        return self.column(name)[self.evaluations()]

    def gold(self, split: str) -> Floats:
        """The truth's score at the evaluated iterations."""
        return self.evaluated(eval_column(split, self.axes[0]))

    def gold_std(self, split: str) -> Floats:
        """Standard deviation of the truth's score over clips, at the evaluated iterations."""
        return self.evaluated(eval_column(split, f"std_{self.axes[0]}"))

    def kl(self) -> Floats:
        """KL to the base model at the evaluated iterations; the base model's own is 0."""
        values = self.evaluated("kl").copy()
        if len(values) and self.evaluated("iteration")[0] == 0 and np.isnan(values[0]):
            values[0] = 0.0
        return values

    def diversity(self, name: str) -> Floats:
        """A diversity at the evaluated iterations, of the first split that has it."""
        columns = [self.evaluated(eval_column(split, name)) for split in (OPEN, *JUDGED)]
        return next((c for c in columns if np.isfinite(c).any()), columns[0])


@dataclass(frozen=True)
class RecordedScenario:
    """One reward configuration and its runs.

    Attributes:
        name: also the stem of its CSV.
        meta: its entry in ``suite.json``.
        runs: finished ones by (method, seed).
        unfinished: (method, seed) of runs that stop before the last evaluation.
        absent: (method, seed) asked for and not there.
    """

    name: str
    meta: Mapping[str, Any]
    runs: Mapping[tuple[str, int], RecordedRun]
    unfinished: tuple[tuple[str, int], ...]
    absent: tuple[tuple[str, int], ...]

    @property
    def title(self) -> str:
        """For people."""
        return str(self.meta.get("title") or self.name)

    @property
    def rewards(self) -> list[str]:
        """Names of the trained components, as evaluated; taken from the metrics if not declared."""
        found = {
            name.removeprefix("influence/").removeprefix("reward/")
            for run in self.runs.values()
            for name in run.columns
            if name.startswith(("influence/", "reward/"))
        }
        declared = [str(r) for r in self.meta.get("rewards", [])]
        return [r for r in declared if r in found] or sorted(found)

    def methods(self) -> list[str]:
        """Methods with a finished run."""
        return list(dict.fromkeys(method for method, _ in self.runs))


@dataclass(frozen=True)
class RecordedSuite:
    """All of a results folder.

    Attributes:
        folder: where it was read.
        meta: ``suite.json``.
        scenarios: in the order of ``suite.json``, unlisted ones behind.
        methods: in the order of ``suite.json``, unlisted ones behind.
        seeds: sorted.
        best_of_n: rows of the baseline without training, as text.
        damage: of the files that were read; damaged rows are in no other attribute.
    """

    folder: Path
    meta: Mapping[str, Any]
    scenarios: tuple[RecordedScenario, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    best_of_n: tuple[Mapping[str, str], ...]
    damage: Damage = field(default_factory=Damage)

    @property
    def name(self) -> str:
        """Name of the preset."""
        return str(self.meta.get("suite") or self.folder.name)

    @property
    def truth(self) -> str:
        """Name of the truth that was measured."""
        spec = self.meta.get("truth", {}).get("spec", DEFAULT_TRUTH)
        return str(spec if isinstance(spec, str) else spec["name"])

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of that truth, the score first."""
        return _axes(self.meta)

    @property
    def margin(self) -> float:
        """Differences of GOLD up to this are no difference; registered before the runs."""
        return float(self.meta.get("margin", 0.05))

    @property
    def baseline(self) -> str:
        """The method the others are compared with."""
        return str(self.meta.get("baseline") or "grpo")

    @property
    def control(self) -> str:
        """The method that cannot learn."""
        return str(self.meta.get("control") or "random_sign")

    @property
    def claims(self) -> bool:
        """Whether claims of the literature are tested; results from before one could choose do."""
        return bool(self.meta.get("claims", True))

    def scenario(self, name: str) -> RecordedScenario | None:
        """A scenario by name."""
        return next((s for s in self.scenarios if s.name == name), None)

    def missing(self) -> dict[tuple[str, str, int], str]:
        """(scenario, method, seed) that was asked for and is not in the numbers -> why."""
        found: dict[tuple[str, str, int], str] = {}
        for scenario in self.scenarios:
            found |= {(scenario.name, *key): "unfinished" for key in scenario.unfinished}
            found |= {(scenario.name, *key): "not run" for key in scenario.absent}
        for failure in self.meta.get("failed") or []:
            key = str(failure["scenario"]), str(failure["method"]), int(failure["seed"])
            found[key] = f"failed: {failure.get('error', 'no message')}"
        for path, why in self.damage.runs.items():
            name, method, seed = path.split("/")
            found[name, method, int(seed.removeprefix("seed_"))] = f"damaged: {why}"
        return found


def _axes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(meta.get("truth", {}).get("axes", GOLD_AXES))


def _place(row: Mapping[str, str]) -> str:
    return f"{row['method']} seed {row['seed']} iteration {row['iteration']}"


def recorded_runs(
    path: Path, axes: tuple[str, ...] = GOLD_AXES
) -> dict[tuple[str, int], RecordedRun]:
    """Runs of a tidy CSV with columns method, seed, iteration and metrics.

    Args:
        path: the CSV.
        axes: of the truth, the score first.

    Raises:
        ValueError: in one line with the file and the place, for whatever is no such table.
    """
    runs = {}
    for (method, seed), group in sorted(read_runs(path).items()):
        check_name(method, f"{path}, column method")
        names = [name for name in group[0] if name not in ("method", "seed")]
        columns = {
            name: np.array([number_in(path, row, name, _place(row)) for row in group])
            for name in names
        }
        runs[method, seed] = RecordedRun(method, seed, columns, axes)
    return runs


def _finished(run: RecordedRun, iterations: float) -> bool:
    """Whether the last evaluation is at the end; numbering may start at 0 or 1."""
    rows = run.evaluations()
    return bool(len(rows)) and run.columns["iteration"][rows[-1]] >= iterations - 1


def _scenario(
    folder: Path, name: str, meta: Mapping[str, Any], suite: Mapping[str, Any], damage: Damage
) -> RecordedScenario:
    kept = {tuple(path.split("/")) for path in suite.get("runs", {}) if path not in damage.runs}
    # A file of which nothing is believed need not even be a table.
    readable = "runs" not in suite or any(scenario == name for scenario, *_ in kept)
    found = recorded_runs(folder / f"{name}.csv", _axes(suite)) if readable else {}
    if "runs" in suite:  # rows of a run that is not there are of other settings
        found = {(m, s): r for (m, s), r in found.items() if (name, m, f"seed_{s}") in kept}
    order = list(dict.fromkeys([*suite.get("methods", {}), *sorted({m for m, _ in found})]))
    longest = max((run.columns["iteration"][-1] for run in found.values()), default=0)
    iterations = float(meta.get("iterations") or suite.get("iterations") or longest)
    done = {key: run for key, run in found.items() if _finished(run, iterations)}
    asked = [(m, int(s)) for m in meta.get("methods", []) for s in suite.get("seeds", [])]
    keys = sorted(done, key=lambda key: (order.index(key[0]), key[1]))
    return RecordedScenario(
        name,
        meta,
        {key: done[key] for key in keys},
        tuple(sorted(set(found) - set(done))),
        tuple(key for key in asked if key not in found),
    )


def read_results(folder: Path) -> RecordedSuite:
    """Read a results folder; whatever is missing or damaged is listed, not an error.

    Raises:
        ValueError: if there is no ``suite.json``, it is damaged, or there is no sound run.
    """
    if not (folder / SUITE).exists():
        raise ValueError(f"{folder} is no results folder: it has no {SUITE}")
    meta = read_facts(folder)
    damage = find_damage(folder, meta)
    listed = meta.get("scenarios", {})
    stems = sorted(p.stem for p in folder.glob("*.csv") if p.stem != BEST_OF_N)
    names = list(dict.fromkeys([*listed, *stems]))
    scenarios = tuple(_scenario(folder, name, listed.get(name, {}), meta, damage) for name in names)
    runs = [run for s in scenarios for run in s.runs.values()]
    if not runs:
        what = "; ".join(damage.lines(folder)[:3]) or f"{folder} holds no finished run"
        raise ValueError(what)
    present = {run.method for run in runs}
    methods = dict.fromkeys([*(m for m in meta.get("methods", {}) if m in present)])
    return RecordedSuite(
        folder,
        meta,
        scenarios,
        tuple(dict.fromkeys([*methods, *sorted(present)])),
        tuple(sorted({run.seed for run in runs})),
        () if damage.best_of_n else _best_of_n(folder / f"{BEST_OF_N}.csv", _axes(meta)),
        damage,
    )


def _best_of_n(path: Path, axes: tuple[str, ...]) -> tuple[Mapping[str, str], ...]:
    """Rows of the baseline without training, of which every number is one."""
    rows = read_rows(path)
    for number, row in enumerate(rows, start=2):
        for name in ("scenario", "split", "seed", "n", "kl", "proxy", axes[0]):
            if name not in row:
                raise ValueError(f"{path} needs the column {name}, got {list(row)}")
        for name in ("seed", "n"):
            whole_number(path, row, name, f"row {number}")
        for name in ("kl", "proxy", axes[0]):
            number_in(path, row, name, f"row {number}")
    return tuple(rows)
