"""Many questions at once, answers in order, no longer than allowed; and when not to ask at all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Condition, Event, Lock, Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ordered(
    function: Callable[[T], R], items: Sequence[T], workers: int, seconds: float, late: R
) -> list[R]:
    """``[function(item) for item in items]`` with several threads; a late result becomes ``late``.

    The threads are the call's own and no interpreter waits for them, so it works in notebooks, in
    threads and any number of times.

    Args:
        function: must end by itself some time after ``seconds``; it must not raise.
        items: M of them.
        workers: most threads.
        seconds: after which the rest is given up.
        late: result for a question that was given up.
    """
    results = [late] * len(items)
    queue: SimpleQueue[int] = SimpleQueue()
    for index in range(len(items)):
        queue.put(index)
    over, lock = Event(), Lock()
    left = len(items)

    def work() -> None:
        nonlocal left
        while not over.is_set():
            try:
                index = queue.get_nowait()
            except Empty:
                return
            result = function(items[index])
            with lock:
                if not over.is_set():
                    results[index] = result
                left -= 1
                if left == 0:
                    over.set()

    if not items:
        return []
    for _ in range(min(workers, len(items))):
        Thread(target=work, daemon=True).start()
    try:
        over.wait(seconds)
    finally:  # Ctrl-C too ends the threads
        over.set()
    with lock:
        return list(results)


class Breaker:
    """Stops asking a server that has left several questions in a row unanswered, for a while.

    Args:
        limit: questions in a row that open it.
        cooldown: seconds until one question may try again.
    """

    def __init__(self, limit: int = 8, cooldown: float = 30.0) -> None:
        self.limit, self.cooldown = limit, cooldown
        self._failures = 0
        self._next_try = 0.0
        self._trying = False
        self._changed = Condition()

    @property
    def open(self) -> bool:
        """Whether the server is not asked."""
        with self._changed:
            return self._failures >= self.limit

    def allows(self, until: float) -> bool:
        """Whether to ask; while open, one caller per cooldown is let through.

        The others wait for its outcome, or for their own turn, if either can come by the
        time ``until`` of :func:`time.monotonic`.
        """
        with self._changed:
            while self._failures >= self.limit:
                now = time.monotonic()
                if now >= self._next_try:
                    # The trying caller may die without a verdict: its turn ends after cooldown.
                    self._next_try, self._trying = now + self.cooldown, True
                    return True
                if now >= until or (self._next_try >= until and not self._trying):
                    return False
                self._changed.wait(min(self._next_try, until) - now)
            return True

    def record(self, alive: bool) -> None:
        """Count a question that the server answered, or left unanswered after all retries."""
        with self._changed:
            self._failures = 0 if alive else self._failures + 1
            self._trying = False
            if self._failures >= self.limit:
                self._next_try = time.monotonic() + self.cooldown
            self._changed.notify_all()


class Backoff:
    """Seconds to wait before a retry: a random share of a doubling span ("full jitter").

    Args:
        seed: of the shares.
        base: first span in seconds.
        cap: longest span.
    """

    def __init__(self, seed: int, base: float = 0.5, cap: float = 10.0) -> None:
        self.base, self.cap = base, cap
        self._rng = random.Random(seed)
        self._lock = Lock()

    def __call__(self, attempt: int, asked: float | None = None) -> float:
        """Wait before attempt ``attempt`` + 1; never less than the server asked for."""
        with self._lock:
            share = self._rng.random()
        span: float = self.base * 2**attempt
        return max(min(self.cap, span) * share, asked or 0.0)
