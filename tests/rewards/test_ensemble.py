"""Ensembles: the three formulas, bounds, failures, and what they are made of."""

from __future__ import annotations

import math
import statistics
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.rewards import Reward, make_reward
from reelrl.rewards.adaptive import adaptive_parts
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.cache import CachedReward
from reelrl.rewards.ensemble import Ensemble, combine, combined_bounds
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.rewards.spec import build_reward


class Given(Reward):
    """A component that returns what it was given."""

    def __init__(self, name, values, bounds=(0.0, 4.0), better=True, **facts):
        self.name, self.bounds, self.higher_is_better = name, bounds, better
        self.values, self.calls = torch.tensor(values), 0
        for key, value in facts.items():
            setattr(self, key, value)

    def score(self, videos, prompts, infos):
        self.calls += 1
        return self.values


def clips(count=1):
    return torch.zeros(count, 2, 4, 4, 3), ["a"] * count


def of(*columns, better=True, **config):
    members = [Given(str(i), column, better=better) for i, column in enumerate(columns)]
    return Ensemble(members, **config)


@pytest.mark.parametrize(
    ("how", "expected"),
    # mean 7/3 and variance 14/9 of (1, 2, 4); with ddof 1 it would be 2.1.
    [("mean", 7 / 3), ("wco", 1.0), ("uwo", 2.1777778)],
)
def test_closed_forms(how, expected):
    value = of([1.0], [2.0], [4.0], how=how, penalty=0.1)(*clips()).values
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_of_penalties_the_worst_is_the_largest():
    members = ([1.0], [2.0], [4.0])
    assert float(of(*members, better=False, how="wco")(*clips()).values) == 4.0
    uwo = of(*members, better=False, how="uwo", penalty=0.1)
    assert float(uwo(*clips()).values) == pytest.approx(7 / 3 + 0.1 * 14 / 9)
    assert not uwo.higher_is_better and uwo.bounds == pytest.approx((0.0, 4.4))


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 1)), min_size=2, max_size=5),
    st.sampled_from(["mean", "wco", "uwo"]),
    st.floats(0, 2),
)
def test_values_are_within_the_derived_bounds_and_those_of_a_slow_loop(members, how, penalty):
    bounds = [(low, low + width) for low, width, _ in members]
    values = [low + width * place for low, width, place in members]
    found = float(combine(torch.tensor([values], dtype=torch.float64), how, penalty))
    low, high = combined_bounds(bounds, how, penalty)
    assert low - 1e-9 <= found <= high + 1e-9
    slow = {
        "mean": statistics.fmean(values),
        "wco": min(values),
        "uwo": statistics.fmean(values) - penalty * statistics.pvariance(values),
    }
    assert found == pytest.approx(slow[how], abs=1e-9)


def test_infinite_bounds_stay_infinite():
    endless = (-math.inf, math.inf)
    assert combined_bounds([endless, (0.0, 1.0)], "uwo", 0.1) == endless
    assert combined_bounds([endless, (0.0, 1.0)], "wco", 0.1) == (-math.inf, 1.0)


@pytest.mark.parametrize("how", ["mean", "wco", "uwo"])
def test_a_failed_member_fails_the_clip_and_no_other(how):
    output = of([1.0, 2.0], [math.nan, 2.0], how=how)(*clips(2))
    assert output.valid.tolist() == [False, True] and float(output.values[1]) == 2.0


def test_a_member_that_raises_fails_the_component():
    class Broken(Given):
        def score(self, videos, prompts, infos):
            raise ConnectionError("no judge")

    with pytest.raises(ConnectionError):
        Ensemble([Given("a", [1.0]), Broken("b", [1.0])])(*clips())


def test_it_declares_what_its_members_do():
    members = [
        Given("a", [1.0], license="MIT", weights="x/y", memory_gb=1.5, fps_sensitive=True),
        Given("b", [1.0], license="Apache-2.0", weights="x/y", memory_gb=0.5, groupwise=True),
        Given("c", [1.0], license="MIT", deterministic=False),
    ]
    whole = Ensemble(members, how="mean")
    assert (whole.license, whole.weights, whole.memory_gb) == ("MIT AND Apache-2.0", "x/y", 2.0)
    assert whole.fps_sensitive and whole.groupwise and not whole.deterministic
    assert whole.parts == tuple(members) and whole.bounds == (0.0, 4.0)


def test_from_plain_values_as_a_preset_has_them():
    world = sample_clips(6, torch.Generator().manual_seed(0))
    halved = {"name": "gold", "transforms": [{"name": "scale", "by": 0.5}], "label": "half"}
    spec = {"name": "ensemble", "of": ["gold", halved], "how": "uwo", "penalty": 0.4}
    reward = build_reward({**spec, "label": "both", "asynchronous": True})
    gold = make_reward("gold")(world.videos, world.captions).values
    values = reward(world.videos, world.captions).values
    assert reward.name == "both" and isinstance(reward, AsyncReward)
    torch.testing.assert_close(values, 0.75 * gold - 0.4 * gold**2 / 16)


def test_members_in_the_background_work_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)

    class Meets(Given):
        def score(self, videos, prompts, infos):
            meeting.wait()  # one after the other, they would never meet
            return self.values

    members = [AsyncReward(Meets(name, [1.0])) for name in "ab"]
    assert float(Ensemble(members)(*clips()).values) == 1.0


def test_caching_inside_and_around(tmp_path):
    inner = Given("a", [1.0], fingerprint="1"), Given("b", [3.0], fingerprint="1")
    around = CachedReward(Ensemble(inner, how="wco"), tmp_path / "around")
    assert [float(around(*clips()).values) for _ in range(2)] == [1.0, 1.0]
    assert [member.calls for member in inner] == [1, 1]
    mean = CachedReward(Ensemble(inner, how="mean"), tmp_path / "around")
    assert float(mean(*clips()).values) == 2.0  # another way to combine is another key
    inside = Ensemble([CachedReward(inner[0], tmp_path / "inside"), inner[1]], how="mean")
    assert [float(inside(*clips()).values) for _ in range(2)] == [2.0, 2.0]
    assert [member.calls for member in inner] == [3, 4]
    with pytest.raises(ValueError, match="deterministic reward with a fingerprint"):
        CachedReward(of([1.0], [2.0]), tmp_path)


def test_no_member_is_nothing_to_adapt():
    assert adaptive_parts(of([1.0], [2.0])) == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble(["gold"]), r"two members of different names, got \['gold'\]"),
        (lambda: Ensemble(["gold", "gold"]), r"different names, got \['gold', 'gold'\]"),
        (lambda: Ensemble("gold"), "of must be a list of rewards, got 'gold'"),
        (lambda: Ensemble(["gold", "coin"], how="max"), "how must be one of mean, wco, uwo"),
        (lambda: Ensemble(["gold", "coin"], penalty=-1), "penalty must be at least 0, got -1"),
        (
            lambda: Ensemble([Given("a", [1.0]), Given("b", [1.0], better=False)]),
            r"all penalties or none, got \['a', 'b'\]",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
