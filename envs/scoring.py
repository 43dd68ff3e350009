"""The list of reward components of an environment: scored together, each failure kept apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from reelrl.naming import nearest
from reelrl.rewards import Reward, RewardOutput
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.base import RewardAbort, RewardWarning, writes_into
from reelrl.rewards.handed import frozen
from reelrl.rewards.returned import RewardMisuse
from reelrl.rewards.spec import RewardSpec, build_reward

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

OnRewardError = Literal["mask", "raise"]
T = TypeVar("T")


BUGS = (
    NameError,
    TypeError,
    AttributeError,
    ImportError,
    SyntaxError,
    NotImplementedError,
    AssertionError,
    RewardMisuse,
)
"""Errors that only code makes. They would come back with every batch, so they are never masked."""


class RewardError(RuntimeError):
    """A reward component has a bug, or it failed and ``on_reward_error`` is ``"raise"``."""


@dataclass(frozen=True)
class RewardFacts:
    """Meaning of the K numbers of a reward vector, as plain values.

    Attributes:
        names: of the components.
        bounds: (low, high) of each, as declared.
        signs: 1.0 where higher is better, -1.0 for a penalty.
        group_size: episodes of one prompt that are compared with each other and come in a row; 1
            where every episode draws a prompt of its own.
        groupwise: True where a component compares the clips of a group, which must then be scored
            in one batch; empty where nobody knows.
    """

    names: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    signs: tuple[float, ...]
    group_size: int = 1
    groupwise: tuple[bool, ...] = ()

    def signed(self, rewards: T) -> T:
        """Rewards (..., K), array or tensor, with penalties negated: higher is better in all."""
        signs: Any = np.array(self.signs, dtype=np.float32)
        if isinstance(rewards, Tensor):
            signs = torch.from_numpy(signs).to(rewards)
        signed: T = rewards * signs
        return signed

    def signed_bounds(self) -> Float[np.ndarray, "K 2"] | None:
        """(K, 2) float64 bounds with penalties negated, or None if any is infinite."""
        bounds = np.array(self.bounds) * np.array(self.signs)[:, None]
        return np.sort(bounds, axis=1) if np.isfinite(bounds).all() else None


def call_within(function: Callable[[], T], seconds: float | None, busy: Lock) -> T:
    """The function's result, or :class:`TimeoutError` after ``seconds`` (``None``: never).

    A thread cannot be stopped from outside, so a late function runs on in the background, without
    keeping the interpreter alive; as long as it does it holds ``busy``, and no other one begins.
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
        finally:
            busy.release()

    deadline = monotonic() + seconds
    if not busy.acquire(timeout=seconds):
        raise TimeoutError(f"after {seconds:g} s still busy with an earlier batch")
    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - monotonic()))
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


@dataclass(frozen=True)
class Scores:
    """The scores of M clips, some components perhaps still at work.

    Attributes:
        known: K outputs; None where a component is at work in the background.
        waiting: for these, by column, the function that waits for the output.
        like: (M,) of the clips' device.
    """

    known: tuple[RewardOutput | None, ...]
    waiting: Mapping[int, Callable[[], RewardOutput]]
    like: Float[Tensor, " M"]

    def so_far(self) -> tuple[Float[Tensor, "M K"], Bool[Tensor, "M K"]]:
        """(M, K) values and validity; ``nan`` and False where a component is still at work."""
        unknown = RewardOutput.of(torch.full_like(self.like, torch.nan))
        return self._stack([unknown if output is None else output for output in self.known])

    def result(self) -> tuple[Float[Tensor, "M K"], Bool[Tensor, "M K"]]:
        """(M, K) values and validity; waits for components that are still at work.

        Raises:
            RewardError: if a component failed and ``on_error`` is ``"raise"``.
        """
        late = {column: wait() for column, wait in self.waiting.items()}
        return self._stack([late.get(k, output) for k, output in enumerate(self.known)])

    def _stack(self, outputs: Sequence[Any]) -> tuple[Float[Tensor, "M K"], Bool[Tensor, "M K"]]:
        device = self.like.device
        values = torch.stack([output.values.to(device) for output in outputs], dim=1)
        valid = torch.stack([output.valid.to(device) for output in outputs], dim=1)
        return values, valid


class RewardList:
    """Components 0..K-1 of the reward vector, called once each per batch of clips.

    Args:
        rewards: the components, as :func:`build_reward` takes them.
        on_error: the effect of a component that fails, times out or cannot score a clip:
            ``"mask"`` gives ``nan``, ``valid=False`` and a :class:`RewardWarning`, ``"raise"`` a
            :class:`RewardError`. Failures that may pass are masked: of files, connections, memory,
            numbers and unexpected replies (``OSError``, ``RuntimeError``, ``ArithmeticError``,
            ``ValueError``, ``LookupError``). A bug (:data:`BUGS`, also scores of a wrong shape or
            type and writes into the clips) raises a :class:`RewardError` in either case.
        timeout: seconds a component may take for a batch; for a component in the background, the
            seconds of waiting for its scores; ``None`` means no limit.

    Attributes:
        failures: name of a component -> message of its last failure.

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
        if timeout is not None and (isinstance(timeout, str) or not timeout > 0):
            raise ValueError(f"reward_timeout must be positive seconds or None, got {timeout}")
        check_listed(rewards)
        if not rewards:
            raise ValueError("rewards must hold at least one component, got none")
        self.on_error = on_error
        self.timeout = timeout
        self.components: list[Reward] = []
        self._busy: dict[str, Lock] = {}
        self._told: set[str] = set()
        self.failures: dict[str, str] = {}
        for spec in rewards:
            self.add(spec)

    def add(self, spec: RewardSpec) -> Reward:
        """Append a component and return it.

        Raises:
            ValueError: if a component of that name is there already.
        """
        reward = build_reward(spec)
        if reward.name in self.names:
            raise ValueError(
                f"reward {reward.name!r} is already one of {', '.join(self.names)}; a 'label' in "
                "its entry, or FunctionReward(function, name), calls it something else"
            )
        self.components.append(reward)
        return reward

    @property
    def names(self) -> list[str]:
        """Names of the K components, in order."""
        return [reward.name for reward in self.components]

    @property
    def groupwise(self) -> tuple[str, ...]:
        """Names of the components that compare clips: a batch must hold whole groups for them."""
        return tuple(reward.name for reward in self.components if reward.groupwise)

    def facts(self) -> RewardFacts:
        """Names, bounds and signs of the components, and which of them compare clips."""
        return RewardFacts(
            tuple(self.names),
            tuple((float(low), float(high)) for low, high in (r.bounds for r in self.components)),
            tuple(1.0 if reward.higher_is_better else -1.0 for reward in self.components),
            groupwise=tuple(reward.groupwise for reward in self.components),
        )

    def space(self) -> Box:
        """(K,) float32 box of the declared bounds, stretched to hold the zeros before the end."""
        low, high = np.array([reward.bounds for reward in self.components], dtype=np.float32).T
        return Box(np.minimum(low, 0), np.maximum(high, 0), dtype=np.float32)

    def __call__(
        self,
        videos: Float[Tensor, "M F H W 3"],
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]],
    ) -> tuple[Float[Tensor, "M K"], Bool[Tensor, "M K"]]:
        """Score M clips.

        Args:
            videos: (M, F, H, W, 3) float32 in [0, 1].
            prompts: M texts.
            infos: M dicts of facts about the clips.

        Returns:
            (M, K) float32 values, ``nan`` where not valid, and (M, K) bool validity.

        Raises:
            RewardError: if a component has a bug, or fails and ``on_error`` is ``"raise"``.
        """
        return self.begin(videos, prompts, infos).result()

    def begin(
        self,
        videos: Float[Tensor, "M F H W 3"],
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]],
    ) -> Scores:
        """Start the background components and score with the others; see :meth:`__call__`.

        Each component gets captions and facts of its own that it cannot write into: what one does
        with them no other one is told.
        """
        count, written = len(videos), writes_into(videos)
        captions, facts = tuple(prompts), tuple(frozen(info) for info in infos)

        def score(reward: Reward) -> RewardOutput:
            if writes_into(videos) != written:
                raise RewardMisuse("an earlier component has written into the clips")
            return reward(videos, captions, facts)

        waiting = {
            column: self._later(reward, videos, captions, facts)
            for column, reward in enumerate(self.components)
            if isinstance(reward, AsyncReward)
        }
        known = tuple(
            None if column in waiting else self._guarded(reward, partial(score, reward), count)
            for column, reward in enumerate(self.components)
        )
        return Scores(known, waiting, videos.new_empty(count, dtype=torch.float32))

    def _later(
        self,
        reward: AsyncReward,
        videos: Float[Tensor, "M F H W 3"],
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]],
    ) -> Callable[[], RewardOutput]:
        wait = reward.begin(videos, prompts, infos)
        return partial(self._guarded, reward, wait, len(videos))

    def _guarded(
        self, reward: Reward, function: Callable[[], RewardOutput], count: int
    ) -> RewardOutput:
        """The output of a component, or ``nan`` where it failed."""
        try:
            busy = self._busy.setdefault(reward.name, Lock())
            output = call_within(function, self.timeout, busy)
            check_output(output, count)
        except RewardAbort:
            raise
        except BUGS as error:
            told = (
                str(error)
                if isinstance(error, RewardMisuse)
                else f"{type(error).__name__}: {error}"
            )
            raise RewardError(f"reward {reward.name!r} has a bug: {told}") from error
        except Exception as error:
            self._report(
                reward.name,
                f"reward {reward.name!r} failed: {type(error).__name__}: {error}",
                error,
            )
            return RewardOutput.of(
                torch.full((count,), torch.nan, dtype=torch.float32, device="cpu")
            )
        if not output.valid.all():
            missing = int((~output.valid).sum())
            self._report(
                reward.name, f"reward {reward.name!r} could not score {missing} of {count} clips"
            )
        self._tell_beyond(reward, output)
        return output

    def _tell_beyond(self, reward: Reward, output: RewardOutput) -> None:
        """Warn, the first time, if a component leaves its bounds; its scores stay as they are."""
        found = output.values[output.valid]
        if reward.name in self._told or not len(found):
            return
        (low, high), (least, most) = reward.bounds, (float(found.min()), float(found.max()))
        if least < low - _slack(low) or most > high + _slack(high):
            self._told.add(reward.name)
            warnings.warn(
                f"reward {reward.name!r} declares bounds [{low:g}, {high:g}], got values from "
                f"{least:g} to {most:g}; they are kept, and estimators that rely on the bounds are "
                "misled",
                RewardWarning,
                stacklevel=2,
            )

    def _report(self, name: str, message: str, error: Exception | None = None) -> None:
        self.failures[name] = message
        message = f"reward {name!r} {message}"
        if self.on_error == "raise":
            raise RewardError(message) from error
        warnings.warn(f"{message}; masked as nan", RewardWarning, stacklevel=2)


def check_listed(rewards: Any) -> None:
    """See that components come in a list.

    Raises:
        ValueError: for one alone, or a mapping of weights.
    """
    if isinstance(rewards, Mapping) and "name" not in rewards:
        raise ValueError(
            f"rewards must be a list, got {dict(rewards)!r}: write rewards={list(rewards)!r}, and "
            f"the weights as scalar_weights={dict(rewards)!r}, in ScalarReward or in the learner's "
            "reward_weights"
        )
    # A set has another order in each process, and an iterator is empty at the second look.
    if isinstance(rewards, str | Mapping | Reward) or not isinstance(rewards, Sequence):
        raise ValueError(f"rewards must be a list, got {rewards!r}")


def _slack(bound: float) -> float:
    """How far rounding in float32 may carry a score beyond a bound."""
    return 1e-5 * max(1.0, abs(bound)) if np.isfinite(bound) else 0.0


def check_output(output: RewardOutput, count: int) -> None:
    """Raise RewardMisuse unless ``output`` is a :class:`RewardOutput` of ``count`` clips."""
    if not isinstance(output, RewardOutput):
        raise RewardMisuse(f"expected a RewardOutput, got {type(output).__name__}")
    if output.values.shape != (count,):
        raise RewardMisuse(f"expected values of shape ({count},), got {tuple(output.values.shape)}")


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
            f"got {len(weights)} weights for a reward vector of {rewards.shape[-1]} components; "
            "weights are given around the last AddReward: ScalarReward(AddReward(env, ...), "
            "{name: weight, ...})"
        )
    if isinstance(rewards, Tensor):
        factors = torch.from_numpy(weights).to(rewards.device)
        return torch.where(factors == 0, 0.0, rewards.double() * factors).sum(dim=-1)
    return np.where(weights == 0, 0.0, rewards * weights).sum(axis=-1)


Weights = Sequence[float] | Mapping[str, float]
"""Of K components: one number each in order, or by name, where a component not named has none."""


def read_weights(weights: Weights, names: Sequence[str]) -> Float[np.ndarray, " K"]:
    """Weights as a (K,) float64 array.

    Args:
        weights: K numbers, or names with numbers; a component without a name in it has weight 0.
        names: of the K components.

    Raises:
        ValueError: unless they are one finite weight per component, of known names, and not all 0.
    """
    if isinstance(weights, Mapping):
        for name in weights:
            if name not in names:
                raise ValueError(f"a weight is given for the reward {name!r}{nearest(name, names)}")
        weights = [weights.get(name, 0.0) for name in names]
    expected = f"expected {len(names)} finite weights, one per component ({', '.join(names)})"
    try:
        array = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, got {weights!r}") from error
    if array.shape != (len(names),) or not np.isfinite(array).all():
        raise ValueError(f"{expected}, got {weights!r}")
    if not array.any():
        raise ValueError(f"the weights of {', '.join(names)} are all 0: nothing is left to learn")
    return array
