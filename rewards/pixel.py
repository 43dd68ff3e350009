"""Rewards of single frames without weights: sharpness, colour, exposure, spectrum.

All of them are statistics that go with quality on honest clips and that noise, oversaturation or a
flat frame take further than any honest clip does; ``docs/rewards.md`` has the table. Grey is the
mean of the three channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.chunked import Moments, frame_blocks, mean_over, per_clip


def grey(videos: Tensor) -> Tensor:
    """Mean of the channels, (..., 3) -> (...)."""
    red, green, blue = videos.unbind(-1)
    return (red + green).add_(blue).div_(3)


def safe_sqrt(values: Tensor) -> Tensor:
    """Square root of values >= 0 whose gradient at zero is zero instead of nan."""
    positive = values > 0
    return torch.where(positive, values, 1.0).sqrt() * positive


def laplacian_variance(videos: Tensor) -> Tensor:
    """Variance over all pixels of a clip of the 5-point Laplacian of grey, (N,).

    The border pixels have no Laplacian. The focus measure of Pech-Pacheco et al. 2000.

    Args:
        videos: (N, F, H, W, 3), H and W at least 3.
    """

    def laplacian(block: Tensor) -> Tensor:
        x = grey(block)
        rows = x[:, :, :-2, 1:-1] + x[:, :, 2:, 1:-1]
        columns = x[:, :, 1:-1, :-2] + x[:, :, 1:-1, 2:]
        return rows + columns - 4 * x[:, :, 1:-1, 1:-1]

    def variance(clips: Tensor) -> Tensor:
        moments = Moments()
        for block in frame_blocks(clips):
            moments.add(laplacian(block))
        return moments.variance

    return per_clip(videos, variance)


def sobel_energy(videos: Tensor) -> Tensor:
    r"""Mean of :math:`G_x^2 + G_y^2` of grey with the 3x3 Sobel kernels, (N,).

    Tenengrad (Krotkov 1988) without threshold; kernels with weights 1, 2, 1, borders left out.

    Args:
        videos: (N, F, H, W, 3), H and W at least 3.
    """

    def energy(block: Tensor) -> Tensor:
        x = grey(block)
        down = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
        across = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
        gx = down[..., 2:] - down[..., :-2]
        gy = across[:, :, 2:] - across[:, :, :-2]
        return gx.square() + gy.square()

    return per_clip(videos, lambda clips: mean_over(map(energy, frame_blocks(clips))))


def hasler_susstrunk(videos: Tensor) -> Tensor:
    r"""Colourfulness M over all pixels of a clip, (N,).

    :math:`M = \sqrt{\sigma_{rg}^2 + \sigma_{yb}^2} + 0.3 \sqrt{\mu_{rg}^2 + \mu_{yb}^2}` with
    rg = R - G and yb = (R + G)/2 - B (Hasler and Süsstrunk 2003, eq. 1).
    """

    def metric(clips: Tensor) -> Tensor:
        rg, yb = Moments(), Moments()
        for block in frame_blocks(clips):
            red, green, blue = block.unbind(-1)
            rg.add(red - green)
            yb.add((red + green) / 2 - blue)
        offset = rg.mean.square() + yb.mean.square()
        return safe_sqrt(rg.variance + yb.variance) + 0.3 * safe_sqrt(offset)

    return per_clip(videos, metric)


def mean_exposure(videos: Tensor) -> Tensor:
    """Mean over frames of 1 - 2 |mean pixel - 1/2|, (N,): 1 at mid-grey, 0 at black and white."""

    def frames(block: Tensor) -> Tensor:
        flat = block.flatten(2)
        return 1 - 2 * (flat.sum(-1) / flat.shape[2] - 0.5).abs()

    return per_clip(videos, lambda clips: mean_over(map(frames, frame_blocks(clips))))


def chroma_range(videos: Tensor) -> Tensor:
    """Mean over pixels of the largest minus the smallest channel, (N,)."""

    def spread(block: Tensor) -> Tensor:
        red, green, blue = block.unbind(-1)
        high = torch.maximum(torch.maximum(red, green), blue)
        return high - torch.minimum(torch.minimum(red, green), blue)

    return per_clip(videos, lambda clips: mean_over(map(spread, frame_blocks(clips))))


def high_frequency_share(videos: Tensor) -> Tensor:
    """Energy above half the Nyquist frequency over all energy but the mean's, (N,).

    Of grey, per frame, then averaged; frequencies by their length in cycles per pixel, so white
    noise has a share of 1 - pi/16. A flat frame has no energy and counts as 0.
    """
    bands: dict[torch.device, Tensor] = {}

    def share(block: Tensor) -> Tensor:
        x = grey(block)
        energy = torch.view_as_real(torch.fft.rfft2(x)).square().flatten(2)
        if x.device not in bands:
            bands[x.device] = _bands(x.shape[-2], x.shape[-1], x.device)
        total, high = functional.linear(energy, bands[x.device].to(energy)).unbind(-1)
        some = total > 1e-12 * x[0, 0].numel() ** 2
        return high / torch.where(some, total, 1.0) * some

    return per_clip(videos, lambda clips: mean_over(map(share, frame_blocks(clips))))


def _bands(height: int, width: int, device: torch.device) -> Tensor:
    """Weights (2, 2hw) of all, and of the high, squared parts of an ``rfft2``, which holds half."""
    # In whole cycles per frame: as fractions, 1/2 and 1/4 are rounded to either side.
    rows = torch.arange(height, dtype=torch.int64, device=device)[:, None]
    rows = torch.minimum(rows, height - rows)
    columns = torch.arange(width // 2 + 1, dtype=torch.int64, device=device)
    # Every column but the first, and the last of an even width, stands for its mirror image too.
    twice = (columns > 0) & (2 * columns < width)
    every = (1 + twice.to(torch.float32)) * (rows + columns > 0)
    high = every * (16 * ((rows * width) ** 2 + (columns * height) ** 2) > (height * width) ** 2)
    return torch.stack([every, high]).flatten(1).repeat_interleave(2, dim=1)


class PixelReward(Reward):
    """A statistic of the pixels of a clip, given by :attr:`statistic`."""

    differentiable = True
    statistic: ClassVar[Any]
    """Static method (N, F, H, W, 3) -> (N,)."""

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); see :meth:`reelrl.rewards.Reward.score`."""
        scores: Tensor = type(self).statistic(videos)
        return scores


@register_reward("sharpness")
class Sharpness(PixelReward):
    """Variance of the Laplacian: sharp, or noisy."""

    name, bounds = "sharpness", (0.0, 16.0)
    formula = "Var(x * [0 1 0; 1 -4 1; 0 1 0]), grey"
    source = "Pech-Pacheco et al. 2000"
    least_side = 3
    statistic = staticmethod(laplacian_variance)


@register_reward("tenengrad")
class Tenengrad(PixelReward):
    """Energy of the Sobel gradients: sharp, or noisy."""

    # 20 is the largest Gx² + Gy² of any 3x3 patch in [0, 1].
    name, bounds = "tenengrad", (0.0, 20.0)
    formula = "mean(Gx² + Gy²), Sobel 3x3, grey"
    source = "Krotkov 1988"
    least_side = 3
    statistic = staticmethod(sobel_energy)


@register_reward("colourfulness")
class Colourfulness(PixelReward):
    """Spread and offset of the opponent colours: colourful, or oversaturated."""

    # By Cauchy-Schwarz, since rg² + yb² is at most 5/4 in the colour cube.
    name, bounds = "colourfulness", (0.0, math.sqrt(1.25 * 1.09))
    formula = "√(σrg² + σyb²) + 0.3 √(μrg² + μyb²), rg = R-G, yb = (R+G)/2 - B"
    source = "Hasler and Süsstrunk 2003, eq. 1"
    statistic = staticmethod(hasler_susstrunk)


@register_reward("exposure")
class Exposure(PixelReward):
    """Closeness of the mean brightness to mid-grey."""

    name, bounds = "exposure", (0.0, 1.0)
    formula = "mean_t 1 - 2 |mean(x_t) - 1/2|"
    source = "well-exposedness, cf. Mertens et al. 2007"
    statistic = staticmethod(mean_exposure)


@register_reward("over_saturation")
class OverSaturation(PixelReward):
    """Mean distance between the largest and the smallest channel, a penalty."""

    name, bounds, higher_is_better = "over_saturation", (0.0, 1.0), False
    formula = "mean(max(R,G,B) - min(R,G,B))"
    source = "chroma of the HSV hexcone, Smith 1978"
    statistic = staticmethod(chroma_range)


@register_reward("high_frequency_ratio")
class HighFrequencyRatio(PixelReward):
    """Share of the spectrum above half the Nyquist frequency, a penalty that sees noise."""

    name, bounds, higher_is_better = "high_frequency_ratio", (0.0, 1.0), False
    formula = "Σ_{|f| > 1/4} |X(f)|² / Σ_{f ≠ 0} |X(f)|² per frame, grey"
    source = "Parseval share of the 2-D discrete Fourier transform"
    statistic = staticmethod(high_frequency_share)
