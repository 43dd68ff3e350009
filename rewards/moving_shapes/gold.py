r"""The gold score of a MovingShapes clip, by analysis-by-synthesis.

A clip is parsed (:mod:`~reelrl.rewards.moving_shapes.parser`), then drawn again as the cleanest
clip of the world that the parse allows, and compared with caption, physics and redrawing:

.. math::
    \mathrm{gold} = \mathrm{align} \cdot \mathrm{phys} \cdot \mathrm{fid}

The three axes answer text alignment, motion quality and visual quality. A product, and a floored
product inside ``align``, because any mean lets one perfect axis pay for a broken one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.moving_shapes.parser import Parsed, check_videos, palette, parse
from reelrl.rewards.moving_shapes.world import (
    BACKGROUND,
    COLOURS,
    DIRECTIONS,
    RADIUS_RANGE,
    SHAPES,
    SPEEDS,
    Factors,
    caption_to_factors,
    shape_masks,
    track,
)

E0 = 0.35
"""Relative reconstruction error at which ``fid`` falls to exp(-1/2).

Calibrated on the best that the model can show: a VAE round trip of clean clips should keep
``fid`` >= 0.9, that is median error <= 0.46 E0. At 0.35 that asks of the VAE 33 dB PSNR, the
median clean clip having an object energy of RMS 0.136.
"""
FLOOR = 0.1
"""Smallest value of an alignment factor: two wrong factors stay worse than one."""
SPEED_TOLERANCE = 0.35
"""Pixels per frame; half the step between two captioned speeds."""
MIN_SPEED = 0.25
"""Pixels per frame below which a track has no direction."""
TRACK_TOLERANCE = 0.5
"""Pixels of track residual."""
AREA_TOLERANCE = 0.25
"""Coefficient of variation of the area over frames."""


@dataclass(frozen=True)
class GoldAxes:
    """The three axes of N clips, each (N,) float32 in [0, 1]; ``nan`` for a non-finite clip.

    Attributes:
        align: agreement of the clip with its caption.
        phys: does one shape of constant area move at constant velocity in every frame.
        fid: does the clip look like a clean clip of the world.
    """

    align: Tensor
    phys: Tensor
    fid: Tensor

    @property
    def gold(self) -> Tensor:
        """The product of the three axes, (N,)."""
        return self.align * self.phys * self.fid


@torch.no_grad()
def gold_axes(videos: Tensor, factors: Sequence[Factors]) -> GoldAxes:
    """Score N clips against their captioned factors; no gradient flows through.

    Args:
        videos: (N, F, S, S, 3) floats in [0, 1].
        factors: the factors that each clip should show.

    Raises:
        ValueError: for a wrong shape or dtype, or a number of factors that is not N.
    """
    check_videos(videos)
    if len(factors) != len(videos):
        raise ValueError(f"got {len(videos)} videos and {len(factors)} factors; expected as many")
    starts = range(0, len(videos), _CHUNK) if len(videos) else (0,)
    parts = [_axes(videos[i : i + _CHUNK].float(), factors[i : i + _CHUNK]) for i in starts]
    return GoldAxes(*(torch.cat(axis) for axis in zip(*parts, strict=True)))


_CHUNK = 64
"""Clips parsed at once, which bounds the scratch memory; scores do not depend on it."""


def _axes(videos: Tensor, factors: Sequence[Factors]) -> tuple[Tensor, ...]:
    """The three axes of at most :data:`_CHUNK` clips, ``nan`` where a pixel is not finite."""
    finite = videos.flatten(1).sum(-1).isfinite()
    videos = torch.where(finite[:, None, None, None, None], videos, BACKGROUND)
    parsed = parse(videos)
    axes = (alignment(parsed, factors), physics(parsed), fidelity(videos, parsed))
    return tuple(torch.where(finite, axis, torch.nan).float() for axis in axes)


def alignment(parsed: Parsed, factors: Sequence[Factors]) -> Tensor:
    r"""Agreement with the caption, (N,): :math:`\prod_k \max(g_k, 0.1)^{1/2}`, 0 if not found.

    The factors are g = (colour hit, shape hit, cosine of velocity and direction or 0 if that is
    negative or the speed under :data:`MIN_SPEED`,
    :math:`\exp(-(|v| - v^*)^2 / 2 \cdot 0.35^2)`).
    """
    colour, shape, heading, speed = _targets(factors, parsed.velocity)
    measured = (parsed.velocity[:, 0] ** 2 + parsed.velocity[:, 1] ** 2).sqrt()
    along = parsed.velocity[:, 0] * heading[:, 0] + parsed.velocity[:, 1] * heading[:, 1]
    cosine = (along / measured.clamp_min(MIN_SPEED)).clamp_min(0) * (measured > MIN_SPEED)
    pace = torch.exp(-((measured - speed) ** 2) / (2 * SPEED_TOLERANCE**2))
    product = cosine.clamp_min(FLOOR) * pace.clamp_min(FLOOR)
    for hit in (parsed.colour == colour, parsed.shape == shape):
        product = product * hit.double().clamp_min(FLOOR)
    return product.sqrt() * parsed.found


def physics(parsed: Parsed) -> Tensor:
    r"""Constancy of the object, (N,), 0 if not found.

    :math:`\exp(-\mathrm{rmse}^2 / 2 \cdot 0.5^2) \cdot \mathrm{mean(itself)} \cdot
    \exp(-\mathrm{CV}(A)^2 / 2 \cdot 0.25^2)`, the variation of the area over present frames. A
    frame shows the object *itself* if it is present and has the shape that the clip as a whole
    has. Counting frames in which *any* object is present would give 0.48 to a clip whose circle
    turns into a square.
    """
    weight = parsed.present.double()
    count = weight.sum(-1)
    mean = (weight * parsed.areas).sum(-1) / count.clamp_min(1)
    variance = (weight * (parsed.areas - mean[:, None]) ** 2).sum(-1) / count.clamp_min(1)
    straight = torch.exp(-(parsed.rmse**2) / (2 * TRACK_TOLERANCE**2))
    steady = torch.exp(-variance / mean.clamp_min(1e-6) ** 2 / (2 * AREA_TOLERANCE**2))
    itself = parsed.present & (parsed.frame_shapes == parsed.shape[:, None])
    return straight * steady * itself.double().mean(-1) * parsed.found


def fidelity(videos: Tensor, parsed: Parsed) -> Tensor:
    r"""Closeness to the clean clip of the same parse, (N,): :math:`\exp(-e^2 / 2 E_0^2)`.

    The redrawing is a projection on the world: palette colour, the world's ground, the fitted
    track, and the radius clipped to :data:`~reelrl.rewards.moving_shapes.world.RADIUS_RANGE`, so
    that growth, oversaturation and a changed ground all cost. The error e = RMS(clip - redrawing) /
    RMS(redrawing - ground) is relative to the object's energy, because an empty frame already has
    about 17 dB against a clean clip.
    """
    radius = parsed.radius.clamp(*RADIUS_RANGE).float()
    centre = track(parsed.middle, parsed.velocity, videos.shape[1]).float()
    mask = shape_masks(parsed.shape, centre, radius, videos.shape[2])
    contrast = (palette(videos)[parsed.colour] - BACKGROUND).T[:, :, None, None, None]
    error = torch.zeros_like(mask)
    for channel in range(3):
        residual = (mask * contrast[channel]).add_(BACKGROUND).sub_(videos[..., channel])
        error += residual.square_()
    strength = (contrast[0] ** 2 + contrast[1] ** 2 + contrast[2] ** 2).flatten()
    energy = mask.square_().flatten(1).sum(-1).double() * strength
    ratio = error.flatten(1).sum(-1).double() / energy.clamp_min(1e-6)
    return torch.exp(-ratio / (2 * E0**2)) * parsed.found


def _targets(factors: Sequence[Factors], like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Captioned colour and shape indices (N,), unit direction (N, 2) and speed (N,)."""
    names = list(COLOURS)
    colour = torch.tensor(
        [names.index(f.colour) for f in factors], dtype=torch.int64, device=like.device
    )
    shape = torch.tensor(
        [SHAPES.index(f.shape) for f in factors], dtype=torch.int64, device=like.device
    )
    heading = torch.tensor(
        [DIRECTIONS[f.direction] for f in factors], dtype=torch.float32, device=like.device
    )
    speed = torch.tensor(
        [SPEEDS[f.speed] for f in factors], dtype=torch.float32, device=like.device
    )
    return colour, shape, heading.reshape(-1, 2).to(like.dtype), speed.to(like.dtype)


def gold_axes_of_prompts(videos: Tensor, prompts: Sequence[str]) -> GoldAxes:
    """:func:`gold_axes` by caption; ``align`` is ``nan`` where the grammar has no such caption.

    Physics and fidelity do not read the caption, so they stay.
    """
    factors = [_factors_or_none(prompt) for prompt in prompts]
    known = torch.tensor([f is not None for f in factors], dtype=torch.bool, device=videos.device)
    axes = gold_axes(videos, [_ANY_FACTORS if f is None else f for f in factors])
    return replace(axes, align=torch.where(known, axes.align, torch.nan))


_ANY_FACTORS = Factors("red", "circle", "right", "")


def _factors_or_none(prompt: str) -> Factors | None:
    try:
        return caption_to_factors(prompt)
    except ValueError:
        return None


class GoldReward(Reward):
    """A gold axis, or their product, as a reward component.

    ``nan`` for a clip with a non-finite pixel, and, where the caption is read, for a caption
    outside the grammar of the world.

    Attributes:
        axis: attribute of :class:`GoldAxes` that is the score.
    """

    bounds = (0.0, 1.0)
    source = "MovingShapes, rewards/moving_shapes/gold.py"
    fps_sensitive = True
    axis: ClassVar[Literal["gold", "align", "phys", "fid"]]

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, S, S, 3); see :meth:`reelrl.rewards.Reward.score`."""
        scores: Tensor = getattr(gold_axes_of_prompts(videos, prompts), self.axis)
        return scores


@register_reward("gold")
class Gold(GoldReward):
    """The known truth of a MovingShapes clip: align * phys * fid."""

    name = "gold"
    formula = "align · phys · fid"
    axis = "gold"


@register_reward("gold_align")
class GoldAlign(GoldReward):
    """Gold text alignment: colour, shape, direction and speed are the caption's."""

    name = "gold_align"
    formula = "colour, shape, direction and speed of the parse against the caption"
    axis = "align"


@register_reward("gold_phys")
class GoldPhys(GoldReward):
    """Gold motion quality: one constant object at constant velocity in every frame."""

    name = "gold_phys"
    formula = "permanence and constant velocity of the parsed object"
    axis = "phys"


@register_reward("gold_fid")
class GoldFid(GoldReward):
    """Gold visual quality: closeness to the clean clip of the same parse."""

    name = "gold_fid"
    formula = "closeness to the clean clip of the same parse"
    axis = "fid"
