"""Randomness that belongs to a clip: the same in any batch, process and order of calls.

A component with a generator of its own would give a clip a score that depends on the clips scored
before, and no checkpoint knows those.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def clip_words(videos: Tensor, seed: int) -> list[list[int]]:
    """Two words of entropy per clip: the seed, and a hash of the clip's pixels at 8 bits.

    Args:
        videos: (N, F, H, W, 3) in [0, 1] or bytes.
        seed: of the component.
    """
    if videos.dtype != torch.uint8:
        videos = (videos.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = videos.cpu().numpy()
    return [[seed, zlib.crc32(np.ascontiguousarray(clip).tobytes())] for clip in pixels]
