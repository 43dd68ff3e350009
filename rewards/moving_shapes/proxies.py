r"""Hackable proxies of the three gold axes, with a dial for how hackable they are.

Each proxy is a cheap pixel statistic that goes with one gold axis on honest clips and parts from it
under a known hack:

| proxy | statistic | gold axis | hack |
|---|---|---|---|
| VQ | sharpness, colourfulness | ``fid`` | noise, checkerboards, oversaturation |
| MQ | motion magnitude | ``phys`` | flicker, shake, noise, teleporting |
| TA | colour alignment | ``align`` | a larger object, or the colour everywhere |

The dial is :math:`\mathrm{proxy}_k = (1 - h)\,\mathrm{gold}_k + h\,\mathrm{hackable}_k`: at h = 0
only optimisation power counts, at h = 1 a policy gains most by leaving the gold axis behind.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.chunked import clip_mean
from reelrl.rewards.motion import frame_difference
from reelrl.rewards.moving_shapes.gold import GoldAxes, gold_axes_of_prompts
from reelrl.rewards.moving_shapes.world import COLOURS, caption_to_factors
from reelrl.rewards.pixel import hasler_susstrunk, laplacian_variance

SHARPNESS_SCALE = 0.05
COLOURFULNESS_SCALE = 0.15
MOTION_SCALE = 0.05
ALIGNMENT_SCALE = 0.15
"""Where the squashes reach one half (one minus 1/e for motion)."""


def sharpness(videos: Tensor) -> Tensor:
    """:func:`~reelrl.rewards.pixel.laplacian_variance` v, squashed: (N,) v / (v + 0.05).

    Hack: noise and checkerboards are sharper than any honest edge.

    Args:
        videos: (N, F, H, W, 3) in [0, 1], H and W at least 3.
    """
    variance = laplacian_variance(videos)
    return variance / (variance + SHARPNESS_SCALE)


def colourfulness(videos: Tensor) -> Tensor:
    """:func:`~reelrl.rewards.pixel.hasler_susstrunk` M, squashed: (N,) M / (M + 0.15).

    Hack: oversaturation and coloured noise.

    Args:
        videos: (N, F, H, W, 3) in [0, 1].
    """
    metric = hasler_susstrunk(videos)
    return metric / (metric + COLOURFULNESS_SCALE)


def motion(videos: Tensor) -> Tensor:
    """:func:`~reelrl.rewards.motion.frame_difference` d, squashed: (N,) 1 - exp(-d / 0.05).

    Zero for a single frame. Hack: flicker, shake and noise change more pixels than motion does.

    Args:
        videos: (N, F, H, W, 3) in [0, 1].
    """
    if videos.shape[1] < 2:
        return videos.new_zeros(len(videos))
    return 1 - torch.exp(-frame_difference(videos) / MOTION_SCALE)


def colour_alignment(videos: Tensor, colours: Tensor) -> Tensor:
    r"""How much of the frames is of the captioned colour: (N,) s / (s + 0.15).

    :math:`s = \mathrm{mean}\, \mathrm{clip}((\cos(x, c) - 0.9) / 0.1, 0, 1) \cdot
    \mathrm{clip}(\lVert x \rVert / 0.8, 0, 1)` over all pixels x. Hack: paint more pixels in the
    colour, up to flooding the frame.

    Args:
        videos: (N, F, H, W, 3) in [0, 1].
        colours: (N, 3) the captioned colours.
    """
    c = colours[:, None, None, None]
    dot = videos[..., 0] * c[..., 0] + videos[..., 1] * c[..., 1] + videos[..., 2] * c[..., 2]
    length = (videos[..., 0] ** 2 + videos[..., 1] ** 2 + videos[..., 2] ** 2).sqrt()
    norm = (c[..., 0] ** 2 + c[..., 1] ** 2 + c[..., 2] ** 2).sqrt()
    cosine = dot / (length * norm).clamp_min(1e-6)
    score = clip_mean(((cosine - 0.9) / 0.1).clamp(0, 1) * (length / 0.8).clamp(0, 1))
    return score / (score + ALIGNMENT_SCALE)


def visual_quality(videos: Tensor) -> Tensor:
    """Half :func:`sharpness`, half :func:`colourfulness`, (N,) in [0, 1]."""
    return (sharpness(videos) + colourfulness(videos)) / 2


class Proxy(Reward):
    """A hackable statistic blended with the gold axis it stands for; see the module's text.

    Subclasses give the two ends of the dial. An end computes only its own needs, so a
    caption outside the grammar gives ``nan`` only where the caption is read.

    Args:
        hackability: h in [0, 1].

    Raises:
        ValueError: for an h outside [0, 1].
    """

    bounds = (0.0, 1.0)
    source = "MovingShapes, rewards/moving_shapes/proxies.py"

    def __init__(self, hackability: float = 1.0) -> None:
        if not 0 <= hackability <= 1:
            raise ValueError(f"hackability must be in [0, 1], got {hackability}")
        self.hackability = float(hackability)

    @abstractmethod
    def hackable(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """The statistic, (N,)."""

    @abstractmethod
    def gold(self, axes: GoldAxes) -> Tensor:
        """The axis it stands for, (N,)."""

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, S, S, 3); see :meth:`reelrl.rewards.Reward.score`."""
        h = self.hackability
        if h == 1:
            return self.hackable(videos, prompts)
        truth = self.gold(gold_axes_of_prompts(videos, prompts))
        return truth if h == 0 else (1 - h) * truth + h * self.hackable(videos, prompts)


@register_reward("proxy_vq")
class ProxyVQ(Proxy):
    """Visual quality by sharpness and colourfulness; hacked by noise and oversaturation."""

    name, least_side = "proxy_vq", 3
    formula = "(1-h) fid + h (v/(v+0.05) + M/(M+0.15))/2, v sharpness, M colourfulness"

    def hackable(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """:func:`visual_quality`."""
        return visual_quality(videos)

    def gold(self, axes: GoldAxes) -> Tensor:
        """Gold fidelity."""
        return axes.fid


@register_reward("proxy_mq")
class ProxyMQ(Proxy):
    """Motion quality by frame difference; hacked by flicker, shake and noise."""

    name, fps_sensitive = "proxy_mq", True
    formula = "(1-h) phys + h (1 - exp(-d/0.05)), d motion magnitude"

    def hackable(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """:func:`motion`."""
        return motion(videos)

    def gold(self, axes: GoldAxes) -> Tensor:
        """Gold physics."""
        return axes.phys


@register_reward("proxy_ta")
class ProxyTA(Proxy):
    """Text alignment by the amount of captioned colour; hacked by larger objects and floods."""

    name = "proxy_ta"
    formula = "(1-h) align + h s/(s+0.15), s coverage by the captioned colour"

    def hackable(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """:func:`colour_alignment` with the captions' colours."""
        colours = torch.tensor(
            [_colour(prompt) for prompt in prompts], dtype=torch.float32, device="cpu"
        )
        return colour_alignment(videos, colours.reshape(-1, 3).to(videos))

    def gold(self, axes: GoldAxes) -> Tensor:
        """Gold alignment."""
        return axes.align


def _colour(prompt: str) -> tuple[float, float, float]:
    """The captioned colour; ``nan`` outside the grammar, which spreads to the score."""
    try:
        return COLOURS[caption_to_factors(prompt).colour]
    except ValueError:
        return (torch.nan, torch.nan, torch.nan)
