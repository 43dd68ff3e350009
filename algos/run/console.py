"""Around a training loop: Ctrl-C and the progress bar."""

from __future__ import annotations

import signal
from collections.abc import Iterator
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


def progress_bar(iterations: int, shown: bool) -> Any:
    """An iterable of that many turns, with a bar if shown."""
    from tqdm import tqdm

    return tqdm(range(iterations), disable=not shown, unit="it")
