"""Strips, sheets of them, and GIFs of clips, with nothing but Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from reelrl.envs.rendering import encode_gif
from reelrl.envs.task import to_uint8

SCALE = 2
"""Screen pixels per clip pixel."""
LABEL_HEIGHT = 14
GAP = 2


def _enlarged(frame: Tensor, scale: int) -> Image.Image:
    image = Image.fromarray(frame.numpy())
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def strip(video: Tensor, scale: int = SCALE) -> Image.Image:
    """All frames of one clip (F, H, W, 3) side by side."""
    frames = [_enlarged(frame, scale) for frame in to_uint8(video)]
    width, height = frames[0].size
    sheet = Image.new("RGB", ((width + GAP) * len(frames) - GAP, height), "white")
    for index, frame in enumerate(frames):
        sheet.paste(frame, (index * (width + GAP), 0))
    return sheet


def _sheet(videos: Tensor, labels: Sequence[str], columns: int, scale: int) -> Image.Image:
    strips = [strip(video, scale) for video in videos]
    label = LABEL_HEIGHT if labels else 0
    rows = -(-len(strips) // columns)
    width, height = strips[0].width + 4 * GAP, strips[0].height + label + GAP
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(strips):
        x, y = index // rows * width, index % rows * height
        if labels:
            draw.text((x + 2, y + 1), labels[index], fill="black")
        sheet.paste(picture, (x, y + label))
    return sheet


def save_sheet(
    path: Path,
    videos: Tensor,
    labels: Sequence[str] = (),
    columns: int = 1,
    scale: int = SCALE,
) -> None:
    """Write one strip per clip as PNG, in columns, each under its label if labels are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sheet(videos, labels, columns, scale).save(path, optimize=True)


def save_gif(path: Path, video: Tensor, *, scale: int = 8, milliseconds: int = 120) -> None:
    """Write one clip (F, H, W, 3) as an endless GIF."""
    frames = np.stack([np.asarray(_enlarged(frame, scale)) for frame in to_uint8(video)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_gif(frames, milliseconds))
