"""JPEG size as a reward, both ways: the easiest reward to climb and the easiest to look through.

DDPO (Black et al. 2023, section 5.1) rewards small or large files of single pictures. Two things
are different here. A JPEG file has some 600 bytes of tables, which would drown a 32x32 frame: the
size of a flat clip is subtracted. And frames go into one file under each other instead of one file
each, which codes the same blocks in a tenth of the calls.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.base import Reward, register_reward

QUALITY = 95
MAX_FRAMES = 16
"""Longer clips are judged by this many frames, spread evenly."""
MACROBLOCK = 16
"""Rows that JPEG codes together; frames are padded to it so that none leaks into the next."""


def file_size(picture: NDArray[np.uint8]) -> int:
    """Bytes of an RGB picture (H, W, 3) as a JPEG file of quality 95."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.tell()


@lru_cache(maxsize=32)
def flat_size(height: int, width: int) -> int:
    """Bytes of a flat picture: header, tables and empty blocks."""
    return file_size(np.full((height, width, 3), 128, dtype=np.uint8))


def column(clip: Tensor) -> NDArray[np.uint8]:
    """The judged frames of a clip (F, H, W, 3) in [0, 1] under each other, (f * h, W, 3)."""
    count = min(len(clip), MAX_FRAMES)
    rows = torch.linspace(0, len(clip) - 1, count).round().long().to(clip.device)
    frames = clip[rows].clamp(0, 1).mul(255).round_().to(torch.uint8).cpu()
    missing = -frames.shape[1] % MACROBLOCK
    if missing:
        planes = frames.movedim(-1, 1).float()
        planes = functional.pad(planes, (0, 0, 0, missing), mode="replicate")
        frames = planes.movedim(1, -1).to(torch.uint8)
    return frames.flatten(0, 1).numpy()


def kilobytes_per_frame(videos: Tensor) -> Tensor:
    """Mean kB (1000 bytes) of a frame beyond those of a flat one, (N,) on the videos' device."""

    def size(clip: Tensor) -> float:
        picture = column(clip)
        extra = file_size(picture) - flat_size(*picture.shape[:2])
        return extra / 1000 / min(len(clip), MAX_FRAMES)

    # libjpeg works without the interpreter's lock
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:
        sizes = list(pool.map(size, videos.detach()))
    return torch.tensor(sizes, dtype=torch.float32, device=videos.device)


class JpegReward(Reward):
    """Signed file size."""

    sign: ClassVar[float]
    source = "DDPO, Black et al. 2023, section 5.1; scale of flow_grpo"

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); see :meth:`reelrl.rewards.Reward.score`."""
        return self.sign * kilobytes_per_frame(videos) / 500


@register_reward("jpeg_compressibility")
class JpegCompressibility(JpegReward):
    """Small JPEG files: flat frames win."""

    name, bounds, sign = "jpeg_compressibility", (-float("inf"), 0.0), -1.0
    formula = "-(kB of a JPEG at quality 95 - kB of a flat one)/500 per frame"


@register_reward("jpeg_incompressibility")
class JpegIncompressibility(JpegReward):
    """Large JPEG files: noise wins."""

    name, bounds, sign = "jpeg_incompressibility", (0.0, float("inf")), 1.0
    formula = "(kB of a JPEG at quality 95 - kB of a flat one)/500 per frame"
