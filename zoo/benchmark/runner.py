"""``reelrl bench``: all runs of a suite over the cores of a machine.

A run is a folder; a finished one is never repeated, an interrupted one goes on from its last
checkpoint, and one that fails is reported and stops nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import reelrl
from reelrl.zoo.benchmark.best_of_n import best_of_n
from reelrl.zoo.benchmark.check import check
from reelrl.zoo.benchmark.design import Run, Suite
from reelrl.zoo.benchmark.report.reading import BEST_OF_N, read_rows
from reelrl.zoo.benchmark.run import execute, finished, progress_of
from reelrl.zoo.benchmark.store import Results, Row, write_rows

POLL = 1.0
"""Seconds between two looks at the progress of the runs."""
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
    """Run what is missing and write the results.

    Args:
        suite: what to run.
        out: folder of the runs.
        results: folder of the results; runs that are there with their present settings are done.
        jobs: processes at a time, one thread each; None is the number of cores.
        command: how this was started, for the record.
        progress: show bars.

    Returns:
        Runs that failed, with the reason.

    Raises:
        ValueError: before the first run, for a name or argument that is not known.
    """
    kept = Results(results, suite)
    missing = [run for run in suite.runs() if not kept.has(run)]
    failures: Failures = []
    facts = facts_of(command)
    workers = jobs or os.cpu_count() or 1

    def keep(run: Run) -> None:
        kept.add(run, out / run.path, facts)
        kept.describe(facts, failures)

    for run in [run for run in missing if finished(run, out / run.path)]:
        keep(run)
        missing.remove(run)
    check(suite, missing)
    if missing:
        failures += _Crew(suite, out, workers, progress).work(missing, keep)
    if suite.best_of:
        _baseline(suite, results, workers)
    kept.describe(facts, failures)
    return failures


class _Crew:
    """Processes that work off a list of runs."""

    def __init__(self, suite: Suite, out: Path, jobs: int, progress: bool) -> None:
        self.suite, self.out, self.jobs, self.progress = suite, out, jobs, progress

    def work(self, runs: Sequence[Run], keep: Any) -> Failures:
        """Do all runs; a dead process takes others of its pool with it, so those start again."""
        failures: Failures = []
        waiting = list(runs)
        tries = dict.fromkeys((run.path for run in runs), 0)
        with tqdm(
            total=sum(run.config.iterations for run in runs), disable=not self.progress, unit="it"
        ) as bar:
            while waiting:
                unfinished = self._round(waiting, keep, failures, bar)
                for run in unfinished:
                    tries[run.path] += 1
                waiting = [run for run in unfinished if tries[run.path] < ATTEMPTS]
                failures += [
                    (run, "its process died") for run in unfinished if tries[run.path] >= ATTEMPTS
                ]
        return failures

    def _round(self, runs: Sequence[Run], keep: Any, failures: Failures, bar: Any) -> list[Run]:
        """One pool; returns the runs that it did not live to finish."""
        # Not forked: a forked process inherits locks of torch's threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_single_thread)
        futures = {
            pool.submit(execute, run, self.out / run.path, self.suite.examined): run for run in runs
        }
        unfinished: list[Run] = []
        done: set[Future[Path]] = set()
        try:
            while len(done) < len(futures):
                time.sleep(POLL)
                for future in [f for f in futures if f.done() and f not in done]:
                    done.add(future)
                    self._settle(future, futures[future], keep, failures, unfinished)
                self._show(bar, list(futures.values()), failures)
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        pool.shutdown()
        return unfinished

    def _settle(
        self,
        future: Future[Path],
        run: Run,
        keep: Any,
        failures: Failures,
        unfinished: list[Run],
    ) -> None:
        error = future.exception()
        if error is None:
            keep(run)
        elif isinstance(error, BrokenProcessPool):
            unfinished.append(run)
        elif isinstance(error, KeyboardInterrupt):
            raise error
        else:
            failures.append((run, f"{type(error).__name__}: {error}"))
            tqdm.write(f"failed: {run.path}: {failures[-1][1]}")

    def _show(self, bar: Any, runs: Sequence[Run], failures: Failures) -> None:
        counts = [progress_of(run, self.out / run.path) for run in runs]
        bar.n = bar.total - sum(run.config.iterations for run in runs) + sum(counts)
        complete = sum(n == run.config.iterations for n, run in zip(counts, runs, strict=True))
        bar.set_postfix_str(f"{complete} of {len(runs)} runs, {len(failures)} failed")


def _single_thread() -> None:
    """One thread per process: the cores are busy with the other runs."""
    torch.set_num_threads(1)


def _baseline(suite: Suite, results: Path, jobs: int) -> None:
    """Best of n, for the seeds that are not there yet."""
    path = results / f"{BEST_OF_N}.csv"
    rows: list[Row] = list(read_rows(path))
    scenarios = set(suite.scenarios)
    have = {
        seed
        for seed in suite.seeds
        if scenarios <= {r["scenario"] for r in rows if int(r["seed"]) == seed}
    }
    wanted = [seed for seed in suite.seeds if seed not in have]
    rows = [row for row in rows if int(row["seed"]) in have]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_single_thread) as pool:
        for part in pool.map(best_of_n, [suite] * len(wanted), wanted):
            rows += part
            write_rows(path, rows)


def facts_of(command: str) -> dict[str, Any]:
    """Where and with what a benchmark is run."""
    return {
        "command": command,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "machine": f"{os.cpu_count()} cores ({_processor()}, "
        f"{torch.backends.cpu.get_cpu_capability()}), {platform.system()}, "
        f"torch {torch.__version__}",
        "versions": {
            "reelrl": reelrl.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _git(*words: str) -> str | None:
    here = Path(__file__).resolve().parent
    answer = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)
    return answer.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.is_file() else ())
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()
