"""Every name that a suite holds is looked up before anything runs, and the message says where."""

from __future__ import annotations

import pytest

from reelrl.zoo.benchmark.check import check
from reelrl.zoo.benchmark.design import read_suite
from reelrl.zoo.benchmark.runner import bench

BASE = {
    "env": "reelrl/MovingShapesEarly-v0",
    "iterations": 1,
    "learner": {"prompts_per_iteration": 2, "group_size": 2},
}


def scenario(*rewards):
    text = {"title": "t", "about": "a", "prediction": "p"}
    return {"scenarios": {"mine": text | {"rewards": list(rewards)}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (scenario("gold_alignn"), "mine/grpo: reward: unknown reward 'gold_alignn'"),
        (scenario({"name": "gold", "transforms": [{"name": "scale", "by": -1}]}), "by must be"),
        ({"methods": {"grpo": None, "x": {"estimator": "gddpo"}}}, "x: estimator: .*'gddpo'"),
        (
            {"base": BASE | {"env_args": {"num_stepss": 8}}},
            "'env_args.num_stepss'; did you mean 'num_steps'",
        ),
        ({"base": BASE | {"env": "reelrl/MovingShapesErly-v0"}}, "goodhart/grpo: env: .*Erly"),
        ({"baseline": "grppo"}, "the baseline .* got 'grppo'; did you mean 'grpo'"),
        ({"control": "random_sing"}, "the control .* got 'random_sing'"),
    ],
)
def test_an_unknown_name_stops_the_benchmark_before_it_starts(
    tiny_suite, tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        bench(tiny_suite(**changes), tmp_path / "runs", tmp_path / "results", progress=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["quick", "standard", "learning", "pilot", "full"])
def test_what_ships_is_known(name):
    suite = read_suite(name)
    check(suite, suite.runs())
