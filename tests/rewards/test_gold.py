import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.moving_shapes import gold, world
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.gold import (
    GoldAxes,
    alignment,
    fidelity,
    gold_axes,
    gold_axes_of_prompts,
    physics,
)
from reelrl.rewards.moving_shapes.parser import parse
from reelrl.rewards.moving_shapes.world import (
    Factors,
    all_factors,
    caption_to_factors,
    render,
    sample_clips,
)

sys.path.insert(0, str(Path(__file__).parent))
from slow_gold import slow_gold_axes

AXES = ("align", "phys", "fid", "gold")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def factors_of(clips):
    return [caption_to_factors(caption) for caption in clips.captions]


@pytest.fixture(scope="module")
def clips():
    return sample_clips(64, seeded(5))


@pytest.fixture(scope="module")
def mixture(clips):
    """64 clips, each under another attack in turn, so that every branch is scored."""
    attacks = list(ATTACKS.values())
    videos = clips.videos.clone()
    for row in range(len(clips)):
        videos[row] = attacks[row % len(attacks)].generate(clips, seeded(row))[row]
    return videos


def test_equals_the_slow_scalar_score(clips, mixture):
    rows = range(0, 64, 5)
    fast = gold_axes(mixture, factors_of(clips))
    fast = torch.stack([fast.align, fast.phys, fast.fid], dim=-1)[list(rows)].numpy()
    slow = [slow_gold_axes(mixture[row].numpy(), factors_of(clips)[row]) for row in rows]
    np.testing.assert_allclose(fast, np.array(slow), atol=1e-5)


@pytest.mark.parametrize(
    ("constant", "wrong"), [("FLOOR", 0.2), ("SPEED_TOLERANCE", 0.5), ("E0", 0.4)]
)
def test_the_slow_score_catches_a_wrong_constant(clips, mixture, monkeypatch, constant, wrong):
    monkeypatch.setattr(gold, constant, wrong)
    rows = [0, 1, 4]
    axes = gold_axes(mixture[rows], [factors_of(clips)[row] for row in rows])
    fast = torch.stack([axes.align, axes.phys, axes.fid], dim=-1).numpy()
    slow = [slow_gold_axes(mixture[row].numpy(), factors_of(clips)[row]) for row in rows]
    assert np.abs(fast - np.array(slow)).max() > 1e-3


def test_clean_clips_of_every_caption():
    everything = all_factors()
    scores = gold_axes(render(everything, seeded()).videos, everything)
    assert scores.gold.mean() > 0.97
    assert scores.gold.min() > 0.85
    assert scores.align.min() > 0.95


@pytest.mark.parametrize("split", [1, 7, 64])
def test_scores_do_not_depend_on_the_batch(clips, mixture, split):
    factors = factors_of(clips)
    whole = gold_axes(mixture, factors)
    parts = [
        gold_axes(mixture[i : i + split], factors[i : i + split])
        for i in range(0, len(clips), split)
    ]
    for axis in AXES:
        assert torch.equal(torch.cat([getattr(p, axis) for p in parts]), getattr(whole, axis))


def test_scores_do_not_depend_on_order_or_neighbours(clips, mixture):
    order = torch.randperm(64, generator=seeded())
    factors = factors_of(clips)
    whole = gold_axes(mixture, factors).gold
    assert torch.equal(gold_axes(mixture[order], [factors[i] for i in order]).gold, whole[order])
    twice = gold_axes(torch.cat([mixture, mixture]), factors * 2).gold
    assert torch.equal(twice, torch.cat([whole, whole]))


def test_nothing_is_differentiable(clips):
    videos = clips.videos[:2].clone().requires_grad_()
    scores = gold_axes(videos, factors_of(clips)[:2])
    assert not any(getattr(scores, axis).requires_grad for axis in AXES)
    with pytest.raises(RuntimeError, match="does not require grad"):
        scores.gold.sum().backward()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_non_finite_clip_is_nan_alone(clips, poison):
    videos = clips.videos[:3].clone()
    videos[1, 0, 0, 0, 0] = poison
    scores, honest = (gold_axes(v, factors_of(clips)[:3]) for v in (videos, clips.videos[:3]))
    for axis in AXES:
        assert getattr(scores, axis)[1].isnan()
        assert torch.equal(getattr(scores, axis)[[0, 2]], getattr(honest, axis)[[0, 2]])


def test_axes_lie_in_the_unit_interval_on_anything():
    videos = torch.rand(8, 9, 32, 32, 3, generator=seeded())
    videos[0], videos[1], videos[2] = 0, 1, 0.1
    scores = gold_axes(videos, all_factors()[:8])
    for axis in AXES:
        assert ((getattr(scores, axis) >= 0) & (getattr(scores, axis) <= 1)).all()
    assert (scores.gold[:3] == 0).all()


def test_gold_is_the_product():
    axes = GoldAxes(torch.tensor([0.5]), torch.tensor([0.4]), torch.tensor([0.3]))
    assert axes.gold.item() == pytest.approx(0.06)


def test_each_wrong_factor_costs_alignment_alone():
    truth = Factors("red", "circle", "right", "")
    video = render([truth], seeded()).videos
    right = gold_axes(video, [truth])
    wrong = {
        "colour": replace(truth, colour="blue"),
        "shape": replace(truth, shape="square"),
        "direction": replace(truth, direction="up"),
        "speed": replace(truth, speed="slowly"),
    }
    for name, factors in wrong.items():
        scores = gold_axes(video, [factors])
        floor = 0.1 if name != "speed" else float(np.exp(-(0.7**2) / (2 * 0.35**2)))
        assert scores.align.item() == pytest.approx(floor**0.5, abs=0.01)
        assert torch.equal(scores.phys, right.phys)
        assert torch.equal(scores.fid, right.fid)


@pytest.mark.parametrize(("pace", "heads"), [(0.15, False), (0.24, False), (0.26, True)])
def test_a_track_below_a_quarter_of_a_pixel_per_frame_has_no_direction(pace, heads):
    clip = parse(render([Factors("red", "circle", "right", "")], seeded()).videos)
    slow = replace(clip, velocity=torch.tensor([[pace, 0.0]], dtype=clip.velocity.dtype))
    wanted = world.SPEEDS[""]
    speed = max(np.exp(-((pace - wanted) ** 2) / (2 * 0.35**2)), 0.1)
    expected = np.sqrt(speed * (1.0 if heads else 0.1))
    aligned = alignment(slow, [Factors("red", "circle", "right", "")])
    assert float(aligned) == pytest.approx(expected, rel=1e-6)


def test_a_clip_against_its_caption_has_no_direction():
    """It is one wrong factor, as any other direction is."""
    clip = parse(render([Factors("red", "circle", "right", "")], seeded()).videos)
    names = ("right", "left", "up", "down")
    right, *others = (float(alignment(clip, [Factors("red", "circle", n, "")])) for n in names)
    assert right > 0.95
    assert others == pytest.approx([right * np.sqrt(0.1)] * 3, rel=0.02)


@pytest.mark.parametrize("level", [0.0, world.BACKGROUND, 1.0])
def test_a_clip_in_which_nothing_is_found_has_no_axis(level):
    """A blank of the world's ground is drawn again without error: it looks clean otherwise."""
    blank = torch.full((1, 9, 32, 32, 3), level)
    scores = gold_axes(blank, [Factors("red", "circle", "right", "")])
    assert [float(getattr(scores, axis)) for axis in AXES] == [0, 0, 0, 0]
    # Nor if what was missed is drawn: the parse decides.
    clip = render([Factors("red", "circle", "right", "")], seeded()).videos
    parsed = parse(clip)
    assert float(fidelity(clip, parsed)) > 0.9
    unseen = replace(parsed, found=torch.zeros_like(parsed.found))
    assert float(fidelity(clip, unseen)) == 0


def test_two_wrong_factors_are_worse_than_one():
    truth = Factors("red", "circle", "right", "")
    video = render([truth], seeded()).videos
    both = gold_axes(video, [replace(truth, colour="blue", shape="square")]).align
    assert both.item() == pytest.approx(0.1, abs=0.005)


def test_fidelity_falls_as_its_formula_says_under_a_known_error():
    """A constant offset d of all pixels adds e = d / RMS(object) to the redrawing of the clip."""
    truth = Factors("red", "square", "right", "slowly")
    clip = render([truth], seeded(), radius=5.0)
    strength = float((clip.videos - 0.1).square().mean().sqrt())
    parsed = parse(clip.videos)
    clean = float(fidelity(clip.videos, parsed))
    for offset in (0.01, 0.02, 0.04):
        fid = float(fidelity(clip.videos + offset, parsed))
        expected = np.exp(-((offset / strength) ** 2) / (2 * 0.35**2))
        assert fid / clean == pytest.approx(expected, abs=0.02)


def test_physics_counts_frames_where_the_object_is_itself(clips):
    parsed = parse(clips.videos)
    whole = physics(parsed)
    other = parsed.frame_shapes.clone()
    other[:, :3] = (other[:, :3] + 1) % 3
    assert torch.allclose(physics(replace(parsed, frame_shapes=other)), whole * 6 / 9)


def test_out_of_distribution_speed_is_in_between():
    clips = sample_clips(32, seeded(), "ood_speed")
    scores = gold_axes(clips.videos, factors_of(clips))
    assert scores.fid.mean() > 0.97
    assert 0.3 < scores.align.mean() < 0.85


def test_out_of_distribution_radius_is_off_the_manifold():
    clips = sample_clips(32, seeded(), "ood_radius")
    scores = gold_axes(clips.videos, factors_of(clips))
    assert scores.align.mean() > 0.97
    assert scores.fid.mean() < 0.7


def test_shapes_and_counts_are_checked():
    factors = all_factors()[:2]
    with pytest.raises(ValueError, match=r"\(N, F, S, S, 3\).*\(2, 9, 32, 16, 3\)"):
        gold_axes(torch.zeros(2, 9, 32, 16, 3), factors)
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        gold_axes(torch.zeros(2, 9, 32, 32, 3, dtype=torch.uint8), factors)
    with pytest.raises(ValueError, match="3 videos and 2 factors"):
        gold_axes(torch.zeros(3, 9, 32, 32, 3), factors)


def test_an_empty_batch_and_a_short_clip():
    assert gold_axes(torch.zeros(0, 9, 32, 32, 3), []).gold.shape == (0,)
    one = render(all_factors()[:2], seeded(), num_frames=1)
    assert gold_axes(one.videos, all_factors()[:2]).gold.tolist() == [0, 0]


def test_more_clips_than_a_chunk():
    clips = sample_clips(gold._CHUNK + 3, seeded())
    factors = factors_of(clips)
    tail = gold_axes(clips.videos[gold._CHUNK :], factors[gold._CHUNK :]).gold
    assert torch.equal(gold_axes(clips.videos, factors).gold[gold._CHUNK :], tail)


def test_a_foreign_caption_has_no_alignment_but_keeps_the_rest(clips):
    prompts = [clips.captions[0], "a crimson cube", clips.captions[2]]
    axes = gold_axes_of_prompts(clips.videos[:3], prompts)
    honest = gold_axes(clips.videos[:3], factors_of(clips)[:3])
    assert axes.align.isnan().tolist() == axes.gold.isnan().tolist() == [False, True, False]
    assert torch.equal(axes.phys, honest.phys)
    assert torch.equal(axes.fid, honest.fid)


@pytest.mark.parametrize("axis", AXES)
def test_components_give_the_axes(clips, axis):
    reward = make_reward("gold" if axis == "gold" else f"gold_{axis}")
    output = reward(clips.videos[:5], clips.captions[:5])
    expected = getattr(gold_axes(clips.videos[:5], factors_of(clips)[:5]), axis)
    assert torch.equal(output.values, expected)
    assert output.valid.all()


def test_component_masks_what_it_cannot_score(clips):
    videos = clips.videos[:4].clone()
    videos[0] = torch.nan
    prompts = [clips.captions[0], "a dog", *clips.captions[2:4]]
    assert make_reward("gold")(videos, prompts).valid.tolist() == [False, False, True, True]
    assert make_reward("gold_fid")(videos, prompts).valid.tolist() == [False, True, True, True]


def test_half_precision_and_strided_videos_are_scored(clips):
    factors = factors_of(clips)[:3]
    strided = clips.videos[:3].movedim(-1, 1).contiguous().movedim(1, -1)
    assert torch.equal(gold_axes(strided, factors).gold, gold_axes(clips.videos[:3], factors).gold)
    rounded = gold_axes(clips.videos[:3].half(), factors).gold
    assert torch.allclose(rounded, gold_axes(clips.videos[:3], factors).gold, atol=0.01)


def test_the_world_is_the_one_the_score_was_calibrated_on():
    assert world.BACKGROUND == 0.1
    assert world.RADIUS_RANGE == (4.0, 6.0)
