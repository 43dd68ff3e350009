"""Less credit for a score that depends on invisible detail: Ctrl-U's weight as a wrapper."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.cache import adopt, fingerprint_of
from reelrl.rewards.drawing import clip_words
from reelrl.rewards.spec import RewardSpec, build_reward


def second_look(videos: Tensor, std: float, seed: int) -> Tensor:
    """The clips with white noise, drawn from the seed and each clip's bytes alone.

    The same clip gets the same noise in any batch, whatever has been scored before.

    Args:
        videos: (N, F, H, W, 3) in [0, 1].
        std: of the noise.
        seed: of the draw.
    """
    looks = []
    for clip, words in zip(videos, clip_words(videos, seed), strict=True):
        word = int(np.random.SeedSequence(words).generate_state(1)[0])
        generator = torch.Generator("cpu").manual_seed(word)
        noise = torch.randn(clip.shape, generator=generator, dtype=torch.float32, device="cpu")
        looks.append((clip + std * noise.to(clip)).clamp(0, 1))
    return torch.stack(looks) if looks else videos


@register_reward("ctrl_u")
class CtrlU(Reward):
    r"""Ctrl-U: a reward counts the less, the more two looks at one clip disagree.

    Ctrl-U (Zhang et al. 2025, arXiv 2410.11236) takes a reward model's scores of two generations
    from one condition; their difference is the uncertainty U (eq. 2), and the loss becomes
    :math:`L / e^{U} + \lambda U` (eq. 3). Here the looks are the clip and the clip with faint
    noise, and

    .. math:: \tilde r(x) = b + e^{-U} (r(x) - b), \quad U = |r(x) - r(x + \epsilon)| / s,

    b being the worst declared bound. It is eq. 3 with the distance from the worst in the place of
    the loss, the distance from the best: there the factor weighs a gradient, and a smaller loss
    means less influence; to a policy gradient that only compares rewards a smaller loss means a
    better clip, and uncertainty would pay. Since it costs here by itself, there is no
    :math:`\lambda U`.

    It sees a score that hangs on little, not one that is fooled alike by both looks: on clips of
    heavy noise the parser behind ``gold_align`` doubts itself, while ``proxy_vq``, which takes the
    noise for detail, is surer than on clean clips.

    A clip of which either look has no score has none.

    Args:
        of: the component, as :func:`~reelrl.rewards.spec.build_reward` takes it.
        scale: s, the difference that costs 1 - 1/e of the credit, in units of the component.
        std: of the noise, pixels being in [0, 1].
        seed: of the noise.

    Raises:
        ValueError: for a component without a finite worst bound (its transform ``sigmoid`` gives it
            one), or a setting out of its range.
    """

    name, bounds = "ctrl_u", (-math.inf, math.inf)
    formula = "b + exp(-|r(x) - r(x + ε)|/s) (r(x) - b), b the worst bound, ε ~ N(0, std²)"
    source = "Ctrl-U, Zhang et al. 2025 (arXiv 2410.11236), eqs 2 and 3, from the worst end"

    def __init__(self, of: RewardSpec, *, scale: float, std: float = 0.02, seed: int = 0) -> None:
        if not (scale > 0 and std > 0):
            raise ValueError(f"scale and std must be positive, got {scale} and {std}")
        self.of = build_reward(of)
        adopt(self, self.of)
        self.name, self.formula, self.source = (
            type(self).name,
            type(self).formula,
            type(self).source,
        )
        self.scale, self.std, self.seed = float(scale), float(std), seed
        self.worst = self.bounds[0] if self.higher_is_better else self.bounds[1]
        if not math.isfinite(self.worst):
            raise ValueError(
                f"reward {self.of.name!r} needs a finite worst bound, got {self.bounds}: give it "
                "the transform sigmoid"
            )

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The component that is looked at twice."""
        return (self.of,)

    @property
    def fingerprint(self) -> str | None:
        """Changes with anything a score depends on; known if the component's is."""
        of = fingerprint_of(self.of)
        return None if of is None else json.dumps([self.name, self.scale, self.std, self.seed, of])

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Weighted scores (N,); see :meth:`reelrl.rewards.Reward.score`."""
        looks = (videos, second_look(videos, self.std, self.seed))
        first, second = (self.of(look, prompts, infos).values for look in looks)
        uncertainty = (first - second).abs() / self.scale
        return self.worst + torch.exp(-uncertainty) * (first - self.worst)
