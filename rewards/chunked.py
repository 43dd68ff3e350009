"""Statistics of clips in pieces that stay in the processor's cache.

A temporary as large as a batch of long clips costs more than the arithmetic on it. A batch that
fits into one piece is computed in one, so its values do not depend on how batches are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

PIXELS = {"cpu": 2**17}
"""Pixels per piece by device type; an accelerator wants few large pieces."""
PIXELS_ELSEWHERE = 2**26


def _pixels(device: torch.device) -> int:
    return PIXELS.get(device.type, PIXELS_ELSEWHERE)


def per_clip(videos: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """``statistic`` of (n, F, H, W, 3) -> (n, ...) on pieces of the N clips, joined."""
    if not len(videos):
        return statistic(videos)
    size = max(1, _pixels(videos.device) // max(1, videos[0, ..., 0].numel()))
    return torch.cat([statistic(clips) for clips in torch.split(videos, size)])


def frame_blocks(clips: Tensor) -> Iterator[Tensor]:
    """Clips (n, F, H, W, 3) in pieces along F, for scores that look at frames one by one."""
    size = max(1, _pixels(clips.device) // max(1, clips[:, 0, ..., 0].numel()))
    yield from torch.split(clips, size, dim=1)


def spread_blocks(clips: Tensor, count: int) -> Iterator[Tensor]:
    """At most ``count`` frames of clips (n, F, H, W, 3), spread evenly, in pieces along F."""
    length = clips.shape[1]
    if length <= count:
        yield from frame_blocks(clips)
        return
    # One by one: a copy of the chosen frames of long clips is large.
    for t in (
        torch.linspace(0, length - 1, count, dtype=torch.float32, device="cpu")
        .round()
        .long()
        .tolist()
    ):
        yield clips[:, t : t + 1]


def pixel_blocks(clips: Tensor) -> Iterator[Tensor]:
    """Clips (n, F, H, W, 3) in pieces (n, F, p) of all frames, for scores along time alone."""
    flat = clips.flatten(2)
    size = max(1, 3 * _pixels(clips.device) // max(1, flat[..., 0].numel()))
    yield from torch.split(flat, size, dim=-1)


def clip_mean(values: Tensor) -> Tensor:
    """Mean over all but the first dimension, in an order that does not depend on the batch."""
    flat = values.flatten(1)
    return flat.sum(-1) / flat.shape[1]


def mean_over(blocks: Iterable[Tensor]) -> Tensor:
    """(n,) mean over all pieces (n, ...) together."""
    total, count = torch.zeros((), dtype=torch.float32, device="cpu"), 0
    for values in blocks:
        flat = values.flatten(1)
        total = flat.sum(-1) if not count else total + flat.sum(-1)
        count += flat.shape[1]
    return total / count


class Moments:
    """Mean and variance of pieces (n, ...) as they come, without cancellation.

    Pieces are merged by the update of Chan, Golub and LeVeque 1983, eq. 2.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.scatter = torch.zeros((), dtype=torch.float32, device="cpu")

    def add(self, values: Tensor) -> Moments:
        """Take in a piece; every piece must hold the same n clips."""
        flat = values.flatten(1)
        count = flat.shape[1]
        mean = flat.sum(-1) / count
        scatter = (flat - mean[:, None]).square().sum(-1)
        if not self.count:
            self.count, self.mean, self.scatter = count, mean, scatter
            return self
        both, gap = self.count + count, mean - self.mean
        self.scatter = self.scatter + scatter + gap.square() * (self.count * count / both)
        self.mean = self.mean + gap * (count / both)
        self.count = both
        return self

    @property
    def variance(self) -> Tensor:
        """(n,) population variance."""
        return self.scatter / self.count
