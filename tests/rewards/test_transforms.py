"""Components made of others: each transform against its closed form, bounds and determinism."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.rewards import Reward, make_reward
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.rewards.spec import build_reward
from reelrl.rewards.transforms import (
    TRANSFORMS,
    Miscalibrate,
    Noise,
    Scale,
    Sigmoid,
    Squash,
    Threshold,
    Transformed,
    judge_noise,
)


class Given(Reward):
    """A component that returns what it was given."""

    name, bounds = "given", (0.0, 1.0)

    def __init__(self, values):
        self.values = torch.tensor(values)

    def score(self, videos, prompts, infos):
        return self.values


def through(transform, values, videos=None, prompts=None):
    videos = torch.zeros(len(values), 2, 4, 4, 3) if videos is None else videos
    component = Transformed(Given(values), [transform])
    return component(videos, prompts or ["a red circle"] * len(values))


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Scale(10), [0.0, 5.0, 10.0]),
        (Squash(0.5), [0.0, 1 - math.exp(-1), 1 - math.exp(-2)]),
        (Sigmoid(0.5, 0.1), [1 / (1 + math.exp(5)), 0.5, 1 / (1 + math.exp(-5))]),
        (Threshold(0.5), [0.0, 1.0, 1.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_closed_forms(transform, expected):
    output = through(transform, [0.0, 0.5, 1.0])
    torch.testing.assert_close(output.values, torch.tensor(expected))


@pytest.mark.parametrize("kind", list(TRANSFORMS))
def test_a_failed_score_stays_failed(kind):
    config = {
        "scale": {"by": 2.0}, "squash": {"scale": 1.0}, "sigmoid": {}, "threshold": {"at": 0.5},
        "noise": {"std": 1.0}, "miscalibrate": {"cv": 0.5},
    }[kind]  # fmt: skip
    output = through(TRANSFORMS[kind](**config), [math.nan, 0.5])
    assert output.valid.tolist() == [False, True]


@given(
    value=st.floats(0, 1),
    by=st.floats(0.01, 100),
    scale=st.floats(0.01, 10),
    std=st.floats(0.001, 10),
    cv=st.floats(0.01, 3),
    clip=st.integers(0, 10**6),
)
def test_values_stay_within_the_declared_bounds(value, by, scale, std, cv, clip):
    video = torch.rand(1, 2, 4, 4, 3, generator=torch.Generator().manual_seed(clip))
    transforms = [Squash(scale), Scale(by), Noise(std), Miscalibrate(cv)]
    component = Transformed(Given([value]), transforms)
    low, high = component.bounds
    score = float(component(video, ["a red circle moving right"]).values)
    assert low - 1e-5 * abs(low) <= score <= high + 1e-5 * abs(high)


def test_a_sigmoid_bounds_what_has_no_bounds():
    component = Given([-1e9, 0.0, 1e9])
    component.bounds = (-math.inf, math.inf)
    reward = Transformed(component, [Sigmoid()])
    assert reward.bounds == (0.0, 1.0)
    assert reward(torch.zeros(3, 1, 2, 2, 3), [""] * 3).values.tolist() == [0.0, 0.5, 1.0]


def test_squash_refuses_scores_that_may_be_negative():
    assert Squash(0.1).bounds((0.0, math.inf)) == (0.0, 1.0)
    with pytest.raises(
        ValueError, match=r"at least 0, got bounds \(-100, 100\); sigmoid takes any"
    ):
        Squash(0.1).bounds((-100, 100))
    with pytest.raises(ValueError, match=r"got bounds \(-inf, inf\)"):
        component = Given([0.0])
        component.bounds = (-math.inf, math.inf)
        Transformed(component, [Squash(1)])


def test_judge_noise_is_a_function_of_clip_and_seed_alone():
    clips = sample_clips(64, torch.Generator().manual_seed(0)).videos
    whole = judge_noise(clips, 3)
    assert torch.equal(whole[10:20], judge_noise(clips[10:20], 3))
    assert not torch.equal(whole, judge_noise(clips, 4))
    state = torch.get_rng_state()
    judge_noise(clips, 3)
    assert torch.equal(state, torch.get_rng_state())


def test_judge_noise_is_uniform_with_unit_deviation():
    clips = torch.rand(2000, 1, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    noise = judge_noise(clips, 0)
    assert abs(noise.mean()) < 4 / math.sqrt(2000) and abs(noise.std() - 1) < 0.05
    assert noise.abs().max() < math.sqrt(3)
    # A uniform variable has kurtosis 9 / 5, a normal one 3.
    assert abs((noise**4).mean() - 1.8) < 0.15


def test_miscalibration_is_one_factor_per_cluster_with_the_stated_spread():
    judge = Miscalibrate(cv=0.56, limit=100.0, seed=1)
    assert judge.gain("a red circle moving up") == judge.gain("a red circle moving left fast")
    assert judge.gain("a red circle moving up") != judge.gain("a blue circle moving up")
    gains = torch.tensor([judge.gain(f"a {i} circle") for i in range(20_000)])
    assert abs(gains.mean() - 1) < 0.02 and abs(gains.std() / gains.mean() - 0.56) < 0.03
    assert max(Miscalibrate(cv=5.0, limit=2.0).gain(f"a {i} circle") for i in range(100)) == 2.0


def test_from_plain_values_as_a_preset_has_them():
    clips = sample_clips(8, torch.Generator().manual_seed(0))
    spec = {
        "name": "proxy_vq", "hackability": 1.0, "label": "bent",
        "transforms": [{"name": "squash", "scale": 0.1}, {"name": "scale", "by": 3}],
    }  # fmt: skip
    component = build_reward(spec)
    plain = make_reward("proxy_vq", hackability=1.0)(clips.videos, clips.captions).values
    bent = component(clips.videos, clips.captions).values
    torch.testing.assert_close(bent, 3 * (1 - torch.exp(-plain / 0.1)))
    assert component.name == "bent" and component.bounds[0] == 0 and component.bounds[1] < 3


def test_a_label_alone_renames():
    assert build_reward({"name": "gold", "label": "truth"}).name == "truth"
    assert build_reward({"name": "gold", "transforms": []}).name == "gold"


def test_what_is_made_of_another_does_not_go_by_its_name():
    bent = {
        "name": "gold",
        "transforms": [{"name": "scale", "by": 2}, {"name": "squash", "scale": 1}],
    }
    assert build_reward(bent).name == "gold_scale_squash"


def test_a_coin_scores_noise():
    clips = sample_clips(16, torch.Generator().manual_seed(0))
    coin = make_reward("coin", std=0.5, seed=2)
    values = coin(clips.videos, clips.captions).values
    torch.testing.assert_close(
        values.double(), 0.5 * judge_noise(clips.videos, 2), atol=1e-6, rtol=0
    )
    assert coin.bounds == pytest.approx((-0.5 * math.sqrt(3), 0.5 * math.sqrt(3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(0), "by must be positive, got 0"),
        (lambda: Squash(-1), "scale must be positive, got -1"),
        (lambda: Sigmoid(scale=0), "scale must be positive, got 0"),
        (lambda: Noise(0), "std must be positive, got 0"),
        (lambda: Miscalibrate(cv=0), "cv must be positive, got 0"),
        (
            lambda: build_reward({"name": "gold", "transforms": [{"name": "sqash"}]}),
            "unknown transform 'sqash'; did you mean 'squash'\\? Known: .*scale, sigmoid, squash",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
