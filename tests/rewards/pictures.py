"""Pictures with structure, and windows that move over them, for tests of movement."""

import torch
from torch.nn import functional


def texture(size=96):
    """A smooth picture with structure at several scales."""
    noise = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(5))
    soft = [functional.avg_pool2d(noise, k, 1, k // 2) * k for k in (5, 11)]
    picture = sum(soft)
    return ((picture - picture.min()) / (picture.max() - picture.min()))[0, 0]


def window(picture, x, y, size=64):
    """The part of a picture that starts at (x, y), which need not be whole."""
    edge = picture.shape[0] - 1
    rows = (torch.arange(size) + y) / edge * 2 - 1
    columns = (torch.arange(size) + x) / edge * 2 - 1
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)
    return functional.grid_sample(picture[None, None], grid[None], align_corners=True)[0, 0]
