"""Around a training loop: Ctrl-C, the progress bar, and making an environment again."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import gymnasium as gym


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


def describe_env(env: Any) -> dict[str, Any] | None:
    """Id and arguments of an environment, if plain values are all it takes to make it again."""
    spec = env.unwrapped.spec
    if spec is None or not _plain(spec.kwargs):
        return None
    kwargs = {k: v for k, v in spec.kwargs.items() if k != "vectorization_mode"}
    return {"id": spec.id, "kwargs": kwargs}


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_plain(item) for item in value)
    return value is None or type(value) in (str, int, float, bool)


def make_env(described: dict[str, Any] | None, clips: int) -> Any:
    """The batched environment that :func:`describe_env` described.

    Args:
        described: its id and arguments.
        clips: to be made at a time by one process; the batch becomes the largest that divides both
            this and the batch there was, which another number of processes may have had.

    Raises:
        ValueError: if it could not be described.
    """
    if described is None:
        raise ValueError(
            "the run's environment cannot be made from plain arguments: pass env= as it was then"
        )
    kwargs = described["kwargs"]
    batch = math.gcd(kwargs["num_envs"], clips)
    return gym.make_vec(described["id"], **{**kwargs, "num_envs": batch})
