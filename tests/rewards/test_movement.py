import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.movement import Dynamics, fastest_speed, global_shifts
from reelrl.rewards.moving_shapes.world import sample_clips

sys.path.insert(0, str(Path(__file__).parent))
from pictures import texture, window


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def score(name, videos, **config):
    return make_reward(name, **config)(videos, [""] * len(videos)).values


def panning(path, size=64):
    """A clip (1, F, size, size, 3) of a window that follows ``path``, a list of (x, y)."""
    frames = torch.stack([window(texture(), 16 + x, 16 + y, size) for x, y in path])
    return frames[None, ..., None].expand(-1, -1, -1, -1, 3)


class Given(Dynamics):
    """Dynamic degree of speeds that are given."""

    name = "given"

    def __init__(self, speeds, fps=8.0):
        super().__init__(fps)
        self.given = torch.tensor(speeds)

    def speeds(self, videos):
        return self.given[None].expand(len(videos), -1)[:, : videos.shape[1] - 1]


def vbench(speeds, frames, side, fps):
    """The decision as VBench's loop takes it."""
    threshold, needed, count = max(1.0, 8 / fps) * 6 * side / 256, round(4 * frames / 16), 0
    for speed in speeds:
        count += speed > threshold
        if count >= needed:
            return 1.0
    return 0.0


@pytest.mark.parametrize("fps", [4.0, 8.0])
@pytest.mark.parametrize("frames", [3, 4, 9, 16])
def test_the_decision_is_vbenchs(frames, fps):
    clip = torch.zeros(1, frames, 64, 96, 3)
    for seed in range(8):
        speeds = (torch.rand(frames - 1, generator=seeded(seed)) * 4).tolist()
        assert Given(speeds, fps).score(clip, [""], [{}]).item() == vbench(speeds, frames, 64, fps)


def test_two_frames_that_stand_still_are_not_dynamic():
    clip = torch.zeros(1, 2, 64, 64, 3)
    assert vbench([0.0], 2, 64, 8) == 1.0  # the loop's own answer
    assert Given([0.0]).score(clip, [""], [{}]).item() == 0.0


def test_fast_clips_are_thinned_to_eight_frames_a_second():
    seen = []

    class Count(Given):
        def speeds(self, videos):
            seen.append(videos.shape[1])
            return super().speeds(videos)

    Count([0.0] * 40, fps=24.0).score(torch.zeros(1, 25, 32, 32, 3), [""], [{}])
    assert seen == [9]


def test_dynamic_degree_tells_moving_from_still():
    moving = panning([(4.0 * t, 0.0) for t in range(5)])
    still = panning([(0.0, 0.0)] * 5)
    slow = panning([(0.4 * t, 0.0) for t in range(5)])
    clips = torch.cat([moving, still, slow])
    assert score("dynamic_degree", clips).tolist() == [1, 0, 0]
    assert score("dynamic_degree", clips[:, :1]).isnan().all()
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        make_reward("dynamic_degree", fps=0)


def test_the_decision_does_not_depend_on_the_resolution():
    small = panning([(2.5 * t, 0.0) for t in range(5)])
    large = small.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    assert score("dynamic_degree", small).item() == score("dynamic_degree", large).item() == 1


def test_fastest_speed_is_the_mean_of_the_top_five_percent():
    flow = torch.zeros(2, 1, 10, 10)
    flow[0, 0, 0, :5] = torch.tensor([3.0, 3, 3, 3, 3])
    flow[1, 0, 0, :5] = 4
    flow[0, 0, 5] = 1
    assert fastest_speed(flow).item() == pytest.approx(5)


def test_flow_warp_error_sees_flicker_and_not_a_pan():
    pan = panning([(1.5 * t, -t) for t in range(5)])
    flicker = pan.clone()
    flicker[:, ::2] *= 0.6
    errors = score("flow_warp_error", torch.cat([pan, flicker]))
    assert errors[0] < 0.02
    assert errors[1] > 0.1
    assert score("motion_magnitude", pan).item() > 3 * errors[0]


@pytest.mark.parametrize("move", [(0, 0), (3, -2), (-7, 5)])
def test_global_shift_equals_opencv(move):
    frames = panning([(0, 0), move])[0, ..., 0]
    shift = global_shifts(frames[None])[0, 0]
    # Ours moves the content, theirs says where the second picture's origin went: the same number.
    hann = cv2.createHanningWindow((64, 64), cv2.CV_64F)
    arrays = [x.double().numpy() - x.double().mean().item() for x in frames]
    theirs, _ = cv2.phaseCorrelate(arrays[0], arrays[1], hann)
    np.testing.assert_allclose(shift, theirs, atol=0.1)
    np.testing.assert_allclose(shift, [-move[0], -move[1]], atol=0.3)


def test_shake_of_a_pan_of_a_still_clip_and_of_a_jitter():
    pan = panning([(2.0 * t, t) for t in range(8)])
    still = panning([(0, 0)] * 8)
    path = torch.randint(-3, 4, (8, 2), generator=seeded()).tolist()
    jitter = panning(path)
    values = score("global_shake", torch.cat([pan, still, jitter]))
    second = torch.tensor(path).double().diff(n=2, dim=0)
    expected = second.var(dim=0, unbiased=False).sum().sqrt().item() / 64
    assert values[0] < 0.005
    assert values[1] == 0
    assert values[2].item() == pytest.approx(expected, rel=0.1)
    assert score("global_shake", still[:, :2]).isnan().all()


def test_shake_does_not_depend_on_the_resolution():
    path = torch.randint(-3, 4, (8, 2), generator=seeded()).tolist()
    small = panning(path)
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    values = [score("global_shake", clip).item() for clip in (small, large)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize("name", ["dynamic_degree", "flow_warp_error", "global_shake"])
def test_flat_and_noisy_clips_have_numbers_in_bounds(name):
    noise = torch.rand(2, 5, 32, 40, 3, generator=seeded())
    clips = torch.cat(
        [
            torch.full_like(noise, 0.4),
            noise,
            sample_clips(2, seeded()).videos[:, :5, :, :, :].repeat(1, 1, 1, 2, 1)[:, :, :, :40],
        ]
    )
    values = score(name, clips)
    low, high = make_reward(name).bounds
    assert ((values >= low) & (values <= high)).all()
    assert values[:2].max() < 1e-6
