from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import RewardBatch, make_estimator
from reelrl.algos.collect.collector import collect
from reelrl.algos.metrics import rollout_metrics
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
