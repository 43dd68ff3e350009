"""``reelrl bench``: all runs of a suite over the cores of a machine.

A run is a folder; a finished one is never repeated, an interrupted one goes on from its last
checkpoint, and one that fails is reported and stops nothing else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reelrl.algos.run.signals import Stopped
from reelrl.zoo.benchmark.best_of_n import best_of_n
from reelrl.zoo.benchmark.check import check
from reelrl.zoo.benchmark.design import Run, Suite
from reelrl.zoo.benchmark.place import facts_of
from reelrl.zoo.benchmark.progress import Progress
from reelrl.zoo.benchmark.run import execute
from reelrl.zoo.benchmark.store import Store, collect
from reelrl.zoo.benchmark.worker import finish, workers

POLL = 1.0
"""Seconds between two looks at the progress of the runs."""
COLLECT = 60.0
"""Seconds between two looks at finished runs. A killed benchmark loses none of them: their folders
are collected when it goes on."""
ATTEMPTS = 2
"""Times a run is started before the death of its process counts as its failure."""

Failures = list[tuple[Run, str]]


def bench(
    suite: Suite,
    out: Path,
    results: Path,
    *,
    jobs: int | None = None,
    command: str = "",
    progress: bool = True,
) -> Failures:
    """Make the missing runs and write the results.

    Args:
        suite: the runs to make.
        out: folder of the runs.
        results: folder of the results; runs that are there with their present settings are done.
        jobs: processes at a time, one thread each; None means the number of cores.
        command: how this was started, for the record.
        progress: show bars.

    Returns:
        Runs that failed, with the reason.

    Raises:
        ValueError: before the first run, for a name or argument that is not known.
    """
    store = Store(results, suite)
    failures: Failures = []
    facts = facts_of(command)
    jobs = jobs or os.cpu_count() or 1
    for line in store.damage.lines(results):
        print(f"{line}; it is measured again", file=sys.stderr)

    def keep() -> None:
        found = collect(store.missing(), out)
        if found:
            store.take(found, facts)
            store.describe(facts, failures)

    keep()
    missing = store.missing()
    check(suite, missing)
    if missing:
        try:
            _Crew(suite, out, jobs, progress).work(missing, _Seldom(keep), failures)
        finally:
            keep()
    if suite.best_of:
        _baseline(suite, store, jobs, lambda: store.describe(facts, failures))
    store.describe(facts, failures)
    return failures


class _Seldom:
    """Calls a function, but not again within :data:`COLLECT` seconds of the last time."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.last = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.last >= COLLECT:
            self.function()
            self.last = time.monotonic()


class _Crew:
    """Processes that work off a list of runs."""

    def __init__(self, suite: Suite, out: Path, jobs: int, progress: bool) -> None:
        self.suite, self.out, self.jobs, self.progress = suite, out, jobs, progress
        self.progress_of = Progress()

    def work(self, runs: Sequence[Run], keep: Callable[[], None], failures: Failures) -> None:
        """Do all runs; a dead process takes others of its pool with it, so those start again.

        Args:
            runs: to do.
            keep: called after each run that finishes.
            failures: gets the runs that fail.
        """
        waiting = list(runs)
        tries = dict.fromkeys((run.path for run in runs), 0)
        with tqdm(
            total=sum(run.config.iterations for run in runs),
            disable=not self.progress,
            unit="it",
            # A file keeps every line.
            mininterval=POLL if sys.stderr is not None and sys.stderr.isatty() else COLLECT,
        ) as bar:
            while waiting:
                unfinished = self._round(waiting, keep, failures, bar)
                for run in unfinished:
                    tries[run.path] += 1
                waiting = [run for run in unfinished if tries[run.path] < ATTEMPTS]
                failures += [
                    (run, "its process died") for run in unfinished if tries[run.path] >= ATTEMPTS
                ]

    def _round(
        self, runs: Sequence[Run], keep: Callable[[], None], failures: Failures, bar: Any
    ) -> list[Run]:
        """One pool; returns the runs that it did not live to finish."""
        unfinished: list[Run] = []
        done: set[Future[Path]] = set()
        examined = self.suite.examined
        with workers(self.jobs, self.suite.imports) as pool:
            futures = {
                pool.submit(finish, execute, run, self.out / run.path, examined): run
                for run in runs
            }
            while len(done) < len(futures):
                time.sleep(POLL)
                for future in [f for f in futures if f.done() and f not in done]:
                    done.add(future)
                    self._settle(future, futures[future], keep, failures, unfinished)
                self._show(bar, list(futures.values()), failures)
        return unfinished

    def _settle(
        self,
        future: Future[Path],
        run: Run,
        keep: Callable[[], None],
        failures: Failures,
        unfinished: list[Run],
    ) -> None:
        error = future.exception()
        if error is None:
            keep()
        elif isinstance(error, BrokenProcessPool):
            unfinished.append(run)
        elif isinstance(error, KeyboardInterrupt | Stopped):
            raise error
        else:
            failures.append((run, f"{type(error).__name__}: {error}"))
            tqdm.write(f"failed: {run.path}: {failures[-1][1]}")

    def _show(self, bar: Any, runs: Sequence[Run], failures: Failures) -> None:
        counts = [self.progress_of(run, self.out / run.path) for run in runs]
        reached = bar.total - sum(run.config.iterations for run in runs) + sum(counts)
        complete = sum(n == run.config.iterations for n, run in zip(counts, runs, strict=True))
        said = f"{complete} of {len(runs)} runs, {len(failures)} failed"
        bar.set_postfix_str(said, refresh=False)
        bar.update(reached - bar.n)


def _baseline(suite: Suite, store: Store, jobs: int, describe: Callable[[], None]) -> None:
    """Best of n, for the seeds that are not there yet."""
    rows = list(store.best_of_n)
    scenarios = set(suite.scenarios)
    have = {
        seed
        for seed in suite.seeds
        if scenarios <= {r["scenario"] for r in rows if int(r["seed"]) == seed}
    }
    wanted = [seed for seed in suite.seeds if seed not in have]
    rows = [row for row in rows if int(row["seed"]) in have]
    with workers(jobs, suite.imports) as pool:
        for part in pool.map(best_of_n, [suite] * len(wanted), wanted):
            rows += part
            store.keep_best_of_n(rows)
            describe()
