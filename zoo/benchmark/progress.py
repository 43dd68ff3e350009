"""Progress of the runs of a benchmark, without reading any line twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reelrl.algos.run.runlog import METRICS
from reelrl.zoo.benchmark.design import Run


@dataclass(frozen=True)
class _Seen:
    """A file as it was when its lines were counted."""

    inode: int
    size: int
    lines: int


def read_from(path: Path, start: int) -> bytes:
    """Bytes of a file from an offset to its end."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read()


class Progress:
    """Iterations done by runs, counted as the whole lines of their ``metrics.jsonl``.

    A file that did not change is only looked at, and of one that grew only the new end is read. A
    resumed run replaces its file, which is then counted anew.

    Args:
        read: gives the bytes of a file from an offset on.
    """

    def __init__(self, read: Callable[[Path, int], bytes] = read_from) -> None:
        self._read = read
        self._seen: dict[Path, _Seen] = {}

    def __call__(self, run: Run, folder: Path) -> int:
        """Iterations that the run of a folder has done so far; the row of its end counts for none.

        Args:
            run: tells how many there are.
            folder: its own.
        """
        return min(run.config.iterations, self._lines(folder / METRICS))

    def _lines(self, path: Path) -> int:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return 0
        seen = self._seen.get(path)
        if seen is None or seen.inode != status.st_ino or status.st_size < seen.size:
            seen = _Seen(status.st_ino, 0, 0)
        if status.st_size > seen.size:
            text = self._read(path, seen.size)
            seen = _Seen(seen.inode, seen.size + len(text), seen.lines + text.count(b"\n"))
        self._seen[path] = seen
        return seen.lines
