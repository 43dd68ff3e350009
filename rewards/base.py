"""The reward component: a callable on a batch of clips, and the registry that names it.

A component scores N clips at once. A clip it cannot score gets ``nan`` and ``valid=False``; a
number is never made up for a failure, so that an estimator can tell "bad" from "not scored".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from reelrl.naming import Registry

LOWEST, HIGHEST = -0.5, 1.5
"""Pixels beyond these are not in [0, 1]; decoders overshoot a little."""


class RewardAbort(RuntimeError):
    """A component that must not be trained on any longer: never masked, it stops the run."""


@dataclass(frozen=True)
class RewardOutput:
    """Scores of one component for a batch of N clips.

    Attributes:
        values: (N,) float32; ``nan`` exactly where ``valid`` is False.
        valid: (N,) bool; False where the clip could not be scored.

    Raises:
        ValueError: if shapes differ, a valid entry is not finite, or an invalid one is.
    """

    values: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.valid.shape != self.values.shape:
            raise ValueError(
                f"a reward gives values and valid of one shape (N,); got values "
                f"{tuple(self.values.shape)} and valid {tuple(self.valid.shape)}"
            )
        if self.valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool, got {self.valid.dtype}")
        if not torch.equal(torch.isfinite(self.values), self.valid):
            raise ValueError(
                "values must be finite exactly where valid is True; got values "
                f"{self.values.tolist()} and valid {self.valid.tolist()}"
            )

    @classmethod
    def of(cls, values: Tensor) -> RewardOutput:
        """Wrap raw scores: a finite one is valid, any other becomes ``nan`` and invalid."""
        values = values.detach().to(torch.float32)
        valid = torch.isfinite(values)
        return cls(torch.where(valid, values, torch.nan), valid)


class Reward(ABC):
    """One component of the reward vector.

    Subclasses set the class attributes and implement :meth:`score`; calling the instance checks the
    input and wraps the scores. What depends on the arguments, such as the name of a component made
    of another one, is set by the constructor.

    Attributes:
        name: registry name, also the column name in logs.
        bounds: (low, high) that every valid value lies in; infinite where no bound is known.
        higher_is_better: False for penalties.
        deterministic: True if equal clips always get equal scores, whatever the batch.
        license: SPDX id of code *and* weights.
        formula: one line of mathematics, x_t being the frames; part of the generated table.
        source: paper with equation, or project and file, that the formula is from.
        weights: the published checkpoint that ``model=`` stands for; empty if there are none.
        memory_gb: gigabytes of those weights in bfloat16; 0 for a component without.
        differentiable: True if :meth:`score` lets useful gradients reach the pixels.
        fps_sensitive: True if the same scene sampled at another frame rate scores differently.
        groupwise: True if a clip's score depends on the other clips of its prompt.
    """

    # Not ClassVar: what wraps another component has that one's, per instance.
    name: str
    bounds: tuple[float, float]
    higher_is_better: bool = True
    deterministic: bool = True
    license: str = "Apache-2.0"
    formula: str = ""
    source: str = ""
    weights: str = ""
    memory_gb: float = 0.0
    differentiable: bool = False
    fps_sensitive: bool = False
    groupwise: bool = False

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The components this one is made of; none, unless it goes around others."""
        return ()

    @abstractmethod
    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips.

        Args:
            videos: (N, F, H, W, 3) float32 in [0, 1].
            prompts: N captions.
            infos: N dicts of per-clip facts; may be empty dicts.

        Returns:
            (N,) scores; ``nan`` for a clip that cannot be scored.
        """

    def __call__(
        self,
        videos: Tensor,
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]] | None = None,
    ) -> RewardOutput:
        """Score N clips without gradients; see :meth:`score`.

        A clip with a non-finite pixel is not scorable by any component: it is hidden from
        :meth:`score`, so that it cannot spoil its neighbours, and gets ``nan``. Where no clip is
        left, as in an empty batch, :meth:`score` is not asked.

        Raises:
            ValueError: if ``videos`` is not (N, F, H, W, 3) floating point in about [0, 1], the
                number of prompts or infos is not N, or :meth:`score` returns anything but a tensor
                (N,) or writes into the clips, which other components score too.
        """
        infos = [{}] * len(videos) if infos is None else infos
        self._check_input(videos, prompts, infos)
        with torch.no_grad():
            videos = videos.to(torch.float32)
            finite = videos.flatten(1).sum(-1).isfinite()
            if not bool(finite.any()):
                return RewardOutput.of(videos.new_full((len(videos),), torch.nan))
            before = writes_into(videos)
            values = self._score_finite(videos, finite, prompts, infos)
        if writes_into(videos) != before:
            raise ValueError(
                f"reward {self.name!r} must leave the videos as they are, got writes into them: "
                "work on a copy"
            )
        return self._wrap(values, finite)

    def _check_input(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> None:
        if videos.ndim != 5 or videos.shape[-1] != 3 or not videos.is_floating_point():
            raise ValueError(
                f"reward {self.name!r} expects float videos (N, F, H, W, 3) in [0, 1], got "
                f"{videos.dtype} {tuple(videos.shape)}"
            )
        if len(prompts) != len(videos) or len(infos) != len(videos):
            raise ValueError(
                f"reward {self.name!r} got {len(videos)} videos, {len(prompts)} prompts and "
                f"{len(infos)} infos; the three must agree"
            )
        self._check_range(videos)

    def _check_range(self, videos: Tensor) -> None:
        """See that pixels are no bytes, by the first and last frames: long clips have many."""
        pixels = videos.detach()[:, :: max(1, videos.shape[1] - 1)]
        low, high = _extremes(pixels)
        if not (math.isfinite(low) and math.isfinite(high)):  # picking them costs more than looking
            low, high = _extremes(pixels[pixels.isfinite()])
        if low < LOWEST or high > HIGHEST:
            raise ValueError(
                f"reward {self.name!r} expected pixels in [0, 1], got [{low:g}, {high:g}]; "
                "divide bytes by 255"
            )

    def _score_finite(
        self,
        videos: Tensor,
        finite: Tensor,
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]],
    ) -> Tensor:
        """Scores of all clips; those that are not ``finite`` are left out and get ``nan``."""
        if bool(finite.all()):  # a copy of large clips costs more than scoring them
            return self.score(videos, prompts, infos)
        rows = finite.nonzero().flatten()
        kept = rows.tolist()
        scores = self.score(videos[rows], [prompts[i] for i in kept], [infos[i] for i in kept])
        self._check_scores(scores, len(kept))
        scores = scores.to(torch.float32)
        out = scores.new_full((len(videos),), torch.nan)
        return out.index_copy(0, rows.to(scores.device), scores)

    def _wrap(self, values: Tensor, finite: Tensor) -> RewardOutput:
        self._check_scores(values, len(finite))
        return RewardOutput.of(torch.where(finite, values.to(finite.device), torch.nan))

    def _check_scores(self, values: Tensor, count: int) -> None:
        if not isinstance(values, Tensor):
            raise ValueError(
                f"reward {self.name!r} must return a torch.Tensor ({count},), "
                f"got {type(values).__name__}"
            )
        if values.shape != (count,):
            raise ValueError(
                f"reward {self.name!r} must return shape ({count},), got {tuple(values.shape)}"
            )

    def __repr__(self) -> str:
        low, high = self.bounds
        return f"{type(self).__name__}(name={self.name!r}, bounds=({low:g}, {high:g}))"


def writes_into(videos: Tensor) -> int:
    """How often the memory of a tensor has been written to; 0 for one of inference mode."""
    # Torch counts it for autograd, and refuses to tell where autograd is ruled out.
    return 0 if videos.is_inference() else videos._version


def _extremes(pixels: Tensor) -> tuple[float, float]:
    """Smallest and largest; not finite if one is not, ``nan`` if there are none."""
    if not pixels.numel():
        return math.nan, math.nan
    low, high = pixels.aminmax()
    return float(low), float(high)


R = TypeVar("R", bound=Callable[..., Reward])
REWARDS: Registry[Callable[..., Reward]] = Registry("reward", "reelrl.rewards")
"""Name of a component -> the class; each module below :mod:`reelrl.rewards` is found by itself."""


def register_reward(name: str) -> Callable[[R], R]:
    """Class decorator that makes ``make_reward(name)`` build the class.

    Raises:
        ValueError: if the name is taken by another factory.
    """
    return REWARDS.register(name)


def make_reward(name: str, **config: Any) -> Reward:
    """Build a registered reward component.

    Args:
        name: one of :func:`list_rewards`.
        **config: keyword arguments of the component's constructor.

    Raises:
        ValueError: for an unknown name; the message names the nearest known one.
    """
    return reward_class(name)(**config)


def reward_class(name: str) -> Callable[..., Reward]:
    """The class that is registered under a name; its attributes tell all about it unbuilt.

    Raises:
        ValueError: for an unknown name; the message names the nearest known one.
    """
    return REWARDS.find(name)


def list_rewards() -> list[str]:
    """Names of all registered components, sorted."""
    return list(REWARDS)
