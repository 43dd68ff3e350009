"""Batched optical flow in torch: coarse-to-fine Lucas-Kanade on small grey frames.

Why our own: OpenCV's flows take one pair of frames at a time on the processor, scikit-image's too,
and a learned flow (:mod:`reelrl.rewards.image.raft`) needs weights. This one is a dozen dense
operations on all pairs of all clips, runs where the clips are, and lets gradients through. It is
meant for amounts of motion, not for sharp motion borders: windows are Gaussian, and frames are
reduced to a short side of about :data:`SHORT_SIDE` pixels first. At the objects of MovingShapes it
is off by a tenth of a pixel where OpenCV's Farnebäck flow, at about twice the cost, is off by a
hundredth.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.chunked import PIXELS_ELSEWHERE, frame_blocks, per_clip
from reelrl.rewards.pixel import grey

SHORT_SIDE = 64
"""Frames are reduced by whole factors while their short side stays at or above this."""
COARSEST = 16
"""Short side at which the pyramid ends."""
ITERATIONS = (3, 1)
"""Updates on the coarsest level and on every finer one."""
PAIR_PIXELS = {"cpu": 2**17}
"""Pixels of pairs taken together; the dozen fields per pair then stay in the processor's cache."""
WINDOW = 2.0
"""Standard deviation of the window in pixels of a level."""
DAMPING = 5e-4
"""Added to the structure tensor, so that gradients well below 0.02 per pixel count as flat."""


def reduction(height: int, width: int) -> int:
    """The whole factor by which :func:`reduced_grey` shrinks frames of that size."""
    return max(1, min(height, width) // SHORT_SIDE)


def reduced_grey(videos: Tensor) -> Tensor:
    """Grey frames (N, F, h, w) of clips (N, F, H, W, 3), averaged over squares of pixels."""
    factor = reduction(*videos.shape[2:4])

    def reduce(block: Tensor) -> Tensor:
        frames = grey(block)
        return functional.avg_pool2d(frames, factor) if factor > 1 else frames

    return per_clip(
        videos, lambda clips: torch.cat([reduce(block) for block in frame_blocks(clips)], dim=1)
    )


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _window(size: int, device: torch.device) -> Tensor:
    """(size, size) matrix that smooths a row with a Gaussian cut at the borders."""
    place = torch.arange(size, device=device, dtype=torch.float32)
    weights = torch.exp(-((place[:, None] - place) ** 2) / (2 * WINDOW**2))
    return weights / weights.sum(dim=1, keepdim=True)


def _smooth(images: Tensor) -> Tensor:
    """Windowed means of (..., h, w): as matrix products, the fastest separable filter here."""
    height, width = images.shape[-2:]
    rows, columns = _window(height, images.device), _window(width, images.device)
    return rows.to(images) @ (images @ columns.T.to(images))


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _interpolation(old: int, new: int, device: torch.device) -> Tensor:
    """(new, old) matrix that stretches a column linearly, pixel areas aligned."""
    eye = torch.eye(old, dtype=torch.float32, device=device)[:, None]
    return functional.interpolate(eye, size=new, mode="linear")[:, 0].T.contiguous()


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _difference(size: int, device: torch.device) -> Tensor:
    """(size, size) matrix of central differences along a row, one-sided at its ends."""
    eye = torch.eye(size, dtype=torch.float32, device=device)
    return torch.gradient(eye, dim=0)[0]


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of (..., h, w) along x and y."""
    height, width = images.shape[-2:]
    rows, columns = _difference(height, images.device), _difference(width, images.device)
    return images @ columns.T.to(images), rows.to(images) @ images


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _places(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Every pixel's x and y (2, 1, h, w) in [-1, 1], and a pixel's size there (2, 1, 1, 1)."""
    y, x = (
        torch.linspace(-1, 1, size, dtype=torch.float32, device=device) for size in (height, width)
    )
    places = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1])[:, None]
    pixel = [2 / max(1, width - 1), 2 / max(1, height - 1)]
    step = torch.tensor(pixel, dtype=torch.float32, device=device)
    return places, step[:, None, None, None]


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Bilinear values of images (M, h, w) at every pixel moved by flow (2, M, h, w), x then y.

    Places outside take the border's value.
    """
    places, step = _places(*images.shape[-2:], images.device)
    grid = torch.addcmul(places.to(images), flow, step.to(images)).movedim(0, -1)
    moved = functional.grid_sample(
        images[:, None], grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return moved[:, 0]


def _refine(still: Tensor, moving: Tensor, flow: Tensor, iterations: int) -> Tensor:
    """Lucas-Kanade updates of ``flow`` with the gradient of ``still``, which is fixed."""
    dx, dy = _gradients(still)
    xx, xy, yy = _smooth(dx * dx) + DAMPING, _smooth(dx * dy), _smooth(dy * dy) + DAMPING
    scale = 1 / (xx * yy - xy * xy)
    xx, xy, yy = xx * scale, xy * scale, yy * scale
    for _ in range(iterations):
        error = still - warp(moving, flow)
        px, py = _smooth(dx * error), _smooth(dy * error)
        flow = flow + torch.stack([yy * px - xy * py, xx * py - xy * px])
    return flow


def backward_flow(frames: Tensor) -> Tensor:
    """Where every pixel of a frame was one frame before.

    Lucas and Kanade 1981 on a pyramid (Bouguet 2001): per level, minimise
    sum_w (x_{t-1}(p + u) - x_t(p))² over the window w by Gauss-Newton steps.

    Args:
        frames: (N, F, h, w) grey in [0, 1].

    Returns:
        (2, N, F - 1, h, w) displacements in pixels, x then y.
    """
    count, length, height, width = frames.shape
    still, moving = frames[:, 1:].flatten(0, 1), frames[:, :-1].flatten(0, 1)
    size = max(1, PAIR_PIXELS.get(frames.device.type, PIXELS_ELSEWHERE) // (height * width))
    parts = [
        _pairs(a, b)
        for a, b in zip(torch.split(still, size), torch.split(moving, size), strict=True)
    ]
    return torch.cat(parts, dim=1).reshape(2, count, length - 1, height, width)


def _pairs(still: Tensor, moving: Tensor) -> Tensor:
    """Flow (2, M, h, w) from frames ``still`` (M, h, w) to frames ``moving``."""
    levels = [(still, moving)]
    while min(levels[-1][0].shape[-2:]) >= 2 * COARSEST:
        still, moving = levels[-1]
        levels.append((functional.avg_pool2d(still, 2), functional.avg_pool2d(moving, 2)))
    flow = still.new_zeros(2, *levels[-1][0].shape)
    for depth, (still, moving) in enumerate(reversed(levels)):
        if depth:
            flow = _enlarge(flow, still.shape[-2:])
        flow = _refine(still, moving, flow, ITERATIONS[depth > 0])
    return flow


def _enlarge(flow: Tensor, size: torch.Size) -> Tensor:
    """The flow (2, M, h, w) of a coarse level on a finer one, in its pixels."""
    rows = _interpolation(flow.shape[-2], size[0], flow.device).to(flow)
    columns = _interpolation(flow.shape[-1], size[1], flow.device).T.to(flow)
    ratio = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]])
    return rows @ (flow @ columns) * ratio[:, None, None, None]
