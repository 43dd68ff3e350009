"""Plants faults, one at a time, and asks the tests whether they notice: a test of the tests.

```
python tests/faults.py                    # all of them
python tests/faults.py --only learners    # only faults whose group, name or path matches
```

The faults are in ``faults.toml``. Each is planted in a copy of the sources in a temporary folder;
the checkout is only read. A fault is killed if a test that is named beside it fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".toml")
FLOORS = ("rewards", "envs", "algos", "zoo")
HEAVY = ("checkpoints", "results")
"""Folders that hold no source: the copy has links to them."""
LIMIT = 600
"""Seconds after which a fault counts as killed: the tests wait for something for ever."""
PASSED, FAILED, INTERRUPTED = 0, 1, 2
"""Exit codes of pytest; a file that cannot be imported interrupts it."""


@dataclass(frozen=True)
class Fault:
    """A slip in one place.

    Attributes:
        group: of the table.
        name: says in a sentence how the library behaves with it.
        path: of the file, from the root of the repository.
        old: text that occurs exactly once in the file.
        new: text in its place.
        tests: files, folders or test ids that ought to notice.
    """

    group: str
    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted_in(self, text: str) -> str:
        """The text with the fault in it.

        Raises:
            ValueError: unless ``old`` occurs exactly once.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"fault {self.name!r} expects its text once in {self.path}, found it {count} times:"
                f"\n{self.old}"
            )
        return text.replace(self.old, self.new)


def read_faults(path: Path = LIST) -> list[Fault]:
    """The faults of a list."""
    rooms = tomllib.loads(path.read_text())["room"]
    return [
        Fault(
            room["group"],
            fault["name"],
            room["path"],
            fault["old"],
            fault["new"],
            tuple(fault.get("tests", room["tests"])),
        )
        for room in rooms
        for fault in room["fault"]
    ]


# Libraries are imported once, by a process that every run of the tests is a fork of.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch", "pytest", "hypothesis", "gymnasium", "scipy.stats", "diffusers", "transformers"]
)


def _run_tests(sources: Path, said: Path, tests: Sequence[str]) -> None:
    """In a process of its own: run tests on the sources, and leave what they print."""
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.chdir(ROOT)
    # By both: tests start processes of their own.
    os.environ |= {"PYTHONPATH": str(sources), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(sources))
    import pytest

    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    sys.exit(int(pytest.main([*options, *tests])))


class Copy:
    """The sources, laid out as an importable package in a folder of their own.

    Args:
        folder: gets ``reelrl/envs`` and so on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "reelrl", folder / "reelrl", ignore=_not_cache)
        for floor in FLOORS:
            target = folder / "reelrl" / floor
            shutil.copytree(ROOT / floor, target, ignore=_not_heavy)
            for heavy in HEAVY:
                if (ROOT / floor / heavy).is_dir():
                    (target / heavy).symlink_to(ROOT / floor / heavy)

    def place(self, path: str) -> Path:
        """Where a file of the repository is in the copy."""
        package = self.folder / "reelrl"
        return package / path if path.split("/")[0] in FLOORS else self.folder / path

    def notices(self, fault: Fault) -> bool:
        """True if the tests fail with the fault planted; the copy is whole again afterwards.

        Raises:
            ValueError: unless the text occurs exactly once.
            RuntimeError: if the tests cannot be run.
        """
        file = self.place(fault.path)
        whole = file.read_text()
        try:
            self._write(file, fault.planted_in(whole))
            return bool(self.complaint(fault.tests))
        finally:
            self._write(file, whole)

    def complaint(self, tests: Sequence[str]) -> str:
        """What some tests say of the copy as it is; empty if they pass.

        Raises:
            RuntimeError: if there are no such tests.
        """
        said = self.folder / "said.txt"
        process = SERVER.Process(target=_run_tests, args=(self.folder, said, tuple(tests)))
        process.start()
        process.join(LIMIT)
        if process.exitcode is None:
            process.kill()
            return f"no answer within {LIMIT} s"
        if process.exitcode < 0 or process.exitcode in (FAILED, INTERRUPTED):
            return f"exit code {process.exitcode}\n{said.read_text()}"
        if process.exitcode != PASSED:
            raise RuntimeError(f"pytest on {' '.join(tests)} failed:\n{said.read_text()}")
        return ""

    @staticmethod
    def _write(file: Path, text: str) -> None:
        file.write_text(text)
        # Bytecode is told to be stale by size and second, and a fault may have both in common.
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            compiled.unlink()


def _not_cache(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def _not_heavy(folder: str, names: list[str]) -> list[str]:
    heavy = HEAVY if Path(folder).parent == ROOT else ()
    return [name for name in names if name == "__pycache__" or name in heavy]


def noticed(faults: Sequence[Fault], jobs: int = 2) -> Iterator[tuple[Fault, bool]]:
    """Each fault, and whether its tests notice it.

    Args:
        faults: to be planted.
        jobs: how many at a time, each in a copy of its own.

    Raises:
        RuntimeError: if the tests fail without any fault, so that nothing could be told.
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ThreadPoolExecutor(jobs) as pool:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for job in range(jobs):
            copies.put(Copy(Path(folder) / str(job)))

        def on_a_copy(ask: Callable[[Copy], T]) -> T:
            copy = copies.get()
            try:
                return ask(copy)
            finally:
                copies.put(copy)

        asked = sorted({test for fault in faults for test in fault.tests})
        parts = [part for job in range(jobs) if (part := asked[job::jobs])]
        for said in pool.map(lambda part: on_a_copy(lambda copy: copy.complaint(part)), parts):
            if said:
                raise RuntimeError(f"the tests fail without any fault: mend them first\n{said}")
        dead = pool.map(lambda fault: on_a_copy(lambda copy: copy.notices(fault)), faults)
        yield from zip(faults, dead, strict=True)


def table(faults: Iterable[Fault], dead: dict[str, bool]) -> str:
    """Planted and killed by group, and the survivors by name."""
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.group, []).append(fault)
    every = [fault for members in groups.values() for fault in members]
    lines = [f"{'group':<14}{'planted':>9}{'killed':>9}{'rate':>8}"]
    for group, members in [*groups.items(), ("all", every)]:
        killed = sum(dead[fault.name] for fault in members)
        rate = killed / len(members) if members else 1.0
        lines.append(f"{group:<14}{len(members):>9}{killed:>9}{rate:>8.0%}")
    lines += [f"survives: {f.name} ({f.path})" for f in every if not dead[f.name]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a fault survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="pattern of group, name or path")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time")
    options = parser.parse_args(arguments)
    faults = [
        fault
        for fault in read_faults()
        if re.search(options.only, f"{fault.group} {fault.name} {fault.path}")
    ]
    if not faults:
        parser.error(f"no fault matches {options.only!r}")
    os.environ["OMP_NUM_THREADS"] = "1"
    dead: dict[str, bool] = {}
    for fault, found in noticed(faults, options.jobs):
        dead[fault.name] = found
        print("killed" if found else "SURVIVES", f"{fault.path}: {fault.name}", flush=True)
    print(table(faults, dead))
    return 0 if all(dead.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
