"""The results of a benchmark, collected from the folders of its runs and small enough to commit.

:func:`collect` reads run folders and writes nothing. :class:`Store` merges new runs with the runs
that the results folder has already, so runs that were made elsewhere stay.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reelrl.algos.run.runlog import read_metrics
from reelrl.rewards.spec import build_reward
from reelrl.zoo.benchmark.columns import (
    BEST_OF_N,
    DEFAULT_TRUTH,
    SUITE,
    Row,
    as_text,
    read_rows,
    read_runs,
    renamed,
    write_rows,
    write_text,
)
from reelrl.zoo.benchmark.design import Run, Suite
from reelrl.zoo.benchmark.run import CLIPS, finished, read_done
from reelrl.zoo.benchmark.seals import find_damage, read_facts, seal_of, sealed
from reelrl.zoo.benchmark.truth import TruthSpec, build_truth


@dataclass(frozen=True)
class Finished:
    """The content of a finished run's folder.

    Attributes:
        run: which.
        folder: its own.
        rows: of the results, one per iteration.
        place: ``commit`` and ``machine`` it was made with; empty if the folder does not tell.
    """

    run: Run
    folder: Path
    rows: tuple[Row, ...]
    place: Mapping[str, Any]


def collect(runs: Iterable[Run], out: Path) -> list[Finished]:
    """The finished ones of some runs, read from their folders; nothing is written.

    Args:
        runs: to look for.
        out: folder of the run folders.
    """
    found = []
    for run in runs:
        folder = out / run.path
        done = read_done(folder)
        if finished(run, folder):
            place: dict[str, Any] = {key: done[key] for key in ("commit", "machine") if key in done}
            found.append(Finished(run, folder, tuple(rows_of(run, folder)), place))
    return found


def rows_of(run: Run, folder: Path) -> list[Row]:
    """The rows of a run, read from its folder's content."""
    clips = run.config.learner.prompts_per_iteration * run.config.learner.group_size
    rows, wall = [], 0.0
    for metrics in read_metrics(folder):
        # Before the update of this iteration: the cost so far.
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


class Store:
    """A folder of results.

    Args:
        folder: made by the first write.
        suite: the suite of the results.

    Attributes:
        best_of_n: rows of the baseline that trains nothing, as they were found; none of another
            truth, and none if they are damaged.
        damage: of the folder as it was found. The runs of it count as missing.

    Raises:
        ValueError: if ``suite.json`` is damaged.
    """

    def __init__(self, folder: Path, suite: Suite) -> None:
        self.folder, self.suite = folder, suite
        self.facts: dict[str, Any] = read_facts(folder) if (folder / SUITE).is_file() else {}
        self.damage = find_damage(folder, self.facts)
        examined = asdict(suite.examined)
        same_truth = not self.facts or self._truth() == suite.truth
        if not same_truth or self.facts.get("examined", examined) != examined:
            self.facts["runs"] = {}  # read from other clips, they compare with nothing from now on
        sound = same_truth and not self.damage.best_of_n
        self.best_of_n = tuple(read_rows(folder / f"{BEST_OF_N}.csv")) if sound else ()
        for path in self.damage.runs:
            self.facts["runs"].pop(path, None)

    def _truth(self) -> TruthSpec:
        """The truth of the results that are here."""
        spec: TruthSpec = self.facts.get("truth", {}).get("spec", DEFAULT_TRUTH)
        return spec

    def has(self, run: Run) -> bool:
        """True if these are results of that run, with the settings it has now."""
        digest: str | None = self.facts.get("runs", {}).get(str(run.path), {}).get("digest")
        return digest == run.digest

    def missing(self) -> list[Run]:
        """Runs of the suite that are not here, or with other settings."""
        return [run for run in self.suite.runs() if not self.has(run)]

    def take(self, finished: Sequence[Finished], here: Mapping[str, Any]) -> None:
        """Take over the rows and clips of finished runs; each scenario's file is written once.

        Args:
            finished: from :func:`collect`.
            here: ``commit`` and ``machine`` of runs whose folders do not tell. They are remembered
                run by run: a benchmark that is killed and goes on may do so elsewhere.
        """
        seals = {str(found.run.path): seal_of(map(as_text, found.rows)) for found in finished}
        for scenario in dict.fromkeys(found.run.scenario for found in finished):
            self._merge(scenario, [found for found in finished if found.run.scenario == scenario])
        for found in finished:
            run = found.run
            if run.seed == self.suite.seeds[0]:
                clips = self.folder / "clips" / run.scenario
                clips.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found.folder / CLIPS["after"], clips / f"{run.method}.gif")
                shutil.copyfile(found.folder / CLIPS["base"], clips.parent / "base.gif")
            place = found.place or here
            self.facts.setdefault("runs", {})[str(run.path)] = {
                "digest": run.digest,
                "commit": place.get("commit"),
                "machine": place.get("machine"),
                **seals[str(run.path)],
            }

    def _merge(self, scenario: str, finished: Sequence[Finished]) -> None:
        """Put the rows of runs of one scenario in the place of the rows they had before."""
        path = self.folder / f"{scenario}.csv"
        mine = {(found.run.method, found.run.seed) for found in finished}
        try:
            kept = read_runs(path)
        except ValueError:
            kept = {}  # all its runs are damaged, and measured again
        rows: list[Row] = [row for key, run in kept.items() if key not in mine for row in run]
        rows += [row for found in finished for row in found.rows]
        order = {name: place for place, name in enumerate(self.suite.methods)}
        rows.sort(
            key=lambda r: (order.get(r["method"], len(order)), r["method"], int(r["seed"]),
                           int(r["iteration"])),
        )  # fmt: skip
        write_rows(path, rows)

    def describe(self, facts: Mapping[str, Any], failed: Iterable[tuple[Run, str]]) -> None:
        """Write which runs were made, where, and which failed."""
        suite = self.suite
        described = {
            "suite": suite.name,
            "title": suite.title,
            **facts,
            "margin": suite.margin,
            "baseline": suite.baseline,
            "control": suite.control,
            "claims": suite.claims,
            "iterations": suite.iterations,
            "seeds": list(suite.seeds),
            "base": suite.base,
            "examined": asdict(suite.examined),
            "truth": {"spec": suite.truth, "axes": list(build_truth(suite.truth).axes)},
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
            BEST_OF_N: seal_of(map(as_text, self.best_of_n)),
        }  # fmt: skip
        if suite.imports:
            # Of a file the name: its folder is another one elsewhere.
            described["imports"] = [
                Path(name).name if name.endswith(".py") else name for name in suite.imports
            ]
        self.facts = sealed(described)
        write_text(self.folder / SUITE, json.dumps(self.facts, indent=1) + "\n")

    def keep_best_of_n(self, rows: Sequence[Row]) -> None:
        """Write the rows of the baseline that trains nothing; :meth:`describe` seals them."""
        self.best_of_n = tuple(rows)
        write_rows(self.folder / f"{BEST_OF_N}.csv", rows)

    def _reward_names(self, scenario: str) -> list[str]:
        return [build_reward(spec).name for spec in self.suite.scenarios[scenario].rewards]
