from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import AdvantageOutput, RewardBatch, make_estimator
from reelrl.algos.collect.collector import collect
from reelrl.algos.metrics import advantage_metrics, rollout_metrics
from reelrl.algos.policies import FlowPolicy

# Float32 squares of these are 8 apart: their mean less the squared mean has no digit of a variance.
SCORES = 1e4 + np.array([[0.0, 0.01, 0.02, 0.05], [0.0, 0.0, 0.0, 0.0]])


def test_t43_the_spread_of_large_scores_is_computed_from_their_differences(make_env, tiny_model):
    naive = np.square(SCORES.astype(np.float32)).mean(1) - SCORES.astype(np.float32).mean(1) ** 2
    scores = SCORES.astype(np.float32)
    exact = scores.astype(np.float64).std(axis=1)
    assert naive[0] == 0 < exact[0]
    rollout = collect(make_env(8), FlowPolicy(tiny_model), [0, 1], 4)
    rewards = torch.from_numpy(scores).reshape(8, 1).expand(8, 2)
    metrics = rollout_metrics(replace(rollout, rewards=rewards), ["a", "b"])
    assert metrics["reward/within_std/a"] == pytest.approx(exact.mean(), rel=1e-6)
    assert metrics["health/zero_std_groups/a"] == 0.5


@pytest.mark.parametrize("name", ["grpo", "gdpo", "global_std"])
def test_t43_advantages_of_large_scores_are_those_of_their_differences(name):
    estimator = make_estimator(name)
    offset, plain = SCORES.astype(np.float32), SCORES.astype(np.float32) - np.float32(1e4)
    outputs = [estimator(RewardBatch(r[..., None], ("a",)))[0] for r in (offset, plain)]
    np.testing.assert_allclose(outputs[0].advantages, outputs[1].advantages, atol=1e-5)
    assert np.abs(outputs[0].advantages[0]).max() > 0.5


def test_shares_of_clips_that_failed_and_of_groups_without_spread(make_env, tiny_model):
    rollout = collect(make_env(8), FlowPolicy(tiny_model), [0, 1], 4)
    valid = torch.ones(8, 2, dtype=torch.bool)
    valid[2, 0] = False
    # The second group differs by rounding, the first by more.
    scores = torch.tensor([0.1, 0.2, torch.nan, 0.4, 0.1, 0.1, 0.1, 0.1 + 1e-8])
    rewards = torch.stack([scores, torch.arange(8.0)], dim=1)
    metrics = rollout_metrics(replace(rollout, rewards=rewards, valid=valid), ["a", "b"])
    assert metrics["health/failed/a"] == 1 / 8 and metrics["health/failed/b"] == 0
    assert metrics["health/zero_std_groups/a"] == 0.5
    assert metrics["health/zero_std_groups/b"] == 0
    known = np.array([0.1, 0.2, 0.4, 0.1, 0.1, 0.1, 0.1])
    assert metrics["reward/a"] == pytest.approx(known.mean(), rel=1e-6)
    assert metrics["reward/within_std/a"] == pytest.approx(np.std([0.1, 0.2, 0.4]) / 2, rel=1e-6)
    logged = torch.stack([step.log_prob for step in rollout.transitions.steps])
    assert metrics["rollout/log_prob"] == pytest.approx(float(logged.mean()))
    rough = (rollout.latents[..., 1:] - rollout.latents[..., :-1]).double().square().mean()
    assert metrics["health/residual_noise"] == pytest.approx(float(rough))


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_units_of_a_reward_are_no_matter_of_health(make_env, tiny_model, scale):
    rollout = collect(make_env(8), FlowPolicy(tiny_model), [0, 1], 4)
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.1, 0.1, 0.1, 0.1 + 1e-8]) * scale
    rewards = scores[:, None].expand(8, 2)
    metrics = rollout_metrics(replace(rollout, rewards=rewards), ["a", "b"])
    assert metrics["health/zero_std_groups/a"] == 0.5


def test_group_spread_by_rounding_is_none(make_env, tiny_model):
    rollout = collect(make_env(8), FlowPolicy(tiny_model), [0, 1], 4)
    rewards = torch.full((8, 2), 0.1)
    rewards[::2] += 1e-7
    assert rewards[0, 0] != rewards[1, 0]
    metrics = rollout_metrics(replace(rollout, rewards=rewards), ["a", "b"])
    assert metrics["health/zero_std_groups/a"] == 1


def test_the_size_of_advantages_and_the_estimators_own_numbers():
    output = AdvantageOutput(
        np.array([[1.0, -3.0], [0.0, 2.0]]),
        diagnostics={"share": np.array([0.25, 0.75]), "level": 2.0, "table": np.zeros((3, 3))},
    )
    assert advantage_metrics(output, ["a", "b"]) == pytest.approx({
        "advantage/abs_mean": 1.5,
        "advantage/std": np.std([1, -3, 0, 2]),
        "advantage/nonzero": 0.75,
        "advantage/share/a": 0.25,
        "advantage/share/b": 0.75,
        "advantage/level": 2.0,
    })  # fmt: skip
