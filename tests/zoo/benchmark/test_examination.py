"""Measurements against loops written out and closed forms."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from reelrl.algos.policies.weights import EMA
from reelrl.envs.scoring import RewardList
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.zoo.benchmark import drawn as remembering
from reelrl.zoo.benchmark.examination import diversity
from reelrl.zoo.benchmark.run import _open
from reelrl.zoo.benchmark.truth import MovingShapesTruth, evaluation_captions
from reelrl.zoo.generate import Sampler, generate


def various(videos):
    """Diversity by the factors of the world."""
    return diversity(videos, MovingShapesTruth().factors(videos))


def test_diversity_of_the_world_is_near_one_and_of_one_clip_the_least():
    clips = sample_clips(512, torch.Generator().manual_seed(0)).videos
    whole = various(clips)
    assert float(whole["coverage"]) > 0.97
    same = various(clips[:1].expand(8, -1, -1, -1, -1))
    assert float(same["coverage"]) == pytest.approx(0)
    assert float(same["vendi"]) == pytest.approx(1 / 8) and float(same["pairwise"]) < 1e-6
    nothing = various(torch.full((4, 9, 32, 32, 3), 0.1))
    assert float(nothing["coverage"]) == 0


def test_pairwise_distance_written_out():
    clips = sample_clips(4, torch.Generator().manual_seed(1)).videos
    expected = np.mean([
        float((clips[i] - clips[j]).double().square().mean().sqrt())
        for i, j in combinations(range(4), 2)
    ])  # fmt: skip
    assert set(diversity(clips, None)) == {"pairwise"}
    assert float(diversity(clips, None)["pairwise"]) == pytest.approx(expected, rel=1e-5)


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

    draw = Sampler.__call__

    def counting(*args):
        calls.append(args)
        return draw(*args)

    monkeypatch.setattr(Sampler, "__call__", counting)
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
        replace(again, sampler=replace(again.sampler, num_steps=3)).clips(other.policy, "unseen")[
            0
        ],
        torch.cat(list(generate(other.policy.model, *_asked(again), num_steps=3))),
    )


def test_clips_of_another_guidance_scale_are_drawn_anew(tiny_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(remembering, "_drawn", OrderedDict())
    suite = tiny_suite()
    learner, examination = _open(next(iter(suite.runs())), tmp_path, suite.examined)
    policy, asked = learner.policy, _asked(examination)
    # Guided away from nothing, the empty prompt would be itself at any scale.
    policy.model.negative_prompt = "a red circle moving right"
    plain, _ = examination.clips(policy, "unseen")
    open_to_all, _ = examination.clips(policy, "open")
    policy.guidance_scale = 3.0
    guided, _ = examination.clips(policy, "unseen")
    expected = torch.cat(list(generate(policy.model, *asked, num_steps=2, guidance_scale=3.0)))
    torch.testing.assert_close(guided, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(guided, plain, atol=1e-3)
    # The empty prompt asks for nothing that could be asked for more.
    assert torch.equal(examination.clips(policy, "open")[0], open_to_all)
    seeds = list(examination.settings.noise_seeds("open"))
    free = torch.cat(list(generate(policy.model, [""] * len(seeds), seeds, num_steps=2)))
    torch.testing.assert_close(open_to_all, free, atol=1e-5, rtol=0)


class Light:
    """A truth with one prompt per split."""

    axes = ("light", "shade")

    def prompts(self, split):
        return {"seen": ["a red circle moving right"], "unseen": []}[split]

    def __call__(self, videos, prompts):
        light = videos.flatten(1).mean(dim=1)
        return {"light": light, "shade": 1 - light}

    def factors(self, videos):
        return None


def test_the_columns_of_an_examination_written_out(tiny_suite, tmp_path):
    """Of the average of the weights, with penalties and static weights in the proxy."""
    suite = tiny_suite()
    learner, examination = _open(next(iter(suite.runs())), tmp_path, suite.examined)
    rewards = RewardList(["proxy_ta", "proxy_vq"])
    rewards.components[1].higher_is_better = False
    examination = replace(examination, truth=Light(), rewards=rewards, weights=(2.0, 0.5))
    policy = learner.policy
    ema = EMA(policy.parameters, 0.9)
    drawn_by_the_average, _ = examination.clips(policy, "seen")
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.mul_(1.5)
    found = examination.metrics(policy, ema)
    own, _ = examination.clips(policy, "seen")
    assert not torch.allclose(own, drawn_by_the_average, atol=1e-3)
    prompts = Light().prompts("seen") * 4
    values, _ = rewards(drawn_by_the_average, prompts, [{}] * 4)
    proxy = 2.0 * values[:, 0].double() - 0.5 * values[:, 1].double()
    light = drawn_by_the_average.flatten(1).mean(dim=1).double()
    expected = {
        "eval/seen/light": light.mean(),
        "eval/seen/shade": (1 - light).mean(),
        "eval/seen/proxy_ta": values[:, 0].mean(),
        "eval/seen/proxy_vq": values[:, 1].mean(),
        "eval/seen/proxy": proxy.mean(),
        "eval/seen/std_proxy": proxy.std(),
        "eval/seen/std_light": light.std(),
    }
    assert found.keys() == {*expected, "eval/open/pairwise"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_coverage_counts_what_can_be_read_alone():
    """Two factors of four and of two values; a clip of the last row shows no first one."""
    factors = torch.tensor([[0, 0], [1, 1], [0, 0], [4, 1]])
    videos = torch.zeros(4, 1, 2, 2, 3)
    entropy = -(0.5 * np.log(0.5) + 0.25 * np.log(0.25)) / np.log(4)
    found = diversity(videos, (factors, (4, 2)))
    assert float(found["coverage"]) == pytest.approx((entropy + 1) / 2)
    alike = np.array([[1, 0, 1, 0], [0, 1, 0, 0.5], [1, 0, 1, 0], [0, 0.5, 0, 1]]) / 4
    spectrum = np.linalg.eigvalsh(alike)
    spectrum = spectrum[spectrum > 1e-12]
    vendi = np.exp(-(spectrum * np.log(spectrum)).sum()) / 4
    assert float(found["vendi"]) == pytest.approx(vendi)


def _asked(examination):
    settings = examination.settings
    seeds = list(settings.noise_seeds("unseen"))
    return evaluation_captions("compositional", len(seeds)), seeds


def test_unseen_prompts_are_so_many_captions_of_two_pairs():
    """As docs/benchmark.md says."""
    captions = evaluation_captions("compositional", 128)
    pairs = {tuple(caption.split()[1:3]) for caption in captions}
    assert len(set(captions)) == 24 and pairs == {("purple", "triangle"), ("white", "circle")}
