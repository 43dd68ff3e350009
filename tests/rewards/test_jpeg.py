import io

import numpy as np
import pytest
import torch
from PIL import Image

from reelrl.rewards import make_reward
from reelrl.rewards.jpeg import MAX_FRAMES, kilobytes_per_frame
from reelrl.rewards.moving_shapes.world import sample_clips


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(video):
    """Mean kB of the frames as files of their own, less a flat frame's."""
    sizes = []
    for frame in [*video, torch.full_like(video[0], 128 / 255)]:
        buffer = io.BytesIO()
        array = (frame * 255).round().to(torch.uint8).numpy()
        Image.fromarray(array).save(buffer, format="JPEG", quality=95)
        sizes.append(len(buffer.getvalue()))
    return (np.mean(sizes[:-1]) - sizes[-1]) / 1000


@pytest.mark.parametrize("size", [32, 48, 40])
def test_one_file_is_as_large_as_its_frames_alone(size):
    noise = torch.rand(2, 4, size, size, 3, generator=seeded())
    soft = torch.nn.functional.avg_pool3d(noise.movedim(-1, 1), (1, 5, 5), 1, (0, 2, 2))
    clips = torch.cat([noise, soft.movedim(1, -1)])
    expected = [one_by_one(clip) for clip in clips]
    # Blocks are coded against their neighbour, which is another one in the column, and where the
    # height is no multiple of 16, libjpeg fills the last blocks more thriftily than we do.
    tolerance = 0.03 if size % 16 == 0 else 0.08
    np.testing.assert_allclose(kilobytes_per_frame(clips), expected, rtol=tolerance)


def test_the_header_does_not_drown_a_small_frame():
    clean = sample_clips(4, seeded()).videos
    noisy = torch.rand(clean.shape, generator=seeded())
    flat = torch.full_like(clean, 0.3)
    assert kilobytes_per_frame(flat).abs().max() < 0.01
    assert (kilobytes_per_frame(noisy) > 2.5 * kilobytes_per_frame(clean)).all()
    assert (kilobytes_per_frame(clean) > 0.02).all()


def test_both_signs_at_the_scale_of_flow_grpo():
    clips = torch.rand(2, 3, 32, 32, 3, generator=seeded())
    size = kilobytes_per_frame(clips)
    less = make_reward("jpeg_compressibility")(clips, ["", ""]).values
    more = make_reward("jpeg_incompressibility")(clips, ["", ""]).values
    assert torch.equal(more, size / 500)
    assert torch.equal(less, -size / 500)


def test_long_clips_are_judged_by_frames_from_start_to_end():
    clip = torch.full((1, 100, 16, 16, 3), 0.5)
    assert kilobytes_per_frame(clip).item() == 0
    for frame in (0, 99):
        spoiled = clip.clone()
        spoiled[0, frame] = torch.rand(16, 16, 3, generator=seeded())
        assert kilobytes_per_frame(spoiled).item() > 0.1 / MAX_FRAMES
