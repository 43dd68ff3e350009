"""The list of reward components of an environment: scored together, each failure kept apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

import reelrl.rewards.moving_shapes  # noqa: F401  (registers the shipped components)
from reelrl.rewards import Reward, RewardOutput
from reelrl.rewards.base import RewardSpec, build_reward

OnRewardError = Literal["mask", "raise"]
T = TypeVar("T")


class RewardError(RuntimeError):
    """A reward component failed and ``on_reward_error`` is ``"raise"``."""


class RewardWarning(UserWarning):
    """A reward component failed and its scores are masked."""


@dataclass(frozen=True)
class RewardFacts:
    """What the K numbers of a reward vector mean, as plain values.

    Attributes:
        names: of the components.
        bounds: (low, high) of each, as declared.
        signs: 1.0 where higher is better, -1.0 for a penalty.
    """

    names: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    signs: tuple[float, ...]

    def signed_bounds(self) -> np.ndarray | None:
        """(K, 2) float64 bounds with penalties negated, or None if any is infinite."""
        bounds = np.array(self.bounds) * np.array(self.signs)[:, None]
        return np.sort(bounds, axis=1) if np.isfinite(bounds).all() else None


def call_within(function: Callable[[], T], seconds: float | None) -> T:
    """The function's result, or :class:`TimeoutError` after ``seconds`` (``None``: never).

    A thread cannot be stopped from outside, so a late function runs on in the background, without
    keeping the interpreter alive.
    """
    if seconds is None:
        return function()
    results: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


class RewardList:
    """Components 0..K-1 of the reward vector, called once each per batch of clips.

    Args:
        rewards: the components, as :func:`build_reward` takes them.
        on_error: what a component that raises, times out, returns something malformed or cannot
            score a clip leads to: ``"mask"`` gives ``nan``, ``valid=False`` and a
            :class:`RewardWarning`, ``"raise"`` a :class:`RewardError`.
        timeout: seconds a component may take for a batch; ``None`` is for ever.

    Raises:
        ValueError: for an empty list, two components of one name, or an unknown setting.
    """

    def __init__(
        self,
        rewards: Sequence[RewardSpec],
        on_error: OnRewardError = "mask",
        timeout: float | None = None,
    ) -> None:
        if on_error not in ("mask", "raise"):
            raise ValueError(f"on_reward_error must be 'mask' or 'raise', got {on_error!r}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"reward_timeout must be positive seconds or None, got {timeout}")
        if isinstance(rewards, str | Mapping | Reward):
            raise ValueError(f"rewards must be a list, got {rewards!r}")
        if not rewards:
            raise ValueError("rewards must hold at least one component, got none")
        self.on_error = on_error
        self.timeout = timeout
        self.components: list[Reward] = []
        for spec in rewards:
            self.add(spec)

    def add(self, spec: RewardSpec) -> Reward:
        """Append a component and return it.

        Raises:
            ValueError: if a component of that name is there already.
        """
        reward = build_reward(spec)
        if reward.name in self.names:
            raise ValueError(f"reward {reward.name!r} is already one of {', '.join(self.names)}")
        self.components.append(reward)
        return reward

    @property
    def names(self) -> list[str]:
        """Names of the K components, in order."""
        return [reward.name for reward in self.components]

    def facts(self) -> RewardFacts:
        """Names, bounds and signs of the components."""
        return RewardFacts(
            tuple(self.names),
            tuple((float(low), float(high)) for low, high in (r.bounds for r in self.components)),
            tuple(1.0 if reward.higher_is_better else -1.0 for reward in self.components),
        )

    def space(self) -> Box:
        """(K,) float32 box of the declared bounds, stretched to hold the zeros before the end."""
        low, high = np.array([reward.bounds for reward in self.components], dtype=np.float32).T
        return Box(np.minimum(low, 0), np.maximum(high, 0), dtype=np.float32)

    def __call__(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor, Tensor]:
        """Score M clips.

        Args:
            videos: (M, F, H, W, 3) float32 in [0, 1].
            prompts: M texts.
            infos: M dicts of facts about the clips.

        Returns:
            (M, K) float32 values, ``nan`` where not valid, and (M, K) bool validity.

        Raises:
            RewardError: if a component fails and ``on_error`` is ``"raise"``.
        """
        outputs = [self._score(reward, videos, prompts, infos) for reward in self.components]
        values = torch.stack([output.values.to(videos.device) for output in outputs], dim=1)
        valid = torch.stack([output.valid.to(videos.device) for output in outputs], dim=1)
        return values, valid

    def _score(
        self,
        reward: Reward,
        videos: Tensor,
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]],
    ) -> RewardOutput:
        try:
            output = call_within(lambda: reward(videos, prompts, infos), self.timeout)
            check_output(output, len(videos))
        except Exception as error:
            self._report(f"reward {reward.name!r} failed: {type(error).__name__}: {error}", error)
            return RewardOutput.of(torch.full((len(videos),), torch.nan))
        if not output.valid.all():
            missing = int((~output.valid).sum())
            self._report(f"reward {reward.name!r} could not score {missing} of {len(videos)} clips")
        return output

    def _report(self, message: str, error: Exception | None = None) -> None:
        if self.on_error == "raise":
            raise RewardError(message) from error
        warnings.warn(f"{message}; masked as nan", RewardWarning, stacklevel=2)


def check_output(output: RewardOutput, count: int) -> None:
    """Raise ValueError unless ``output`` is a :class:`RewardOutput` of ``count`` clips."""
    if not isinstance(output, RewardOutput):
        raise ValueError(f"expected a RewardOutput, got {type(output).__name__}")
    if output.values.shape != (count,):
        raise ValueError(f"expected values of shape ({count},), got {tuple(output.values.shape)}")


def scalarise(rewards: Any, weights: Any) -> Any:
    """Weighted sum of the last axis, in float64.

    An invalid component is ``nan`` and so is its sum, unless its weight is zero: a failed reward is
    no number, and weighting must not turn it into one.

    Args:
        rewards: (..., K) array or tensor.
        weights: (K,) float64 numpy array.

    Raises:
        ValueError: if the number of weights is not K.
    """
    if rewards.shape[-1] != len(weights):
        raise ValueError(
            f"got {len(weights)} weights for a reward vector of {rewards.shape[-1]} components"
        )
    if isinstance(rewards, Tensor):
        factors = torch.from_numpy(weights).to(rewards.device)
        return torch.where(factors == 0, 0.0, rewards.double() * factors).sum(dim=-1)
    return np.where(weights == 0, 0.0, rewards * weights).sum(axis=-1)


def read_weights(weights: Sequence[float] | None, dim: int) -> np.ndarray:
    """Weights as a (K,) float64 array; ``None`` is ones.

    Raises:
        ValueError: unless there are ``dim`` finite weights.
    """
    if weights is None:
        return np.ones(dim)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (dim,) or not np.isfinite(array).all():
        raise ValueError(f"expected {dim} finite weights, one per component, got {weights!r}")
    return array
