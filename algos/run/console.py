"""The progress bar of a training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


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
