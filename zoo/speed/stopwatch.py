"""How time is taken: inside of functions by name, and over repeated calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Stopwatch:
    """Seconds spent inside of functions and blocks, by name.

    On one CPU thread the clock is the process's own CPU time, which other processes do not
    lengthen. Elsewhere it is wall time, and the device's queue is waited for.

    Args:
        device: where the work is done.
        clock: in place of that one.
    """

    def __init__(
        self, device: str | torch.device, clock: Callable[[], float] | None = None
    ) -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        self._clock = clock or (time.process_time if alone else time.perf_counter)

    def now(self) -> float:
        """The clock, once the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._clock()

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Add the time of a block to ``name``."""
        start = self.now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - start

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Add the time of every call of ``owner.attribute`` to ``name``."""
        original = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.running(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)


class Took(NamedTuple):
    """Seconds of a call: by the clock on the wall, and of the processor over all threads."""

    wall: float
    processor: float


def times(work: Callable[[], object], repeats: int) -> list[Took]:
    """Seconds of each call, after one that warms up."""
    work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        work()
        found.append(Took(time.perf_counter() - start[0], time.process_time() - start[1]))
    return found


def least(found: list[Took]) -> Took:
    """Least wall time and least processor time: others on the machine only add."""
    return Took(min(took.wall for took in found), min(took.processor for took in found))
