"""Ctrl-U's weight: closed form, which way it pushes, and what it is decided by."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.rewards import Reward, make_reward
from reelrl.rewards.cache import CachedReward
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.rewards.spec import build_reward
from reelrl.rewards.uncertainty import CtrlU, second_look


class Looks(Reward):
    """Scores of the first look, then of the second."""

    name, bounds = "looks", (-1.0, 3.0)

    def __init__(self, *values, better=True, bounds=None):
        self.values, self.higher_is_better = list(values), better
        self.bounds = bounds or self.bounds

    def score(self, videos, prompts, infos):
        return torch.tensor(self.values.pop(0))


def clips(count):
    return torch.rand(count, 2, 4, 4, 3, generator=torch.Generator().manual_seed(0))


def twice(first, second, **config):
    count = len(first)
    reward = CtrlU(Looks(first, second, better=config.pop("better", True)), scale=0.5, **config)
    return reward(clips(count), ["a"] * count)


def test_the_formula():
    values = twice([2.0, 2.0, -1.0], [2.0, 1.0, 3.0]).values
    expected = [2.0, -1 + 3 * math.exp(-2), -1.0]
    torch.testing.assert_close(values, torch.tensor(expected))


def test_of_penalties_the_worst_is_the_high_end():
    values = twice([0.0, 0.0], [0.0, 0.5], better=False).values
    torch.testing.assert_close(values, torch.tensor([0.0, 3 - 3 * math.exp(-1)]))


@given(st.floats(-1, 3), st.floats(-1, 3), st.floats(-1, 3), st.booleans())
def test_doubt_never_pays_and_bounds_hold(first, near, far, better):
    if abs(near - first) > abs(far - first):
        near, far = far, near
    sure, unsure = twice([first] * 2, [near, far], better=better).values.tolist()
    sign = 1 if better else -1
    assert sign * unsure <= sign * sure + 1e-6 and sign * sure <= sign * first + 1e-6
    assert min(sure, unsure) >= -1 - 1e-6 and max(sure, unsure) <= 3 + 1e-6


def test_a_failed_look_is_no_score():
    assert twice([1.0, math.nan, 1.0], [math.nan, 1.0, 1.0]).valid.tolist() == [False, False, True]


def test_the_second_look_is_decided_by_clip_and_seed_alone():
    state, videos = torch.get_rng_state(), clips(6)
    whole = second_look(videos, 0.02, 3)
    assert torch.equal(whole[2:4], second_look(videos[2:4], 0.02, 3))
    assert not torch.equal(whole, second_look(videos, 0.02, 4))
    assert torch.equal(state, torch.get_rng_state())
    grey = second_look(torch.full((2, 9, 32, 32, 3), 0.5), 0.02, 0)
    assert float((grey - 0.5).std()) == pytest.approx(0.02, rel=0.02)
    assert torch.equal(grey[0], grey[1]) and float(grey[0, 0].sub(grey[0, 1]).abs().max()) > 0
    assert second_look(videos[:0], 0.02, 0).shape == videos[:0].shape


@pytest.mark.parametrize(("name", "sees_it"), [("gold_align", True), ("proxy_vq", False)])
def test_doubt_where_a_score_is_brittle_and_none_where_it_is_fooled_alike(name, sees_it):
    """What it can do and what not, on clips of noise that proxy_vq takes for quality."""
    world = sample_clips(16, torch.Generator().manual_seed(0))
    noisy = ATTACKS["noise σ=.25"].generate(world, torch.Generator().manual_seed(0))
    plain = make_reward(name)
    weighted = build_reward({"name": "ctrl_u", "of": name, "scale": 0.1})
    clean, attacked = (
        float(weighted(v, world.captions).values.mean() / plain(v, world.captions).values.mean())
        for v in (world.videos, noisy)
    )
    assert (clean > attacked + 0.1) == sees_it
    assert (attacked > clean + 0.1) != sees_it


def test_it_declares_what_its_component_does(tmp_path):
    inner = Looks([1.0])
    inner.license, inner.memory_gb, inner.weights = "MIT", 2.0, "x/y"
    reward = CtrlU(inner, scale=1.0)
    facts = (reward.name, reward.license, reward.memory_gb, reward.weights, reward.bounds)
    assert facts == ("ctrl_u", "MIT", 2.0, "x/y", (-1.0, 3.0)) and reward.parts == (inner,)
    with pytest.raises(ValueError, match="with a fingerprint"):
        CachedReward(reward, tmp_path)
    inner.fingerprint = "1"
    assert CachedReward(reward, tmp_path).bounds == (-1.0, 3.0)
    assert CtrlU(inner, scale=2.0).fingerprint != reward.fingerprint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CtrlU("gold", scale=0), "must be positive, got 0 and 0.02"),
        (lambda: CtrlU("gold", scale=1, std=-1), "must be positive, got 1 and -1"),
        (
            lambda: CtrlU(Looks(bounds=(-math.inf, 0.0)), scale=1),
            r"'looks' needs a finite worst bound, got \(-inf, 0.0\): give it the transform sigmoid",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    assert CtrlU(Looks(better=False, bounds=(-math.inf, 0.0)), scale=1).worst == 0.0
