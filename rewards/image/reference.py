"""Real clips to hold generated ones against: rendered for the captions, or a given set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reelrl.rewards.moving_shapes.world import caption_to_factors, render


def as_bytes(clips: Tensor) -> Tensor:
    """Clips of bytes, or in [0, 1], as bytes.

    Raises:
        ValueError: for another kind of numbers.
    """
    if clips.dtype == torch.uint8:
        return clips
    if not clips.is_floating_point() or not bool(((clips >= 0) & (clips <= 1)).all()):
        raise ValueError(f"clips must be uint8 or in [0, 1], got {clips.dtype} outside of it")
    return clips.mul(255).round().to(torch.uint8)


def as_shown(frames: Tensor) -> Tensor:
    """Frames in [0, 1] with the 256 levels of a picture's bytes."""
    return frames.clamp(0, 1).mul(255).round().div(255)


@dataclass(frozen=True)
class ReferenceClips:
    """Where real clips come from.

    Attributes:
        clips: (M, F, H, W, 3) uint8 to draw from; None renders MovingShapes.
    """

    clips: Tensor | None = None

    @classmethod
    def of(cls, source: Any) -> ReferenceClips:
        """From None, an array or tensor (M, F, H, W, 3), or a folder of ``.npy`` clips.

        Raises:
            ValueError: for clips of the wrong shape, or of different ones.
            FileNotFoundError: for a folder without any.
        """
        if source is None:
            return cls()
        if isinstance(source, str | Path):
            source = _read_folder(Path(source))
        clips = as_bytes(torch.as_tensor(source, device="cpu"))
        if clips.ndim != 5 or clips.shape[-1] != 3 or not len(clips):
            raise ValueError(
                f"reference clips must be (M, F, H, W, 3) with M > 0, got {tuple(clips.shape)}"
            )
        return cls(clips)

    def draw(
        self, shape: Sequence[int], prompts: Sequence[str], generator: torch.Generator
    ) -> Tensor:
        """As many real clips as there are generated ones, (N, F, H, W, 3) uint8.

        Rendered clips follow the captions; given clips are drawn without regard to them.

        Args:
            shape: of the generated clips, (N, F, H, W, 3).
            prompts: their N captions.
            generator: on the host.

        Raises:
            ValueError: for a caption that MovingShapes has no clip of, or references of another
                picture size, which a discriminator would tell by nothing but that.
        """
        count, length, height, width = shape[:4]
        if self.clips is None:
            if height != width:
                raise ValueError(f"MovingShapes clips are square, the rollout's {height}x{width}")
            try:
                factors = [caption_to_factors(prompt) for prompt in prompts]
            except ValueError as error:
                raise ValueError(f"{error}; for other prompts give real= clips") from error
            clips = render(factors, generator, num_frames=length, size=height).videos
            return as_bytes(clips.clamp(0, 1))
        if tuple(self.clips.shape[2:4]) != (height, width):
            raise ValueError(
                f"reference clips must be {height}x{width} as the rollout's, got "
                f"{self.clips.shape[2]}x{self.clips.shape[3]}"
            )
        return self.clips[
            torch.randint(
                len(self.clips), (count,), generator=generator, dtype=torch.int64, device="cpu"
            )
        ]


def _read_folder(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise FileNotFoundError(f"expected clips as .npy files in {folder}, got none")
    clips = [np.load(file, allow_pickle=False) for file in files]
    shapes = {clip.shape for clip in clips}
    if len(shapes) > 1:
        raise ValueError(f"reference clips in {folder} must be of one shape, got {sorted(shapes)}")
    return np.stack(clips)
