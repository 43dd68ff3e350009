"""Measurements against loops written out and closed forms."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.zoo.benchmark import drawn as remembering
from reelrl.zoo.benchmark import examination as examining
from reelrl.zoo.benchmark.examination import (
    SPLITS,
    collisions,
    correlation,
    diversity,
    path_kl,
    proxy_of,
    within_std,
)
from reelrl.zoo.benchmark.run import _open
from reelrl.zoo.shipped.nano.measurement import evaluation_captions, generate


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


def test_diversity_of_the_world_is_near_one_and_of_one_clip_the_least():
    clips = sample_clips(512, torch.Generator().manual_seed(0)).videos
    whole = diversity(clips)
    assert float(whole["coverage"]) > 0.97
    same = diversity(clips[:1].expand(8, -1, -1, -1, -1))
    assert float(same["coverage"]) == pytest.approx(0)
    assert float(same["vendi"]) == pytest.approx(1 / 8) and float(same["pairwise"]) < 1e-6
    nothing = diversity(torch.full((4, 9, 32, 32, 3), 0.1))
    assert float(nothing["coverage"]) == 0


def test_pairwise_distance_written_out():
    clips = sample_clips(4, torch.Generator().manual_seed(1)).videos
    expected = np.mean([
        float((clips[i] - clips[j]).double().square().mean().sqrt())
        for i, j in combinations(range(4), 2)
    ])  # fmt: skip
    assert float(diversity(clips)["pairwise"]) == pytest.approx(expected, rel=1e-5)


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


def test_results_are_read_from_more_unseen_clips(tiny_suite, tmp_path):
    suite = tiny_suite(examined={"clips": 2, "unseen": 5, "every": 2, "seed": 7})
    learner, examination = _open(next(iter(suite.runs())), tmp_path, suite.examined)
    sizes = {s: len(examination.clips(learner.policy, s)[0]) for s in ("seen", "unseen", "open")}
    assert sizes == {"seen": 2, "unseen": 5, "open": 2}


def test_the_first_clips_are_those_of_the_whole_examination(tiny_suite, tmp_path):
    suite = tiny_suite(examined={"clips": 2, "unseen": 5, "every": 2, "seed": 7})
    learner, examination = _open(next(iter(suite.runs())), tmp_path, suite.examined)
    videos, prompts = examination.clips(learner.policy, "unseen")
    shown, names = examination.clips(learner.policy, "unseen", first=2)
    assert names == prompts[:2] and shown.shape == videos[:2].shape
    assert (shown.int() - videos[:2].int()).abs().max() <= 1  # another batch size rounds otherwise


def test_the_base_model_is_drawn_once_and_any_other_anew(tiny_suite, tmp_path, monkeypatch):
    calls = []

    def counting(*args, **kwargs):
        calls.append(args)
        return generate(*args, **kwargs)

    monkeypatch.setattr(examining, "generate", counting)
    monkeypatch.setattr(remembering, "_drawn", OrderedDict())
    first, second = tiny_suite().runs()
    learner, examination = _open(first, tmp_path / "a", tiny_suite().examined)
    before, _ = examination.clips(learner.policy, "unseen")
    made = len(calls)
    other, again = _open(second, tmp_path / "b", tiny_suite().examined)
    shown, _ = again.clips(other.policy, "unseen")
    assert len(calls) == made and torch.equal(shown, before)
    shown.zero_()
    assert torch.equal(again.clips(other.policy, "unseen")[0], before)

    examination.clips(learner.policy, "seen")
    assert len(calls) == made + 1
    with torch.no_grad():
        next(iter(learner.policy.experts.parameters())).view(-1)[0].add_(1e-3)
    examination.clips(learner.policy, "unseen")
    assert len(calls) == made + 2
    assert torch.equal(
        replace(again, num_steps=3).clips(other.policy, "unseen")[0],
        torch.cat(list(generate(other.policy.model, *_asked(again), num_steps=3))),
    )


def _asked(examination):
    settings = examination.settings
    seeds = list(settings.noise_seeds("unseen"))
    return evaluation_captions(SPLITS["unseen"], len(seeds)), seeds


def test_unseen_prompts_are_so_many_captions_of_two_pairs():
    """As docs/benchmark.md says."""
    captions = evaluation_captions(SPLITS["unseen"], 128)
    pairs = {tuple(caption.split()[1:3]) for caption in captions}
    assert len(set(captions)) == 24 and pairs == {("purple", "triangle"), ("white", "circle")}
