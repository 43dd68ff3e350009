"""Components made of other components: a score passes through transforms before anybody sees it.

A benchmark bends honest scores with them in one known way at a time; a user maps a model's raw
score to a useful range. In a list of rewards a transformed component is

```yaml
- {name: gold_fid, transforms: [{name: squash, scale: 0.05}, {name: noise, std: 0.02}], label: fid}
```
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from reelrl.checks import Gt, check_fields
from reelrl.naming import Registry
from reelrl.rewards.arguments import build_with
from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.cache import adopt
from reelrl.rewards.drawing import clip_words

Bounds = tuple[float, float]


class Transform(ABC):
    """A map from the scores of N clips to other scores; ``nan`` stays ``nan``."""

    @abstractmethod
    def __call__(self, values: Tensor, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Map ``values`` (N,) of ``videos`` (N, F, H, W, 3) and N ``prompts``."""

    @abstractmethod
    def bounds(self, bounds: Bounds) -> Bounds:
        """Bounds of the mapped values, if the values lie in ``bounds``."""


TRANSFORMS: Registry[type[Transform]] = Registry("transform")
"""Name in a list of rewards -> class; the other keys there are its fields."""


@TRANSFORMS.register("scale")
@dataclass(frozen=True)
class Scale(Transform):
    """Multiply by a positive constant.

    Attributes:
        by: the constant.

    Raises:
        ValueError: if it is not positive.
    """

    by: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, values: Tensor, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Values (N,) times the constant."""
        return values * self.by

    def bounds(self, bounds: Bounds) -> Bounds:
        """Both ends times the constant."""
        return (bounds[0] * self.by, bounds[1] * self.by)


@TRANSFORMS.register("squash")
@dataclass(frozen=True)
class Squash(Transform):
    r"""Saturate: :math:`1 - e^{-v / s}`, most of whose range is used up at a few s.

    Of scores that are never negative: below 0 it explodes instead.

    Attributes:
        scale: s, in units of the values.

    Raises:
        ValueError: if it is not positive.
    """

    scale: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, values: Tensor, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Squashed values (N,)."""
        return -torch.expm1(-values / self.scale)

    def bounds(self, bounds: Bounds) -> Bounds:
        """Both ends squashed.

        Raises:
            ValueError: if the lower one is negative.
        """
        if bounds[0] < 0:
            raise ValueError(
                f"squash takes scores that are at least 0, got bounds {bounds}; sigmoid takes any"
            )
        low, high = (-math.expm1(-end / self.scale) for end in bounds)
        return (low, high)


@TRANSFORMS.register("sigmoid")
@dataclass(frozen=True)
class Sigmoid(Transform):
    r"""Bring a score without bounds to (0, 1): :math:`\sigma((v - c) / s)`.

    Attributes:
        centre: c, the value that becomes 1/2.
        scale: s, in units of the values.

    Raises:
        ValueError: if the scale is not positive.
    """

    centre: float = 0.0
    scale: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, values: Tensor, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Values (N,) in (0, 1)."""
        return torch.sigmoid((values - self.centre) / self.scale)

    def bounds(self, bounds: Bounds) -> Bounds:
        """Both ends mapped, 0 and 1 if they are infinite."""
        low, high = (
            float(
                torch.sigmoid(
                    torch.tensor(
                        (end - self.centre) / self.scale, dtype=torch.float32, device="cpu"
                    )
                )
            )
            for end in bounds
        )
        return (low, high)


@TRANSFORMS.register("threshold")
@dataclass(frozen=True)
class Threshold(Transform):
    """Pass or fail: 1 where the value is at least ``at``, else 0.

    Attributes:
        at: the threshold.
    """

    at: float

    def __call__(self, values: Tensor, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """1 or 0 (N,); ``nan`` stays."""
        return torch.where(values.isnan(), values, (values >= self.at).to(values.dtype))

    def bounds(self, bounds: Bounds) -> Bounds:
        """0 and 1."""
        return (0.0, 1.0)


@TRANSFORMS.register("noise")
@dataclass(frozen=True)
class Noise(Transform):
    """Add the noise of a judge: uniform, and the same for the same clip and seed.

    Attributes:
        std: standard deviation in units of the values; the noise ends at sqrt(3) of them.
        seed: of the judge.

    Raises:
        ValueError: if the deviation is not positive.
    """

    std: Annotated[float, Gt(0)]
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, values: Tensor, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Noisy values (N,)."""
        return values + self.std * judge_noise(videos, self.seed).to(values)

    def bounds(self, bounds: Bounds) -> Bounds:
        """Wider by the ends of the noise."""
        reach = self.std * math.sqrt(3)
        return (bounds[0] - reach, bounds[1] + reach)


@TRANSFORMS.register("miscalibrate")
@dataclass(frozen=True)
class Miscalibrate(Transform):
    r"""A judge whose scale drifts between kinds of prompts: :math:`r \mapsto a_c r`.

    TaRoS (arXiv 2511.19356, figure 4) reports how the calibration of video judges varies over
    semantic clusters, as a coefficient of variation: 56 % for a video reward model, 3.4 % for a
    large language model. Here c is the first ``words`` words of the prompt and :math:`a_c` is
    log-normal with mean 1 and that coefficient of variation, cut off at ``limit``.

    Attributes:
        cv: coefficient of variation of :math:`a_c`.
        words: length of the beginning of a prompt that makes its cluster; "a red circle" is 3.
        limit: largest :math:`a_c`, so that the component stays bounded.
        seed: of the judge.

    Raises:
        ValueError: if ``cv`` or ``limit`` is not positive.
    """

    cv: Annotated[float, Gt(0)]
    words: int = 3
    limit: Annotated[float, Gt(0)] = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, values: Tensor, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Miscalibrated values (N,)."""
        gains = torch.tensor(
            [self.gain(prompt) for prompt in prompts], dtype=torch.float32, device="cpu"
        )
        return values * gains.to(values)

    def gain(self, prompt: str) -> float:
        """The factor of the prompt's cluster."""
        cluster = " ".join(prompt.split()[: self.words])
        rng = np.random.default_rng([self.seed, zlib.crc32(cluster.encode())])
        spread = math.log1p(self.cv**2)
        return min(self.limit, math.exp(math.sqrt(spread) * rng.standard_normal() - spread / 2))

    def bounds(self, bounds: Bounds) -> Bounds:
        """Both ends times the largest factor."""
        return (min(0.0, bounds[0]) * self.limit, max(0.0, bounds[1]) * self.limit)


class Transformed(Reward):
    """Another component seen through transforms.

    Args:
        of: that component.
        transforms: applied first to last.
        label: the name in logs; by default the name of ``of`` with the names of the transforms,
            because a column must not be taken for the scores it was made of.
    """

    def __init__(
        self, of: Reward, transforms: Sequence[Transform], label: str | None = None
    ) -> None:
        adopt(self, of)
        self.of, self.transforms = of, tuple(transforms)
        names = {kind: name for name, kind in TRANSFORMS.items()}
        made = [names.get(type(t), type(t).__name__.lower()) for t in self.transforms]
        self.name = label or "_".join([self.of.name, *made])
        self.bounds = self.of.bounds
        for transform in self.transforms:
            self.bounds = transform.bounds(self.bounds)

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The component seen through the transforms."""
        return (self.of,)

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Transformed scores (N,); see :meth:`reelrl.rewards.Reward.score`."""
        # Called, not scored: the component's own way with clips it cannot score is part of it.
        values = self.of(videos, prompts, infos).values
        for transform in self.transforms:
            values = transform(values, videos, prompts)
        return values


def make_transform(name: str, **config: Any) -> Transform:
    """A transform by name.

    Raises:
        ValueError: for an unknown name or setting, a missing one, or a value of another type.
    """
    return build_with(TRANSFORMS.find(name), config, f"transform {name!r}")


@register_reward("coin")
class Coin(Reward):
    """Nothing but a judge's noise: a component that no policy can influence.

    Args:
        std: standard deviation; the scores are uniform around 0.
        seed: of the judge.

    Raises:
        ValueError: if the deviation is not positive.
    """

    name = "coin"
    bounds = (-math.sqrt(3), math.sqrt(3))
    formula = "U(-√3 std, √3 std) by a hash of the clip"
    source = "control of this library"

    def __init__(self, std: float = 1.0, seed: int = 0) -> None:
        self.noise = Noise(std, seed)
        self.bounds = self.noise.bounds((0.0, 0.0))

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Noise (N,); see :meth:`reelrl.rewards.Reward.score`."""
        return self.noise(videos.new_zeros(len(videos)), videos, prompts)


def judge_noise(videos: Tensor, seed: int) -> Tensor:
    """Uniform noise of mean 0 and standard deviation 1, (N,) float64 on the host.

    A function of the seed and of the clip's pixels at 8 bits alone: the same clip gets the same
    noise in any batch, and a clip that looks the same to a viewer nearly always does.
    """
    draws = [np.random.default_rng(words).uniform(-1, 1) for words in clip_words(videos, seed)]
    return torch.tensor(draws, dtype=torch.float64, device="cpu") * math.sqrt(3)
