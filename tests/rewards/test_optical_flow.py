import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from reelrl.rewards.moving_shapes.world import sample_clips, track
from reelrl.rewards.optical_flow import backward_flow, reduced_grey, reduction, warp

sys.path.insert(0, str(Path(__file__).parent))
from pictures import texture, window


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("move", [(0.0, 0.0), (0.5, 0.0), (-1.5, 1.0), (3.0, 2.0)])
def test_a_translation_is_found(move):
    picture = texture()
    frames = torch.stack([window(picture, 16, 16), window(picture, 16 + move[0], 16 + move[1])])
    flow = backward_flow(frames[None])[:, 0, 0]
    error = (flow - torch.tensor(move)[:, None, None]).norm(dim=0)[8:-8, 8:-8]
    assert error.mean() < 0.1 + 0.06 * np.hypot(*move)


def test_every_pair_is_taken_from_the_frame_to_the_one_before():
    picture = texture()
    places = [10, 11, 13, 14]
    frames = torch.stack([window(picture, x, 16) for x in places])
    flow = backward_flow(torch.stack([frames, frames.flip(0)]))
    assert flow.shape == (2, 2, 3, 64, 64)
    medians = flow[0].flatten(2).median(dim=-1).values
    expected = torch.tensor([[1.0, 2, 1], [-1, -2, -1]])
    torch.testing.assert_close(medians, expected, atol=0.15, rtol=0)


def test_objects_of_the_world_are_followed_to_a_fraction_of_a_pixel_and_as_opencv_does():
    clips = sample_clips(24, seeded(3))
    frames = reduced_grey(clips.videos)
    ours = backward_flow(frames)
    centre = track(clips.middle, clips.velocity, frames.shape[1]).round().long().clamp(0, 31)
    errors, gaps = [], []
    for n, video in enumerate((frames * 255).byte().numpy()):
        for t in range(1, len(video)):
            x, y = centre[n, t].tolist()
            theirs = cv2.calcOpticalFlowFarneback(
                video[t], video[t - 1], None, 0.5, 2, 9, 3, 5, 1.1, 0
            )
            truth = -clips.velocity[n]
            here = ours[:, n, t - 1, y, x]
            errors.append((here - truth).norm().item())
            gaps.append((here - torch.tensor(theirs[y, x])).norm().item())
    # Speeds are 0.7 to 2.1 pixels per frame.
    assert np.mean(errors) < 0.15
    assert np.mean(gaps) < 0.15


def test_warping_along_the_flow_explains_most_of_the_change():
    frames = reduced_grey(sample_clips(8, seeded()).videos)
    moved = warp(frames[:, :-1].flatten(0, 1), backward_flow(frames).flatten(1, 2))
    left = (frames[:, 1:].flatten(0, 1) - moved).abs().mean()
    assert left < 0.2 * frames.diff(dim=1).abs().mean()


def test_warp_by_whole_pixels_is_a_shift():
    images = torch.rand(3, 8, 9, generator=seeded())
    flow = torch.zeros(2, 3, 8, 9)
    flow[0], flow[1] = 2, -1
    torch.testing.assert_close(warp(images, flow)[:, 1:, :-2], images[:, :-1, 2:])


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(32, 32, 1), (64, 90, 1), (128, 200, 2), (480, 832, 7)]
)
def test_reduction_averages_squares(height, width, factor):
    assert reduction(height, width) == factor
    video = torch.rand(1, 2, height, width, 3, generator=seeded())
    small = reduced_grey(video)
    assert small.shape == (1, 2, height // factor, width // factor)
    expected = video[0, 1, :factor, factor : 2 * factor].mean()
    assert small[0, 1, 0, 1].item() == pytest.approx(expected.item(), rel=1e-5)
