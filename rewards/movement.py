"""Rewards of movement without weights: dynamic degree, flow-warp error, global shake.

All three work on grey frames reduced to a short side of about 64 pixels
(:func:`~reelrl.rewards.optical_flow.reduced_grey`), and say so in units that do not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.chunked import clip_mean
from reelrl.rewards.optical_flow import backward_flow, reduced_grey, reduction, warp
from reelrl.rewards.pixel import PixelReward, safe_sqrt

VBENCH_FPS = 8.0
"""Frame rate that VBench thins clips to before it asks for movement."""
FASTEST = 0.05
"""Share of the pixels of a frame whose speed counts."""


def fastest_speed(flow: Tensor) -> Tensor:
    """Mean length of the fastest 5 % of displacements (2, ..., h, w), (...)."""
    length = safe_sqrt(flow[0].square() + flow[1].square()).flatten(-2)
    count = max(1, int(FASTEST * length.shape[-1]))
    return length.topk(count, dim=-1, sorted=False).values.mean(dim=-1)


class Dynamics(Reward):
    """VBench's dynamic degree, for any estimate of speed: 1 if enough frames move fast enough.

    A clip of n frames, thinned to about 8 per second, is dynamic if at least round(n / 4) of its
    pairs have a mean displacement of the fastest 5 % of pixels above 6 min(H, W) / 256, which
    grows with the gap where the clip has less than 8 frames per second.

    Args:
        fps: frame rate of the clips.

    Raises:
        ValueError: if it is not positive.
    """

    bounds, fps_sensitive = (0.0, 1.0), True
    formula = "1[#{t: mean of top 5 % |flow_t| > 6 min(H,W)/256} ≥ round(n/4)] at 8 fps"
    source = "VBench, vbench/dynamic_degree.py"

    def __init__(self, fps: float = VBENCH_FPS) -> None:
        if not fps > 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.fps = float(fps)

    def speeds(self, videos: Tensor) -> Tensor:
        """(N, F - 1) speed of the fastest pixels of every pair, in pixels per frame."""
        raise NotImplementedError

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); nan for clips of less than two frames."""
        thinned = videos[:, :: max(1, round(self.fps / VBENCH_FPS))]
        if thinned.shape[1] < 2:
            return videos.new_full((len(videos),), torch.nan)
        threshold = 6 * min(videos.shape[2:4]) / 256 * max(1.0, VBENCH_FPS / self.fps)
        # VBench's own count is 0 for two frames, which would call a still picture dynamic.
        needed = max(1, round(thinned.shape[1] / 4))
        moving = (self.speeds(thinned) > threshold).sum(dim=1)
        return (moving >= needed).to(torch.float32)


@register_reward("dynamic_degree")
class DynamicDegree(Dynamics):
    """Whether much moves, by Lucas-Kanade flow; true of shake, flicker of edges and noise."""

    name, least_side = "dynamic_degree", 2

    def speeds(self, videos: Tensor) -> Tensor:
        """(N, F - 1) by :func:`~reelrl.rewards.optical_flow.backward_flow`."""
        return fastest_speed(backward_flow(reduced_grey(videos))) * reduction(*videos.shape[2:4])


def warp_error(videos: Tensor) -> Tensor:
    """Mean absolute difference of grey frames and their predecessors moved along the flow, (N,)."""
    if videos.shape[1] < 2:
        return videos.new_full((len(videos),), torch.nan)
    frames = reduced_grey(videos)
    moved = warp(frames[:, :-1].flatten(0, 1), backward_flow(frames).flatten(1, 2))
    return clip_mean((frames[:, 1:] - moved.reshape(frames[:, 1:].shape)).abs())


@register_reward("flow_warp_error")
class FlowWarpError(PixelReward):
    """Mean difference between a frame and the frame before, warped onto it, a penalty."""

    name, bounds, higher_is_better = "flow_warp_error", (0.0, 1.0), False
    fps_sensitive = True
    formula = "MAE(x_t, warp(x_{t-1}, flow)), grey, short side about 64"
    source = "warping error of Lai et al. 2018 without its occlusion mask"
    least_side = 2
    statistic = staticmethod(warp_error)


def global_shifts(frames: Tensor) -> Tensor:
    """Translation of every frame against the one before, by phase correlation.

    The peak of the inverse transform of the normalised cross-power spectrum (Kuglin and Hines
    1975), refined to the centroid of the 5x5 values around it as OpenCV does.

    Args:
        frames: (N, F, h, w) grey.

    Returns:
        (N, F - 1, 2) pixels, x then y, each within half the frame.
    """
    height, width = frames.shape[-2:]
    shape = (height, width)
    rows = torch.hann_window(height, periodic=False, dtype=frames.dtype, device=frames.device)
    columns = torch.hann_window(width, periodic=False, dtype=frames.dtype, device=frames.device)
    centred = frames - frames.mean(dim=(-2, -1), keepdim=True)
    spectrum = torch.fft.rfft2(centred * rows[:, None] * columns)
    cross = spectrum[:, 1:] * spectrum[:, :-1].conj()
    strength = safe_sqrt(torch.view_as_real(cross).square().sum(-1))
    surface = torch.fft.irfft2(cross / (strength + 1e-9), s=shape).flatten(2)
    peak = surface.detach().argmax(dim=-1)
    reach = torch.arange(-2, 3, dtype=torch.int64, device=frames.device)
    y, x = peak[..., None] // width + reach, peak[..., None] % width + reach
    index = (y % height)[..., :, None] * width + (x % width)[..., None, :]
    weight = surface.gather(-1, index.flatten(-2)).reshape(index.shape).clamp_min(0)
    weight = weight / weight.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-9)
    place = torch.stack([(weight.sum(-2) * x).sum(-1), (weight.sum(-1) * y).sum(-1)], dim=-1)
    size = place.new_tensor([width, height])
    return place - size * (place > size / 2)


def shake(videos: Tensor) -> Tensor:
    """Spread of the second difference of the global position, in short sides, (N,).

    Below three frames there is no second difference: nan.
    """
    if videos.shape[1] < 3:
        return videos.new_full((len(videos),), torch.nan)
    frames = reduced_grey(videos)
    jerks = global_shifts(frames).diff(dim=1)
    variance = (jerks - jerks.mean(dim=1, keepdim=True)).square().mean(dim=1).sum(dim=-1)
    return safe_sqrt(variance) / min(frames.shape[-2:])


@register_reward("global_shake")
class GlobalShake(PixelReward):
    """Unsteadiness of the whole picture, a penalty: a smooth pan has none."""

    name, bounds, higher_is_better = "global_shake", (0.0, float("inf")), False
    fps_sensitive = True
    formula = "√(Var ∂²p_x + Var ∂²p_y) / min(H,W), p_t by phase correlation"
    source = "Kuglin and Hines 1975"
    statistic = staticmethod(shake)
