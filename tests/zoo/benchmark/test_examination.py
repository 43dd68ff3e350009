"""Measurements against loops written out and closed forms."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

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


def _asked(examination):
    settings = examination.settings
    seeds = list(settings.noise_seeds("unseen"))
    return evaluation_captions("compositional", len(seeds)), seeds


def test_unseen_prompts_are_so_many_captions_of_two_pairs():
    """As docs/benchmark.md says."""
    captions = evaluation_captions("compositional", 128)
    pairs = {tuple(caption.split()[1:3]) for caption in captions}
    assert len(set(captions)) == 24 and pairs == {("purple", "triangle"), ("white", "circle")}
