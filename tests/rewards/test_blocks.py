import pytest
import torch

from reelrl.rewards import blocks
from reelrl.rewards.blocks import Moments, frame_blocks, mean_over, per_clip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_moments_of_pieces_are_the_moments_of_all(pieces):
    values = 100 + torch.randn(5, 42, generator=seeded(), dtype=torch.float64)
    moments = Moments()
    for piece in values.split(42 // pieces, dim=1):
        moments.add(piece)
    torch.testing.assert_close(moments.mean, values.mean(1))
    torch.testing.assert_close(moments.variance, values.var(1, unbiased=False))


def test_overlapping_blocks_hold_every_pair_once(monkeypatch):
    monkeypatch.setattr(blocks, "PIXELS", {"cpu": 2 * 3 * 4 * 4})
    videos = torch.rand(2, 10, 4, 4, 3, generator=seeded())
    pairs = [b[:, 1:] - b[:, :-1] for b in frame_blocks(videos, overlap=1)]
    assert len(pairs) > 1
    assert torch.equal(torch.cat(pairs, 1), videos.diff(dim=1))
    torch.testing.assert_close(mean_over(pairs), videos.diff(dim=1).flatten(1).mean(1))


@pytest.mark.parametrize("pixels", [1, 100, 2**20])
def test_clips_are_cut_and_joined_in_order(monkeypatch, pixels):
    monkeypatch.setattr(blocks, "PIXELS", {"cpu": pixels})
    videos = torch.rand(7, 2, 4, 4, 3, generator=seeded())
    assert torch.equal(per_clip(videos, lambda c: c.flatten(1).amax(1)), videos.flatten(1).amax(1))
    assert per_clip(videos[:0], lambda c: c.flatten(1).sum(1)).shape == (0,)
