"""Measurements of rollouts against loops written out and closed forms."""

from __future__ import annotations

import math
from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import AdvantageOutput
from reelrl.envs.scoring import RewardFacts
from reelrl.zoo.benchmark import watch
from reelrl.zoo.benchmark.run import _open
from reelrl.zoo.benchmark.watch import (
    RolloutMeasures,
    collisions,
    correlation,
    path_kl,
    proxy_of,
    within_std,
)


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
    suite = tiny_suite(
        base={
            "env": "reelrl/MovingShapesEarly-v0",
            "iterations": 1,
            "env_args": {"num_steps": 4},
            "learner": {
                "prompts_per_iteration": 2,
                "group_size": 2,
                "rollout": {"last_step": 1, "keep_videos": 4},
            },
        }
    )
    learner, _ = _open(next(iter(suite.runs())), tmp_path, suite.examined)
    rollout = learner.collect()
    assert float(path_kl(learner.policy, rollout)) == 0
    base = {k: v.clone() for k, v in learner.policy.parameters.items()}
    with torch.no_grad():
        for parameter in learner.policy.parameters.values():
            parameter += 0.01 * torch.sign(parameter)
    moved = learner.policy.state_dict()
    assert len(rollout.transitions.steps) == 2
    total = 0.0
    for kept, clip in product(rollout.transitions.steps, range(4)):
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


def test_two_failures_of_one_component_are_alike():
    rewards = torch.tensor([[[math.nan, 1.0], [math.nan, 1.0], [math.nan, 2.0], [0.0, 1.0]]])
    advantages = torch.zeros(1, 4).double()
    # Of six pairs one is alike.
    assert float(collisions(rewards.double(), advantages)) == 1
    advantages[0, 3] = 1.0
    # Of the five that differ two have one advantage; the two that are alike have it, too.
    assert float(collisions(rewards.double(), advantages)) == pytest.approx(2 / 5)


class Brightness:
    """A truth of one axis."""

    axes = ("light",)

    def __init__(self):
        self.asked = []

    def __call__(self, videos, prompts):
        self.asked.append((videos, list(prompts)))
        return {"light": videos.flatten(1).mean(dim=1)}


@pytest.fixture
def watched(monkeypatch):
    """``watched(iteration, advantages)``: measures of two groups of two, the divergence 7."""
    monkeypatch.setattr(watch, "path_kl", lambda policy, rollout: torch.tensor(7.0))

    def make(iteration, advantages, weights=(2.0, 0.5)):
        facts = RewardFacts(("up", "down"), ((0.0, 1.0),) * 2, (1.0, -1.0))
        base = SimpleNamespace(prompts=["dark", "dim", "bright"])
        learner = SimpleNamespace(
            env=SimpleNamespace(unwrapped=base), facts=facts, names=["up", "down"], policy=None,
            config=SimpleNamespace(reward_weights=weights), iteration=iteration,
        )  # fmt: skip
        levels = torch.tensor([51, 102, 0, 255], dtype=torch.uint8)
        rollout = SimpleNamespace(
            transitions=(),
            videos=levels[:, None, None, None, None].expand(4, 1, 2, 2, 3),
            prompt_ids=torch.tensor([2, 2, 0, 0]),
            group_size=2,
            rewards=torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.25, 0.5], [0.75, 0.5]]),
        )
        truth = Brightness()
        measures = RolloutMeasures(truth, every=5, last=12)
        return measures.on_rollout(learner, rollout, AdvantageOutput(np.array(advantages))), truth

    return make


def test_measures_of_a_rollout_written_out(watched):
    found, truth = watched(1, [[-1.0, 1.0], [2e-4, -2e-4]])
    ((videos, prompts),) = truth.asked
    assert prompts == ["bright", "bright", "dark", "dark"]
    assert videos.amax(dim=(1, 2, 3, 4)).tolist() == pytest.approx([0.2, 0.4, 0, 1])
    proxy = 2 * np.array([[0, 1], [0.25, 0.75]]) - 0.5 * np.array([[1, 0], [0.5, 0.5]])
    advantages = np.array([[-1.0, 1.0], [2e-4, -2e-4]])
    light = np.array([[0.2, 0.4], [0.0, 1.0]])

    def pooled(values):
        a = (advantages - advantages.mean(1, keepdims=True)).ravel()
        b = (values - values.mean(1, keepdims=True)).ravel()
        return (a @ b) / np.sqrt((a @ a) * (b @ b))

    assert found == pytest.approx({
        "watch/light": 0.4,
        "watch/proxy": proxy.mean(),
        "watch/within_std/proxy": proxy.std(axis=1).mean(),
        "watch/within_std/advantage": advantages.std(axis=1).mean(),
        "watch/corr_light": pooled(light),
        "watch/zero_advantage": 0.5,
        "watch/zero_std_groups": 0.0,
        "watch/collisions": 0.0,
        "watch/within_std/up": (0.5 + 0.25) / 2,
        "watch/within_std/down": 0.25,
        "watch/corr/up": pooled(np.array([[0, 1], [0.25, 0.75]])),
        "watch/corr/down": pooled(np.array([[1, 0], [0.5, 0.5]])),
    }, abs=1e-7)  # fmt: skip


def test_the_proxy_without_weights_has_ones(watched):
    found, _ = watched(1, [[-1.0, 1.0], [1.0, -1.0]], None)
    assert found["watch/proxy"] == pytest.approx((0 - 1 + 1 - 0 + 0.25 - 0.5 + 0.75 - 0.5) / 4)


def test_an_advantage_per_step_is_averaged_over_the_steps(watched):
    per_step = [[[3.0, -5.0], [1.0, 1.0]], [[0.0, 0.0], [4.0, -2.0]]]
    assert watched(1, per_step)[0] == watched(1, [[-1.0, 1.0], [0.0, 1.0]])[0]


def test_the_divergence_is_measured_now_and_then_and_at_the_end(watched):
    told = [i for i in range(13) if "watch/kl" in watched(i, [[-1.0, 1.0], [1.0, -1.0]])[0]]
    assert told == [0, 5, 10, 12]
