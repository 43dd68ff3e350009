"""Pictures of clips: contact sheets of their frames, and animations."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from jaxtyping import UInt8

SHEET_FRAMES = 9
"""A contact sheet shows at most this many frames, evenly spaced, the last one among them."""


def contact_sheet(video: UInt8[NDArray[np.uint8], "F H W 3"]) -> UInt8[NDArray[np.uint8], "h w 3"]:
    """Frames of a clip (F, H, W, 3) in reading order on one picture, as square as it gets.

    Cells without a frame are black.
    """
    count = min(len(video), SHEET_FRAMES)
    frames = video[np.linspace(0, len(video) - 1, count).round().astype(int)]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    height, width, channels = video.shape[1:]
    cells = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    cells[:count] = frames
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(rows * height, columns * width, channels))


def encode_gif(video: UInt8[NDArray[np.uint8], "F H W 3"], milliseconds: int = 120) -> bytes:
    """A clip (F, H, W, 3) as an endless GIF, each frame with a palette of its own.

    Args:
        video: frames; neighbours that are equal become one that is shown longer.
        milliseconds: per frame.
    """
    from PIL import Image

    first, *others = [Image.fromarray(frame) for frame in video]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()
