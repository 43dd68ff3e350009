"""Rewards of consecutive frames without weights: differences of the first and second order.

None of them can tell motion from flicker, or smoothness from standing still; therefore use several
of them together, and never one alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reelrl.rewards.base import register_reward
from reelrl.rewards.chunked import mean_over, per_clip, pixel_blocks
from reelrl.rewards.pixel import PixelReward


def _over_frames(videos: Tensor, needed: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """(N,) mean of ``change`` along time; nan for clips of less than ``needed`` frames."""
    if videos.shape[1] < needed:
        return videos.new_full((len(videos),), torch.nan)
    return per_clip(videos, lambda clips: mean_over(map(change, pixel_blocks(clips))))


def frame_difference(videos: Tensor) -> Tensor:
    """Mean absolute difference of consecutive frames, (N,); nan for a single frame."""
    return _over_frames(videos, 2, lambda x: (x[:, 1:] - x[:, :-1]).abs())


def steadiness(videos: Tensor) -> Tensor:
    """1 - :func:`frame_difference`, (N,)."""
    return 1 - frame_difference(videos)


def interpolation_error(videos: Tensor) -> Tensor:
    """Mean absolute error of a frame as the mean of its neighbours, (N,); nan below 3 frames."""

    def error(x: Tensor) -> Tensor:
        return torch.sub(x[:, 1:-1], x[:, :-2] + x[:, 2:], alpha=0.5).abs()

    return _over_frames(videos, 3, error)


def smoothness(videos: Tensor) -> Tensor:
    """1 - :func:`interpolation_error`, (N,)."""
    return 1 - interpolation_error(videos)


def second_difference_energy(videos: Tensor) -> Tensor:
    """Mean square of x_{t+1} - 2 x_t + x_{t-1}, (N,); nan below 3 frames."""

    def energy(x: Tensor) -> Tensor:
        return torch.sub(x[:, 2:] + x[:, :-2], x[:, 1:-1], alpha=2).square()

    return _over_frames(videos, 3, energy)


@register_reward("motion_magnitude")
class MotionMagnitude(PixelReward):
    """Mean change between neighbouring frames: motion, flicker or noise."""

    name, bounds, fps_sensitive = "motion_magnitude", (0.0, 1.0), True
    formula = "MAE(x_t, x_{t-1})"
    source = "frame differencing"
    statistic = staticmethod(frame_difference)


@register_reward("temporal_flicker")
class TemporalFlicker(PixelReward):
    """VBench's temporal flickering: how little neighbouring frames differ; a still clip has 1."""

    name, bounds, fps_sensitive = "temporal_flicker", (0.0, 1.0), True
    formula = "1 - MAE(x_t, x_{t-1})"
    source = "VBench, vbench/temporal_flickering.py"
    statistic = staticmethod(steadiness)


@register_reward("linear_smoothness")
class LinearSmoothness(PixelReward):
    """How well a frame is the mean of its neighbours: smooth, or standing still."""

    name, bounds, fps_sensitive = "linear_smoothness", (0.0, 1.0), True
    formula = "1 - MAE(x_t, (x_{t-1} + x_{t+1})/2)"
    source = "VBench's motion smoothness with linear interpolation in place of AMT"
    statistic = staticmethod(smoothness)


@register_reward("acceleration")
class Acceleration(PixelReward):
    """Energy of the second difference in time, a penalty."""

    name, bounds, higher_is_better = "acceleration", (0.0, 4.0), False
    fps_sensitive = True
    formula = "mean (x_{t+1} - 2 x_t + x_{t-1})²"
    source = "second-order temporal difference"
    statistic = staticmethod(second_difference_energy)
