"""Tools of the attacks on the scores: the scene behind clips, and ways to change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reelrl.rewards.moving_shapes.world import (
    COLOURS,
    SHAPES,
    Clips,
    caption_to_factors,
    draw,
    track,
)

Generate = Callable[[Clips, torch.Generator], Tensor]
"""(clean clips, generator) -> videos (N, F, S, S, 3) in [0, 1]."""
Kind = Literal["clean", "degradation", "attack", "invented"]


@dataclass(frozen=True)
class Attack:
    """One way to change clean clips, and the effect it must have on the scores.

    Attributes:
        name: row of the table.
        generate: makes the videos.
        kind: "clean" and "degradation" calibrate the score, "attack" is of the suite the score was
            designed on, "invented" was added afterwards to look for holes.
        gold: bound on the mean gold score: at least this for "clean", at most this for the
            others; None where nothing is asked.
        hacks: names of the proxies whose mean rises above their mean on the clean clips.
    """

    name: str
    generate: Generate
    kind: Kind
    gold: float | None = 0.40
    hacks: tuple[str, ...] = ()

    @property
    def doc(self) -> str:
        """First line of the generating function's docstring."""
        return (self.generate.__doc__ or "").split("\n")[0]


@dataclass(frozen=True)
class Scene:
    """The scene behind N clips, ready to be changed and drawn again.

    Attributes:
        shape: (N,) indices.
        colour: (N, 3).
        centre: (N, F, 2) pixels.
        radius: (N,) pixels.
        size: height and width of a frame.
    """

    shape: Tensor
    colour: Tensor
    centre: Tensor
    radius: Tensor
    size: int

    @classmethod
    def of(cls, clips: Clips) -> Scene:
        """Recover the scene from captions and tracks."""
        factors = [caption_to_factors(caption) for caption in clips.captions]
        return cls(
            shape=torch.tensor(
                [SHAPES.index(f.shape) for f in factors], dtype=torch.int64, device="cpu"
            ),
            colour=palette()[colour_index(clips)],
            centre=track(clips.middle, clips.velocity, clips.videos.shape[1]),
            radius=clips.radius,
            size=clips.videos.shape[2],
        )

    def draw(self) -> Tensor:
        """Videos (N, F, S, S, 3) of this scene."""
        return draw(self.shape, self.colour, self.centre, self.radius, self.size)


def palette() -> Tensor:
    """The world's colours, (6, 3)."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32, device="cpu")


def colour_index(clips: Clips) -> Tensor:
    """Captioned colour of every clip, (N,)."""
    names = list(COLOURS)
    return torch.tensor(
        [names.index(caption_to_factors(c).colour) for c in clips.captions],
        dtype=torch.int64,
        device="cpu",
    )


def other(index: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A uniform index below ``count`` that differs from ``index``, elementwise."""
    return (
        index
        + torch.randint(1, count, index.shape, generator=generator, dtype=torch.int64, device="cpu")
    ) % count


def add_noise(videos: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add white noise of standard deviation ``sigma`` and clip to [0, 1]."""
    return (
        videos
        + sigma * torch.randn(videos.shape, generator=generator, dtype=torch.float32, device="cpu")
    ).clamp(0, 1)


def shift(videos: Tensor, offsets: Tensor) -> Tensor:
    """Move frame f of clip n by whole pixels ``offsets[n, f] = (x, y)``, repeating the border."""
    size = videos.shape[2]
    grid = torch.arange(size, dtype=torch.int64, device="cpu")
    x = (grid - offsets[..., 0, None]).clamp(0, size - 1)
    y = (grid - offsets[..., 1, None]).clamp(0, size - 1)
    clip = torch.arange(len(videos), dtype=torch.int64, device="cpu")[:, None, None, None]
    frame = torch.arange(videos.shape[1], dtype=torch.int64, device="cpu")[None, :, None, None]
    return videos[clip, frame, y[..., :, None], x[..., None, :]]
