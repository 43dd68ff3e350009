import pytest
import torch

from reelrl.rewards import chunked
from reelrl.rewards.chunked import (
    Moments,
    frame_blocks,
    mean_over,
    per_clip,
    pixel_blocks,
    spread_blocks,
)


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


@pytest.mark.parametrize("cut", [frame_blocks, pixel_blocks])
def test_pieces_hold_every_value_once(monkeypatch, cut):
    monkeypatch.setattr(chunked, "PIXELS", {"cpu": 2 * 3 * 4 * 4})
    videos = torch.rand(2, 10, 4, 4, 3, generator=seeded())
    pieces = list(cut(videos))
    assert len(pieces) > 1
    whole = torch.cat([piece.flatten(2) for piece in pieces], dim=1 if cut is frame_blocks else 2)
    assert torch.equal(whole, videos.flatten(2))
    torch.testing.assert_close(mean_over(pieces), videos.flatten(1).mean(1))


def test_frames_are_spread_over_the_whole_clip():
    videos = torch.arange(9.0).view(1, 9, 1, 1, 1).expand(2, 9, 4, 4, 3)
    some = torch.cat(list(spread_blocks(videos, 3)), dim=1)
    assert some[0, :, 0, 0, 0].tolist() == [0, 4, 8]
    assert torch.equal(torch.cat(list(spread_blocks(videos, 9)), dim=1), videos)


def test_pieces_of_pixels_hold_all_frames(monkeypatch):
    monkeypatch.setattr(chunked, "PIXELS", {"cpu": 2 * 3 * 4 * 4})
    assert {piece.shape[1] for piece in pixel_blocks(torch.rand(2, 10, 4, 4, 3))} == {10}


@pytest.mark.parametrize("pixels", [1, 100, 2**20])
def test_clips_are_cut_and_joined_in_order(monkeypatch, pixels):
    monkeypatch.setattr(chunked, "PIXELS", {"cpu": pixels})
    videos = torch.rand(7, 2, 4, 4, 3, generator=seeded())
    assert torch.equal(per_clip(videos, lambda c: c.flatten(1).amax(1)), videos.flatten(1).amax(1))
    assert per_clip(videos[:0], lambda c: c.flatten(1).sum(1)).shape == (0,)
