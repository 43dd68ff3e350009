"""From a clip to the patches a Qwen vision tower reads: choose frames, resize, cut up.

The same arithmetic as the processors of ``transformers`` and ``qwen-vl-utils``, on float tensors of
any device; the stock processors need torchvision and go through bytes in some versions.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MIN_FRAMES = 4
"""``qwen-vl-utils`` shows a model at least this many frames when it samples by rate."""
MAX_ASPECT = 200
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel statistics of CLIP's training images (Radford et al. 2021, released code)."""


@dataclass(frozen=True)
class PatchConfig:
    """How frames become patches.

    Attributes:
        patch: edge of a patch in pixels.
        merge: patches per token along an edge.
        temporal: frames per patch.
        min_pixels: smallest area of a resized frame.
        max_pixels: largest one.
        mean: of the channels, which have ranges [0, 1].
        std: of the channels.
    """

    patch: int = 14
    merge: int = 2
    temporal: int = 2
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def from_folder(cls, folder: Path) -> PatchConfig:
        """Read a model folder's processor files; settings that they lack get our defaults.

        The pixel range of ``preprocessor_config.json`` is one for images, so only the range of
        ``video_preprocessor_config.json`` counts; without it the range is ``qwen-vl-utils``'s for
        videos.
        """
        shared = _read(folder / "preprocessor_config.json")
        video = _read(folder / "video_preprocessor_config.json")
        facts = {**shared, **video}
        size = video.get("size") or {}
        default = cls()
        return cls(
            int(facts.get("patch_size", default.patch)),
            int(facts.get("merge_size", default.merge)),
            int(facts.get("temporal_patch_size", default.temporal)),
            int(video.get("min_pixels") or size.get("shortest_edge") or default.min_pixels),
            int(video.get("max_pixels") or size.get("longest_edge") or default.max_pixels),
            tuple(facts.get("image_mean", default.mean)),
            tuple(facts.get("image_std", default.std)),
        )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def frames_by_rate(total: int, clip_fps: float, sample_fps: float) -> list[int]:
    """Indices of ``sample_fps`` frames a second out of ``total`` at ``clip_fps``.

    The count is total / clip_fps * sample_fps, at least 4, at most the largest even number of
    frames there are, rounded to an even number; the frames are spread evenly over the clip with
    both ends in it (VideoAlign, ``vision_process.py``).
    """
    limit = total // 2 * 2
    wanted = min(max(total / clip_fps * sample_fps, MIN_FRAMES), limit)
    return frames_by_count(total, min(round(wanted / 2) * 2, total))


def frames_by_count(total: int, count: int) -> list[int]:
    """Indices of ``count`` frames spread evenly over ``total`` with both ends in it.

    All frames if there are no more than ``count``.
    """
    if count >= total:
        return list(range(total))
    return (
        torch.linspace(0, total - 1, count, dtype=torch.float32, device="cpu")
        .round()
        .long()
        .tolist()
    )


def fit_size(height: int, width: int, config: PatchConfig) -> tuple[int, int]:
    """Height and width of a resized frame: multiples of patch * merge, area in the range.

    Each edge is rounded to the nearest multiple; an area out of range is scaled by the square root
    of its excess and rounded inwards (``smart_resize`` of transformers).

    Raises:
        ValueError: for a frame more than 200 times as long as wide.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(
            f"expected frames at most {MAX_ASPECT} times as long as wide, got {height}x{width}"
        )
    factor = config.patch * config.merge
    rows, columns = (max(factor, round(edge / factor) * factor) for edge in (height, width))
    if rows * columns > config.max_pixels:
        shrink = math.sqrt(height * width / config.max_pixels)
        rows, columns = (
            max(factor, math.floor(edge / shrink / factor) * factor) for edge in (height, width)
        )
    elif rows * columns < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (height * width))
        rows, columns = (math.ceil(edge * grow / factor) * factor for edge in (height, width))
    return rows, columns


def to_patches(clips: Tensor, config: PatchConfig) -> tuple[Tensor, tuple[int, int, int]]:
    """Patches of clips of one size.

    A last group of frames that is short is filled with the last frame.

    Args:
        clips: (N, F, H, W, 3) in [0, 1].
        config: sizes, pixel range and channel statistics.

    Returns:
        (N * T * Y * X, 3 * temporal * patch * patch) patches in the order of the model's tokens
        (row pairs and column pairs of a merged token together), and the grid (T, Y, X).
    """
    rows, columns = fit_size(clips.shape[2], clips.shape[3], config)
    pixels = clips.movedim(-1, 2).flatten(0, 1)
    if (rows, columns) != tuple(pixels.shape[2:]):
        pixels = interpolate(pixels, (rows, columns), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    frames = torch.unflatten((pixels - mean) / std, 0, clips.shape[:2])
    short = -frames.shape[1] % config.temporal
    frames = torch.cat([frames, frames[:, -1:].expand(-1, short, -1, -1, -1)], dim=1)
    grid = (frames.shape[1] // config.temporal, rows // config.patch, columns // config.patch)
    cut = torch.unflatten(frames, 1, (grid[0], config.temporal))
    cut = torch.unflatten(cut, 5, (grid[2] // config.merge, config.merge, config.patch))
    cut = torch.unflatten(cut, 4, (grid[1] // config.merge, config.merge, config.patch))
    # n t (in time) c, Y y (in row), X x (in column) -> n t Y X y x c (in time) (in row) (in column)
    order = cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return order.reshape(len(clips) * math.prod(grid), -1), grid
