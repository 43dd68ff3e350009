"""Measurements of rollouts against loops written out and closed forms."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from reelrl.zoo.benchmark.run import _open
from reelrl.zoo.benchmark.watch import collisions, correlation, path_kl, proxy_of, within_std


@pytest.fixture
def groups():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5)))


def test_within_std_is_the_mean_of_the_groups_own(groups):
    expected = np.mean([np.std(group) for group in groups.numpy()])
    assert float(within_std(groups.flatten(), 5)) == pytest.approx(expected)
    groups[0, 0] = math.nan
    expected = np.mean([np.nanstd(group) for group in groups.numpy()])
    assert float(within_std(groups.flatten(), 5)) == pytest.approx(expected)


def test_correlation_is_pooled_and_blind_to_what_groups_differ_in(groups):
    other = 2 * groups + torch.tensor([[5.0], [-3.0], [100.0]])
    assert float(correlation(groups, other)) == pytest.approx(1)
    assert float(correlation(groups, -other)) == pytest.approx(-1)
    assert float(correlation(groups, torch.zeros_like(groups))) == 0
    other[1, 2] = math.nan
    assert float(correlation(groups, other)) == pytest.approx(1)


def test_collisions_by_enumeration():
    rewards = torch.tensor([[[0, 1], [1, 0], [1, 1], [1, 1]], [[0, 0], [0, 0], [0, 0], [2, 0]]])
    advantages = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]).double()
    same = different = 0
    for r, a in zip(rewards.tolist(), advantages.tolist(), strict=True):
        for i, j in combinations(range(4), 2):
            different += r[i] != r[j]
            same += r[i] != r[j] and a[i] == a[j]
    assert float(collisions(rewards.double(), advantages)) == pytest.approx(same / different)
    assert float(collisions(rewards[:, :1].double(), advantages[:, :1])) == 0


def test_the_proxy_is_the_signed_weighted_sum():
    rewards = torch.tensor([[1.0, 2.0], [math.nan, 1.0]]).double()
    signs = (1.0, -1.0)
    assert proxy_of(rewards, signs, (3.0, 0.5))[0] == 2
    assert proxy_of(rewards, signs)[0] == -1 and proxy_of(rewards, signs)[1].isnan()


def test_the_divergence_is_that_of_the_means_written_out(tiny_suite, tmp_path):
    suite = tiny_suite()
    learner, _ = _open(next(iter(suite.runs())), tmp_path, suite.examined)
    rollout = learner.collect()
    assert float(path_kl(learner.policy, rollout)) == 0
    base = {k: v.clone() for k, v in learner.policy.parameters.items()}
    with torch.no_grad():
        for parameter in learner.policy.parameters.values():
            parameter += 0.01 * torch.sign(parameter)
    moved = learner.policy.state_dict()
    (kept,) = rollout.transitions.steps
    total = 0.0
    for clip in range(4):
        obs = {
            "latent": kept.latent[clip : clip + 1],
            "sigma": rollout.transitions.sigmas[kept.index].float().view(1, 1),
            "prompt_id": rollout.prompt_ids[clip].view(1, 1),
        }
        means = []
        for weights in (moved, base):
            learner.policy.load_state_dict(weights)
            step = learner.policy.forward(obs).step
            means.append(step.mean.double())
        width = float(step.step_std.double())
        total += float((means[0] - means[1]).detach().square().sum()) / (2 * width**2)
    learner.policy.load_state_dict(moved)
    assert float(path_kl(learner.policy, rollout)) == pytest.approx(total / 4, rel=1e-4)
