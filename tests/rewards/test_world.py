import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from reelrl.rewards.moving_shapes import world
from reelrl.rewards.moving_shapes.world import (
    BACKGROUND,
    COLOURS,
    DIRECTIONS,
    HELD_OUT_PAIRS,
    SHAPES,
    SPEEDS,
    VOCABULARY,
    Factors,
    all_factors,
    caption_to_factors,
    captions,
    check_clip_size,
    composite,
    draw,
    factors_to_caption,
    render,
    sample_clips,
    shape_masks,
    track,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_coverage(shape, x, y, radius):
    """One pixel, from the textbook: distance to each edge of the polygon, or to the circle."""
    if shape == "circle":
        return min(max(radius - math.hypot(x, y) + 0.5, 0), 1)
    corners = {"square": 4, "triangle": 3}[shape]
    inradius = radius * math.sqrt(math.pi / (corners * math.tan(math.pi / corners)))
    # The triangle points up, so its first edge faces down; the square's edges face the axes.
    normals = [math.pi / 2 + 2 * math.pi * k / corners for k in range(corners)]
    distance = min(inradius - (x * math.cos(a) + y * math.sin(a)) for a in normals)
    return min(max(distance + 0.5, 0), 1)


def test_caption_and_factors_are_inverse_for_all_216():
    everything = all_factors()
    assert len(everything) == len(set(everything)) == 216
    texts = [factors_to_caption(f) for f in everything]
    assert len(set(texts)) == 216
    assert [caption_to_factors(t) for t in texts] == everything
    assert [factors_to_caption(caption_to_factors(t)) for t in texts] == texts


def test_captions_read_as_expected():
    assert factors_to_caption(Factors("red", "circle", "right", "fast")) == (
        "a red circle moving right fast"
    )
    assert factors_to_caption(Factors("blue", "square", "up", "")) == "a blue square moving up"


def test_vocabulary_is_what_captions_use():
    used = {word for f in all_factors() for word in factors_to_caption(f).split()}
    assert set(VOCABULARY) == used


def test_splits_are_disjoint_and_complete():
    train, held_out = captions("train"), captions("compositional")
    assert (len(train), len(held_out)) == (192, 24)
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == {factors_to_caption(f) for f in all_factors()}
    pairs = {(f.colour, f.shape) for f in map(caption_to_factors, held_out)}
    assert pairs == set(HELD_OUT_PAIRS)
    assert captions("ood_speed") == captions("ood_radius") == train


def test_every_word_of_a_held_out_caption_is_trained_on():
    words = {word for caption in captions("train") for word in caption.split()}
    assert {word for caption in captions("compositional") for word in caption.split()} <= words


def test_an_unknown_word_is_named_with_the_vocabulary():
    with pytest.raises(ValueError) as error:
        caption_to_factors("a crimson circle moving right")
    assert "'crimson'" in str(error.value)
    assert all(word in str(error.value) for word in VOCABULARY)


@pytest.mark.parametrize(
    "caption", ["", "a red circle", "a circle red moving right", "a red circle moving right right"]
)
def test_known_words_in_no_order_of_the_grammar(caption):
    with pytest.raises(ValueError, match="COLOUR SHAPE moving DIRECTION"):
        caption_to_factors(caption)


def test_unknown_split_and_negative_count():
    with pytest.raises(ValueError, match=r"unknown split 'test'; known: compositional, .*, train"):
        captions("test")
    with pytest.raises(ValueError, match="-1"):
        sample_clips(-1, seeded())


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_equal_a_pixel_by_pixel_drawing(shape):
    centre, radius = torch.tensor([[[14.3, 17.8]]], dtype=torch.float64), 5.3
    mask = shape_masks(SHAPES.index(shape), centre, torch.tensor([radius], dtype=torch.float64))
    slow = np.array(
        [[slow_coverage(shape, x - 14.3, y - 17.8, radius) for x in range(32)] for y in range(32)]
    )
    np.testing.assert_allclose(mask[0, 0].numpy(), slow, atol=1e-9)


@pytest.mark.parametrize("radius", [4.0, 5.0, 6.0])
def test_shapes_have_equal_area(radius):
    offsets = torch.rand(64, 1, 2, generator=seeded()) + 15
    areas = [
        shape_masks(s, offsets, torch.full((64,), radius)).sum((-1, -2)).mean() for s in range(3)
    ]
    for area in areas:
        # Anti-aliasing rounds corners off or out by a few hundredths of the area.
        assert area == pytest.approx(math.pi * radius**2, rel=0.03)


def test_equal_area_test_would_catch_equal_radius():
    inscribed = shape_masks(1, torch.full((1, 1, 2), 15.5), torch.tensor([5 / math.sqrt(math.pi)]))
    assert inscribed.sum() != pytest.approx(math.pi * 25, rel=0.1)


def test_tensor_and_integer_shapes_draw_the_same():
    centre, radius = torch.rand(3, 5, 2, generator=seeded()) * 31, torch.tensor([4.0, 5.0, 6.0])
    mixed = shape_masks(torch.tensor([2, 0, 1]), centre, radius)
    for row, shape in enumerate((2, 0, 1)):
        alone = shape_masks(shape, centre[row : row + 1], radius[row : row + 1])
        assert torch.equal(mixed[row : row + 1], alone)


def test_the_triangle_points_up():
    mask = shape_masks(2, torch.full((1, 1, 2), 15.5), torch.tensor([6.0]))[0, 0]
    widths = (mask > 0.5).sum(-1)
    assert widths[:12].max() < widths[17]
    assert widths.argmax() > 15


def test_composite_and_draw():
    mask = torch.tensor([0.0, 0.25, 1.0]).reshape(1, 1, 1, 3)
    colour = torch.tensor([[0.9, 0.5, 0.1]])
    video = composite(mask, colour)[0, 0, 0]
    assert torch.allclose(video[0], torch.full((3,), BACKGROUND))
    assert torch.allclose(video[1], torch.tensor([0.3, 0.2, 0.1]))
    assert torch.allclose(video[2], colour[0])


def test_draw_does_not_depend_on_how_many_clips_it_draws():
    clips = sample_clips(world._CHUNK + 5, seeded())
    factors = [caption_to_factors(c) for c in clips.captions]
    shape = torch.tensor([SHAPES.index(f.shape) for f in factors])
    colour = torch.tensor([COLOURS[f.colour] for f in factors])
    centre = track(clips.middle, clips.velocity)
    parts = [
        draw(shape[i : i + 1], colour[i : i + 1], centre[i : i + 1], clips.radius[i : i + 1])
        for i in range(len(clips))
    ]
    assert torch.equal(torch.cat(parts), clips.videos)


def test_clips_have_the_stated_shape_and_range():
    clips = sample_clips(7, seeded())
    assert clips.videos.shape == (7, 9, 32, 32, 3)
    assert clips.videos.dtype == torch.float32
    assert clips.videos.min() >= 0
    assert clips.videos.max() <= 1
    assert len(clips) == len(clips.captions) == 7
    assert len(sample_clips(0, seeded())) == 0


def test_tracks_are_centred_within_the_jitter_whatever_the_speed():
    clips = sample_clips(400, seeded())
    centre = track(clips.middle, clips.velocity)
    assert ((clips.middle - 15.5).abs() <= 3).all()
    assert torch.allclose(centre[:, 4], clips.middle)
    assert torch.allclose(centre.mean(1), clips.middle, atol=1e-4)
    assert (clips.middle.mean(0) - 15.5).abs().max() < 0.4
    assert ((clips.radius >= 4) & (clips.radius <= 6)).all()


def test_pixels_move_as_captioned():
    """Centroids straight from the pixels, clip by clip, for every direction and speed."""
    factors = [Factors("red", "circle", d, s) for d in DIRECTIONS for s in SPEEDS]
    clips = render(factors, seeded())
    light = (clips.videos[..., 0] - BACKGROUND).double().numpy()
    for frames, f in zip(light, factors, strict=True):
        grid = np.arange(32)
        x = [(frame.sum(0) * grid).sum() / frame.sum() for frame in frames]
        y = [(frame.sum(1) * grid).sum() / frame.sum() for frame in frames]
        expected = np.array(DIRECTIONS[f.direction]) * SPEEDS[f.speed]
        # The middle frames: at the ends a fast object may touch the border.
        np.testing.assert_allclose(np.diff(x[2:7]), expected[0], atol=0.05)
        np.testing.assert_allclose(np.diff(y[2:7]), expected[1], atol=0.05)


def test_up_is_towards_row_zero():
    up = render([Factors("red", "circle", "up", "fast")], seeded()).videos[0, ..., 0]
    rows = [int(frame.sum(-1).argmax()) for frame in up]
    assert rows[0] > rows[-1]


def test_out_of_distribution_splits_differ_as_named():
    speed = sample_clips(20, seeded(), "ood_speed")
    assert torch.allclose(speed.velocity.norm(dim=-1), torch.tensor(1.05))
    assert all(abs(1.05 - s) > 0.3 for s in SPEEDS.values())
    radius = sample_clips(20, seeded(), "ood_radius")
    assert (radius.radius == 7).all()


def test_one_generator_decides_everything():
    torch.manual_seed(1)
    first = sample_clips(5, seeded(3))
    torch.manual_seed(2)
    again = sample_clips(5, seeded(3))
    assert torch.equal(first.videos, again.videos)
    assert first.captions == again.captions
    other = sample_clips(5, seeded(4))
    assert first.captions != other.captions or not torch.equal(first.videos, other.videos)


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    sample_clips(5, seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_captions_are_drawn_uniformly():
    drawn = Counter(c.split()[1] for c in sample_clips(1500, seeded()).captions)
    expected = Counter(c.split()[1] for c in captions("train"))
    for colour, count in expected.items():
        assert drawn[colour] / 1500 == pytest.approx(count / 192, abs=0.035)


def test_other_sizes_and_a_single_frame():
    clips = render([Factors("red", "circle", "up", "")], seeded(), num_frames=1, size=64)
    assert clips.videos.shape == (1, 1, 64, 64, 3)
    assert ((clips.middle - 31.5).abs() <= 3).all()


@pytest.mark.parametrize(("frames", "nearest"), [(8, 9), (0, 1), (10, 9), (-3, 1)])
def test_frame_counts_that_are_not_4k_plus_1(frames, nearest):
    with pytest.raises(ValueError, match=f"4k\\+1, got {frames}; the nearest is {nearest}"):
        check_clip_size(frames, 32, 32)


@pytest.mark.parametrize("size", [0, 30, -4])
def test_sizes_that_do_not_divide(size):
    with pytest.raises(ValueError, match=f"width must be a positive multiple of 4, got {size}"):
        check_clip_size(9, 32, size)
    with pytest.raises(ValueError, match="height"):
        render([Factors("red", "circle", "up", "")], seeded(), size=size)


def test_factors_are_immutable():
    factors = Factors("red", "circle", "up", "")
    assert replace(factors, colour="blue").colour == "blue"
    with pytest.raises(AttributeError):
        factors.colour = "blue"
