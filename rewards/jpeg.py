"""JPEG size as a reward, both ways: the easiest reward to climb and the easiest to look through.

DDPO (Black et al. 2023, section 5.1) rewards small or large files of single pictures. Two things
are different here. A JPEG file has some 600 bytes of tables, which would drown a 32x32 frame: the
size of a flat clip is subtracted. And frames go into one file under each other instead of one file
each, which codes the same blocks in a tenth of the calls.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.chunked import per_clip, spread_blocks

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


def columns(clips: Tensor) -> NDArray[np.uint8]:
    """The judged frames of clips (n, F, H, W, 3) in [0, 1] under each other, (n, f * h, W, 3)."""
    # In pieces: a copy of long clips costs more than their files.
    blocks = spread_blocks(clips, MAX_FRAMES)
    bytes_ = [block.clamp(0, 1).mul_(255).round_().to(torch.uint8).cpu() for block in blocks]
    frames = torch.cat(bytes_, dim=1)
    missing = -frames.shape[2] % MACROBLOCK
    if missing:
        frames = torch.cat([frames, frames[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    return frames.flatten(1, 2).numpy()


def kilobytes_per_frame(videos: Tensor) -> Tensor:
    """Mean kB (1000 bytes) of a frame, less the kB of a flat frame, (N,) on the videos' device."""
    count = min(videos.shape[1], MAX_FRAMES)

    def sizes(clips: Tensor) -> Tensor:
        pictures = columns(clips)
        extra = [file_size(picture) - flat_size(*picture.shape[:2]) for picture in pictures]
        return torch.tensor(extra, dtype=torch.float32, device=videos.device) / 1000 / count

    return per_clip(videos.detach(), sizes)


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
