"""Real clips: drawn for the captions, or from what was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reelrl.rewards.image.reference import ReferenceClips, as_bytes, as_shown
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts

CAPTIONS = ["a red circle moving right fast", "a blue square moving up"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_rendered_clips_show_what_the_captions_say():
    clips = ReferenceClips().draw((2, 9, 32, 32, 3), CAPTIONS, generator())
    assert clips.dtype == torch.uint8 and clips.shape == (2, 9, 32, 32, 3)
    assert (gold_axes_of_prompts(clips.float() / 255, CAPTIONS).gold > 0.9).all()
    again = ReferenceClips().draw((2, 9, 32, 32, 3), CAPTIONS, generator())
    assert torch.equal(clips, again)
    other = ReferenceClips().draw((2, 9, 32, 32, 3), CAPTIONS, generator(1))
    assert not torch.equal(clips, other)


def test_given_clips_are_drawn_from():
    given = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1, 1).expand(4, 2, 8, 8, 3)
    for source in (given, given.numpy(), given.float() / 255):
        drawn = ReferenceClips.of(source).draw((64, 5, 8, 8, 3), ["x"] * 64, generator())
        assert drawn.shape == (64, 2, 8, 8, 3)
        assert set(drawn[:, 0, 0, 0, 0].tolist()) == {0, 1, 2, 3}


def test_a_folder_of_clips(tmp_path):
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", np.full((3, 4, 4, 3), i / 2, dtype=np.float32))
    assert ReferenceClips.of(tmp_path).clips[1].unique().tolist() == [128]
    np.save(tmp_path / "other.npy", np.zeros((1, 4, 4, 3), dtype=np.float32))
    with pytest.raises(ValueError, match=r"of one shape, got \[\(1, 4, 4, 3\), \(3, 4, 4, 3\)\]"):
        ReferenceClips.of(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"as \.npy files"):
        ReferenceClips.of(tmp_path / "nothing")


def test_bytes_and_what_is_shown_of_them():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_bytes(levels.float() / 255), levels)
    assert torch.equal(as_shown(levels.float() / 255), levels.float() / 255)
    assert float(as_shown(torch.tensor(0.5005))) == pytest.approx(128 / 255)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(2, 3, 4, 4), r"must be \(M, F, H, W, 3\) with M > 0, got \(2, 3, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4, 3), "M > 0"),
        (torch.full((1, 3, 4, 4, 3), 2.0), r"uint8 or in \[0, 1\]"),
        (torch.zeros(1, 3, 4, 4, 3, dtype=torch.int64), "got torch.int64"),
    ],
)
def test_what_is_no_clip_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        ReferenceClips.of(source)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="must be 8x8 as the rollout's, got 4x4"):
        ReferenceClips.of(torch.zeros(1, 3, 4, 4, 3)).draw((1, 3, 8, 8, 3), ["a"], generator())
    with pytest.raises(ValueError, match="square, the rollout's 8x16"):
        ReferenceClips().draw((1, 5, 8, 16, 3), CAPTIONS[:1], generator())
