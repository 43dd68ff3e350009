import numpy as np
import pytest
import torch

from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.parser import (
    MIN_PRESENT,
    border_median,
    coverage,
    parse,
)
from reelrl.rewards.moving_shapes.world import (
    BACKGROUND,
    COLOURS,
    SHAPES,
    Factors,
    all_factors,
    render,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def everything():
    factors = all_factors()
    clips = render(factors, seeded())
    return factors, clips, parse(clips.videos)


def test_reads_back_colour_and_shape_of_all_216(everything):
    factors, _, parsed = everything
    assert [list(COLOURS)[i] for i in parsed.colour] == [f.colour for f in factors]
    assert [SHAPES[i] for i in parsed.shape] == [f.shape for f in factors]


def test_reads_back_the_track(everything):
    _, clips, parsed = everything
    assert parsed.found.all()
    assert parsed.present.all()
    # A fast triangle leaves the frame by a corner, which pulls its centroid back.
    assert (parsed.velocity - clips.velocity).norm(dim=-1).max() < 0.2
    assert (parsed.velocity - clips.velocity).norm(dim=-1).mean() < 0.02
    assert (parsed.middle - clips.middle).norm(dim=-1).mean() < 0.05
    assert parsed.rmse.mean() < 0.05


def test_reads_back_the_radius(everything):
    _, clips, parsed = everything
    # The mask threshold takes the faintest rim, most of it at the triangle's corners.
    assert (parsed.radius - clips.radius).abs().max() < 0.3
    assert (parsed.radius - clips.radius).mean().abs() < 0.1


def test_reads_back_the_ground(everything):
    _, _, parsed = everything
    assert torch.allclose(parsed.background, torch.full((216, 3), BACKGROUND))


def test_every_frame_alone_has_the_shape(everything):
    _, _, parsed = everything
    assert (parsed.frame_shapes == parsed.shape[:, None]).double().mean() > 0.99


def test_other_grounds_do_not_hide_the_object():
    clips = render([Factors("red", "square", "left", "")], seeded())
    parsed = parse(ATTACKS["bright ground"].generate(clips, seeded()))
    assert torch.allclose(parsed.background, torch.tensor(0.3), atol=1e-6)
    assert list(COLOURS)[parsed.colour] == "red"
    assert SHAPES[parsed.shape] == "square"


def test_border_median_is_the_lower_median_of_the_border():
    video = torch.rand(2, 3, 8, 8, 3, generator=seeded())
    edge = np.ones((8, 8), bool)
    edge[1:-1, 1:-1] = False
    for clip, median in zip(video.numpy(), border_median(video).numpy(), strict=True):
        border = np.sort(clip[:, edge].reshape(-1, 3), axis=0)
        np.testing.assert_array_equal(median, border[(len(border) - 1) // 2])


def test_coverage_in_closed_form():
    direction = torch.tensor([[0.8, 0.0, 0.0]])
    pixels = torch.tensor([[0.8, 0, 0], [0.4, 0, 0], [-0.4, 0, 0], [1.6, 0, 0], [0.4, 0.15, 0]])
    offsets = pixels.T.reshape(3, 1, 1, 1, 5)
    energy = (offsets**2).sum(0)
    expected = [1, 0.5, 0, np.exp(-(0.8**2) / 0.045), 0.5 * np.exp(-0.5)]
    np.testing.assert_allclose(
        coverage(offsets, energy, direction).flatten().numpy(), expected, atol=1e-6
    )


def test_a_colour_that_is_the_ground_covers_nothing():
    offsets = torch.rand(3, 1, 1, 4, 4, generator=seeded())
    energy = (offsets**2).sum(0)
    near = torch.full((1, 3), 0.1)
    assert (coverage(offsets, energy, near) == 0).all()


@pytest.mark.parametrize("frames", [0, MIN_PRESENT - 1, MIN_PRESENT, 9])
def test_a_clip_needs_enough_frames_with_the_object(frames):
    video = render([Factors("white", "square", "up", "")], seeded()).videos
    video[:, frames:] = BACKGROUND
    parsed = parse(video)
    assert parsed.present.sum() == frames
    assert bool(parsed.found) == (frames >= MIN_PRESENT)
    if not parsed.found:
        assert parsed.radius == 0
        assert (parsed.velocity == 0).all()


def test_missing_frames_do_not_bend_the_track():
    clips = render([Factors("green", "circle", "right", "fast")], seeded())
    gaps = clips.videos.clone()
    gaps[:, [1, 4, 6]] = BACKGROUND
    parsed = parse(gaps)
    assert torch.allclose(parsed.velocity.float(), clips.velocity, atol=0.05)
    assert torch.allclose(parsed.middle.float(), clips.middle, atol=0.1)
    assert parsed.radius == pytest.approx(float(clips.radius), abs=0.15)


def test_track_fit_equals_numpy(everything):
    _, _, parsed = everything
    time = np.arange(9) - 4
    for row in range(0, 216, 17):
        points = parsed.positions[row].numpy()
        fit = np.polynomial.polynomial.polyfit(time, points, 1)
        np.testing.assert_allclose(fit[0], parsed.middle[row], atol=1e-9)
        np.testing.assert_allclose(fit[1], parsed.velocity[row], atol=1e-9)
        residual = points - fit[0] - time[:, None] * fit[1]
        rmse = np.sqrt((residual**2).sum(1).mean())
        np.testing.assert_allclose(rmse, parsed.rmse[row], atol=1e-9)


@pytest.mark.parametrize("shape", [(9, 32, 32, 3), (2, 9, 32, 16, 3), (2, 3, 9, 32, 32)], ids=str)
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"\(N, F, S, S, 3\)") as error:
        parse(torch.zeros(shape))
    assert str(shape) in str(error.value)
