import numpy as np
import pytest
import torch

from reelrl.rewards import chunked, make_reward
from reelrl.rewards.motion import (
    frame_difference,
    interpolation_error,
    second_difference_energy,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def brightening(values):
    """A clip whose frames are flat with these values."""
    return torch.tensor(values).reshape(1, -1, 1, 1, 1).expand(1, -1, 6, 5, 3)


def score(name, videos):
    return make_reward(name)(videos, [""] * len(videos)).values


@pytest.mark.parametrize("step", [0.01, 0.1])
def test_a_clip_that_brightens_evenly(step):
    clip = brightening([step * t for t in range(6)])
    assert score("motion_magnitude", clip).item() == pytest.approx(step, rel=1e-5)
    assert score("temporal_flicker", clip).item() == pytest.approx(1 - step, rel=1e-5)
    assert score("linear_smoothness", clip).item() == pytest.approx(1, abs=1e-6)
    assert score("acceleration", clip).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("height", [0.1, 0.6])
def test_flicker_between_two_levels(height):
    clip = brightening([0.0, height] * 4)
    assert score("motion_magnitude", clip).item() == pytest.approx(height, rel=1e-5)
    assert score("linear_smoothness", clip).item() == pytest.approx(1 - height, rel=1e-5)
    assert score("acceleration", clip).item() == pytest.approx(4 * height**2, rel=1e-5)


def test_constant_acceleration():
    """x_t = a t²/2 has the second difference a everywhere."""
    clip = brightening([0.04 * t**2 / 2 for t in range(7)])
    assert second_difference_energy(clip).item() == pytest.approx(0.04**2, rel=1e-4)
    assert interpolation_error(clip).item() == pytest.approx(0.02, rel=1e-4)


def test_temporal_flicker_is_vbench_on_bytes():
    """(255 - mean MAE of bytes) / 255."""
    clips = torch.randint(0, 256, (3, 5, 8, 8, 3), generator=seeded())
    frames = clips.numpy().astype(np.float64)
    errors = np.abs(frames[:, 1:] - frames[:, :-1]).mean(axis=(1, 2, 3, 4))
    expected = (255 - errors) / 255
    np.testing.assert_allclose(score("temporal_flicker", clips / 255), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("motion_magnitude", 2),
        ("temporal_flicker", 2),
        ("linear_smoothness", 3),
        ("acceleration", 3),
    ],
)
def test_too_few_frames_are_no_number(name, needed):
    clips = torch.rand(2, needed, 4, 4, 3, generator=seeded())
    assert score(name, clips).isfinite().all()
    assert score(name, clips[:, :-1]).isnan().all()


@pytest.mark.parametrize(
    "statistic", [frame_difference, interpolation_error, second_difference_energy]
)
def test_values_do_not_depend_on_the_size_of_pieces(monkeypatch, statistic):
    clips = torch.rand(3, 11, 4, 6, 3, generator=seeded())
    whole = statistic(clips)
    for pixels in (1, 100, 700):
        monkeypatch.setattr(chunked, "PIXELS", {"cpu": pixels})
        torch.testing.assert_close(statistic(clips), whole)
