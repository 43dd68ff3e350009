"""Around a training loop: Ctrl-C and the progress bar."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that the first Ctrl-C puts something into; the second is a KeyboardInterrupt."""
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    if current_thread() is not main_thread():
        yield caught
        return
    previous = signal.signal(signal.SIGINT, catch)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, previous)


class _NoBar:
    """Turns without a bar."""

    def __init__(self, iterations: int) -> None:
        self.turns = range(iterations)

    def __iter__(self) -> Iterator[int]:
        return iter(self.turns)

    def set_postfix(self, values: Mapping[str, str]) -> None:
        """Show nothing."""


def progress_bar(iterations: int, shown: bool) -> Any:
    """An iterable of that many turns, with a bar if shown."""
    if not shown:
        # A disabled bar of tqdm takes its lock all the same, which forked processes share: one that
        # is killed while it holds the lock would leave all others waiting for ever.
        return _NoBar(iterations)
    from tqdm import tqdm

    return tqdm(range(iterations), unit="it")
