"""The reward component: a callable on a batch of clips, and the registry that names it.

A component scores N clips at once. A clip it cannot score gets ``nan`` and ``valid=False``; a
number is never made up for a failure, so that an estimator can tell "bad" from "not scored".
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from reelrl.naming import Registry
from reelrl.rewards.ambient import settled
from reelrl.rewards.arguments import build_with
from reelrl.rewards.function import Scoring, check_scoring, described, function_name
from reelrl.rewards.handed import GROUP_SIZE, as_tensor, check_whole
from reelrl.rewards.returned import RewardMisuse, read_scores

SAMPLED = 65_536
"""Numbers of a batch of clips that are looked at to see whether somebody has written into it."""
LOWEST, HIGHEST = -0.5, 1.5
"""Pixels beyond these are not in [0, 1]; decoders overshoot a little."""


class RewardAbort(RuntimeError):
    """A component that must not be trained on any longer: never masked, it stops the run."""


class RewardWarning(UserWarning):
    """A reward component breaks its declaration: most often it failed and is masked."""


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
    input and wraps the scores. The constructor sets each attribute that depends on the arguments,
    for example the name of a component made of another one.

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
        groupwise: True if a clip's score depends on the other clips of its group: then a batch
            must hold whole groups, and is refused if ``infos`` tell that it does not.
        least_side: pixels that the height and the width of a frame must have.
    """

    # Not ClassVar: a wrapper takes over its component's values, per instance.
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
    least_side: int = 1

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
            (N,) scores; ``nan`` for a clip that cannot be scored. :func:`read_scores` tells which
            other forms are understood where the component is called.
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
        left, as in an empty batch, :meth:`score` is not asked. Mixed precision and a default device
        that the caller may have set do not reach it.

        Args:
            videos: (N, F, H, W, 3) floats in [0, 1], a tensor or a NumPy array.
            prompts: N captions.
            infos: N dicts of per-clip facts, see :func:`~reelrl.rewards.group.group_rows`; None
                means N empty dicts.

        Raises:
            ValueError: if ``videos`` is not (N, F, H, W, 3) floating point in about [0, 1], or the
                number of prompts or infos is not N.
            RewardMisuse: if :meth:`score` returns anything but N numbers or writes into the clips,
                which other components score too, or if it compares clips and a group is cut.
        """
        videos = as_tensor(videos)
        infos = [{}] * len(videos) if infos is None else infos
        self._check_input(videos, prompts, infos)
        if self.groupwise:
            check_whole(self.name, infos)
        with torch.no_grad(), settled(videos.device):
            videos = videos.to(torch.float32)
            finite = videos.flatten(1).sum(-1).isfinite()
            if not bool(finite.any()):
                return RewardOutput.of(videos.new_full((len(videos),), torch.nan))
            before = writes_into(videos)
            values = self._score_finite(videos, finite, prompts, infos)
        if writes_into(videos) != before:
            raise RewardMisuse(
                f"reward {self.name!r} must leave the videos as they are, got writes into them: "
                "work on a copy"
            )
        return self._wrap(values, finite)

    def _check_input(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> None:
        if videos.ndim != 5 or videos.shape[-1] != 3 or not videos.is_floating_point():
            hint = ": divide bytes by 255" if videos.dtype == torch.uint8 else ""
            raise ValueError(
                f"reward {self.name!r} expects float videos (N, F, H, W, 3) in [0, 1], got "
                f"{videos.dtype} {tuple(videos.shape)}{hint}"
            )
        frames, height, width = videos.shape[1:4]
        if not frames or min(height, width) < max(1, self.least_side):
            least = max(1, self.least_side)
            raise ValueError(
                f"reward {self.name!r} needs clips of at least 1 frame of {least}x{least} pixels, "
                f"got {frames} of {height}x{width}"
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
        """Scores of all clips; clips that are not ``finite`` are left out and get ``nan``."""
        if bool(finite.all()):  # a copy of large clips costs more than scoring them
            return self.score(videos, prompts, infos)
        rows = finite.nonzero().flatten()
        kept = rows.tolist()
        # A group that misses a clip for this reason is whole all the same.
        facts = [{k: v for k, v in infos[i].items() if k != GROUP_SIZE} for i in kept]
        found = self.score(videos[rows], [prompts[i] for i in kept], facts)
        scores = read_scores(found, len(kept), self.name).to(torch.float32)
        out = scores.new_full((len(videos),), torch.nan)
        return out.index_copy(0, rows.to(scores.device), scores)

    def _wrap(self, found: Any, finite: Tensor) -> RewardOutput:
        values = read_scores(found, len(finite), self.name).to(finite.device, torch.float32)
        return RewardOutput.of(torch.where(finite, values, torch.nan))

    def __repr__(self) -> str:
        low, high = self.bounds
        return f"{type(self).__name__}(name={self.name!r}, bounds=({low:g}, {high:g}))"


def writes_into(videos: Tensor) -> tuple[int, int]:
    """A mark of the memory of a tensor, which another one differs from after a write.

    Torch counts its own writes. A write through NumPy or ``.data`` is seen in a sample of the
    numbers.
    """
    # Torch counts for autograd, and refuses to tell where autograd is ruled out.
    count = 0 if videos.is_inference() else videos._version
    flat = videos.detach().reshape(-1)
    # As bytes: nan would differ from itself.
    sample = flat[:: max(1, len(flat) // SAMPLED)].contiguous().view(torch.uint8)
    return count, int(sample.sum(dtype=torch.int64))


def _extremes(pixels: Tensor) -> tuple[float, float]:
    """Smallest and largest; not finite if one is not, ``nan`` if there are none."""
    if not pixels.numel():
        return math.nan, math.nan
    low, high = pixels.aminmax()
    return float(low), float(high)


class FunctionReward(Reward):
    """A function of clips, prompts and infos; its name is the function's.

    Nothing is known of its values unless it was registered with ``bounds``.

    Args:
        function: called with (N, F, H, W, 3) float32 clips in [0, 1], N prompts and N infos;
            returns N numbers.
        name: of the component; by default the function's.

    Raises:
        ValueError: for a function that cannot be called with these three.
    """

    bounds = (-math.inf, math.inf)
    formula = "a function"
    deterministic = False

    def __init__(self, function: Scoring, name: str | None = None) -> None:
        check_scoring(function)
        self.function = function
        self.name = name or function_name(function)

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """The function's scores; :meth:`Reward.__call__` reads any usual form."""
        scores: Tensor = self.function(videos, prompts, infos)
        return scores


class RegisteredFunction(FunctionReward):
    """Base of the classes that :func:`register_reward` makes of functions."""

    scoring: Scoring

    def __init__(self) -> None:
        super().__init__(type(self).scoring, type(self).name)


_REGISTERED: dict[int, type[RegisteredFunction]] = {}
"""Class of a registered function by the function's id; the class keeps the function alive."""


def reward_of(function: Scoring) -> Reward:
    """The component that a function is: as it was registered, or with nothing known of it."""
    registered = _REGISTERED.get(id(function))
    return FunctionReward(function) if registered is None else registered()


R = TypeVar("R", bound=Callable[..., Any])
REWARDS: Registry[Callable[..., Reward]] = Registry("reward", "reelrl.rewards")
"""Name of a component -> the class; each module below :mod:`reelrl.rewards` is found by itself."""


def register_reward(
    name: str,
    *,
    bounds: tuple[float, float] | None = None,
    higher_is_better: bool | None = None,
) -> Callable[[R], R]:
    """Decorator that makes ``make_reward(name)`` build a class, or wrap a function.

    A class without a name of its own takes this one. A function (videos, prompts, infos) -> scores
    stays a function, and becomes a component of that name.

    Args:
        name: of the component.
        bounds: (low, high) of a function's scores; None means unknown. A class declares its own.
        higher_is_better: False if a function is a penalty.

    Raises:
        ValueError: if the name is taken, a class has another name, or the decorated object is
            neither a reward class nor a function.
    """

    def decorate(entry: R) -> R:
        if not inspect.isclass(entry):
            _register_function(name, entry, bounds, higher_is_better)
            return entry
        if not issubclass(entry, Reward):
            raise ValueError(
                "register_reward takes a subclass of Reward or a function (videos, prompts, infos) "
                f"-> scores, got the class {entry.__name__}"
            )
        if bounds is not None or higher_is_better is not None:
            raise ValueError(
                f"the class {entry.__name__} declares bounds and higher_is_better itself; "
                "register_reward takes them for functions"
            )
        own = entry.__dict__.get("name", name)
        if own != name:
            raise ValueError(
                f"reward class {entry.__name__} has the name {own!r} and is registered as {name!r}:"
                " the column would not have the name that was asked for"
            )
        REWARDS.register(name)(entry)
        entry.name = name
        return entry

    return decorate


def _register_function(
    name: str, function: Any, bounds: tuple[float, float] | None, higher_is_better: bool | None
) -> None:
    if not callable(function):
        raise ValueError(
            "register_reward takes a subclass of Reward or a function (videos, prompts, infos) -> "
            f"scores, got {function!r}"
        )
    facts = described(function, name, bounds, higher_is_better)
    made = type(function_name(function), (RegisteredFunction,), facts)
    REWARDS.register(name)(made)
    _REGISTERED[id(function)] = made


def make_reward(name: str, **config: Any) -> Reward:
    """Build a registered reward component.

    Args:
        name: one of :func:`list_rewards`.
        **config: keyword arguments of the component's constructor.

    Raises:
        ValueError: for an unknown name or setting, the message naming the nearest known one, a
            setting that is missing, or a value of another type.
    """
    return build_with(reward_class(name), config, f"reward {name!r}")


def reward_class(name: str) -> Callable[..., Reward]:
    """The class that is registered under a name; its attributes tell all about it unbuilt.

    Raises:
        ValueError: for an unknown name; the message names the nearest known one.
    """
    return REWARDS.find(name)


def list_rewards() -> list[str]:
    """Names of all registered components, sorted."""
    return list(REWARDS)
