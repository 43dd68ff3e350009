"""An environment as plain values, and the environment made again from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from reelrl.envs.protocol import denoising_env


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


def resolved_arguments(described: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of a described environment and of its id; empty if nothing is known."""
    if described is None or described["id"] not in gym.registry:
        return {}
    arguments = {**gym.spec(described["id"]).kwargs, **described["kwargs"]}
    # As JSON gives them back: a tuple of rewards equals the list of them.
    return {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}


def rebuild_env(described: dict[str, Any] | None, clips: int, *, shift: float | None = None) -> Any:
    """The batched environment that :func:`describe_env` described.

    Args:
        described: its id and arguments.
        clips: to be made at a time by one process; the batch becomes the largest that divides both
            this and the batch there was, which another number of processes may have had.
        shift: of the noise schedule there was; None leaves it to id and arguments. The model's own
            may be another one today.

    Raises:
        ValueError: if it could not be described.
    """
    if described is None:
        raise ValueError(
            "the run's environment cannot be made from plain arguments: pass env= as it was then"
        )
    kwargs = described["kwargs"]
    # Gymnasium leaves a batch of one out of the spec.
    batch = math.gcd(kwargs.get("num_envs", 1), clips)
    env = gym.make_vec(described["id"], **{**kwargs, "num_envs": batch})
    if shift is None or denoising_env(env).shift == shift:
        return env
    return gym.make_vec(described["id"], **{**kwargs, "num_envs": batch, "shift": shift})
