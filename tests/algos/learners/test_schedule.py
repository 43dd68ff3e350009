"""Learning rates over a run, by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.learners.schedule import rate_factor
from reelrl.algos.policies import FlowPolicy


def factors(schedule, total=4, warmup=0, count=6):
    return [rate_factor(i, schedule, total, warmup) for i in range(count)]


def test_the_shapes_written_out():
    assert factors("constant", None) == [1.0] * 6
    assert factors("linear") == [1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
    expected = [(1 + math.cos(math.pi * p)) / 2 for p in (0, 0.25, 0.5, 0.75, 0.75, 0.75)]
    assert factors("cosine") == pytest.approx(expected)


def test_a_warm_up_rises_to_the_full_rate_and_the_rest_falls():
    assert factors("constant", None, 3, 5) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors("linear", 6, 2, 6) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25])
    assert factors("linear", 2, 4, 6)[4:] == [1.0, 1.0]  # All of the run was the warm-up.


def test_a_schedule_needs_its_end():
    with pytest.raises(ValueError, match="'cosine' needs schedule_iterations"):
        GRPOConfig(learning_rate_schedule="cosine")
    with pytest.raises(ValueError, match="must be one of constant, linear, cosine, got 'step'"):
        GRPOConfig(learning_rate_schedule="step", schedule_iterations=3)


def test_the_optimizer_follows_and_a_resumed_run_goes_on(make_env, tiny_types, tmp_path):
    config = GRPOConfig(
        prompts_per_iteration=2, group_size=4, learning_rate=1e-2,
        learning_rate_schedule="linear", schedule_iterations=4,
    )  # fmt: skip

    def begin(folder):
        env = make_env(8, model=tiny_types["model"]())
        return GRPO(env, FlowPolicy(env.unwrapped.model), "grpo", config, folder=folder)

    straight = begin(None)
    rates = [metrics["train/learning_rate"] for metrics in straight.learn(4)]
    assert rates == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    begin(tmp_path).learn(2)
    resumed = GRPO.load(tmp_path, env=make_env(8, model=tiny_types["model"]()))
    assert [m["train/learning_rate"] for m in resumed.learn(2)] == pytest.approx(rates[2:])
    for name, weight in straight.policy.state_dict().items():
        assert torch.equal(weight, resumed.policy.state_dict()[name])
