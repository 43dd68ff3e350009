"""Truths: the contract of each, and a benchmark that measures another one than MovingShapes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from reelrl.rewards import Reward, make_reward
from reelrl.rewards.moving_shapes import gold, world
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.zoo.benchmark import truth as truths
from reelrl.zoo.benchmark.best_of_n import best_of_n
from reelrl.zoo.benchmark.check import check
from reelrl.zoo.benchmark.columns import read_rows
from reelrl.zoo.benchmark.report.numbers import half_way, measure
from reelrl.zoo.benchmark.report.reading import read_results
from reelrl.zoo.benchmark.report.write import report
from reelrl.zoo.benchmark.runner import bench
from reelrl.zoo.benchmark.seals import seal
from reelrl.zoo.benchmark.store import Store
from reelrl.zoo.benchmark.truth import (
    TRUTHS,
    HeldOutJudges,
    build_truth,
    evaluation_captions,
    register_truth,
    repeated,
)

HELD_OUT = {
    "name": "held_out",
    "rewards": ["sharpness", "colourfulness"],
    "prompts": {"seen": ["a red circle", "a blue square"], "unseen": ["a green square"]},
}
TRAINED = {
    "title": "Still clips",
    "about": "Change between frames is punished.",
    "rewards": ["temporal_flicker"],
    "prediction": "Clips stand still.",
}
CLIPS = sample_clips(6, torch.Generator().manual_seed(0))


class Unsure(Reward):
    """Scores a clip by its first pixel, and refuses every second clip."""

    name, bounds, higher_is_better = "unsure", (0.0, 1.0), False

    def score(self, videos, prompts, infos):
        values = videos[:, 0, 0, 0, 0].clone()
        values[1::2] = torch.nan
        return values


@pytest.mark.parametrize("spec", ["moving_shapes", HELD_OUT])
def test_every_truth_keeps_the_contract(spec):
    truth = build_truth(spec)
    scores = truth(CLIPS.videos, CLIPS.captions)
    assert tuple(scores) == truth.axes and len(set(truth.axes)) == len(truth.axes)
    assert {tuple(values.shape) for values in scores.values()} == {(6,)}
    for split in ("seen", "unseen"):
        assert all(isinstance(prompt, str) and prompt for prompt in truth.prompts(split))
    read = truth.factors(CLIPS.videos)
    if read is not None:
        values, sizes = read
        assert values.shape == (6, len(sizes)) and values.dtype == torch.int64
        assert (values >= 0).all() and (values <= torch.tensor(sizes)).all()


def test_moving_shapes_is_gold_and_its_axes_on_the_captions_of_the_world():
    truth = build_truth("moving_shapes")
    expected = gold.gold_axes_of_prompts(CLIPS.videos, CLIPS.captions)
    found = truth(CLIPS.videos, CLIPS.captions)
    for axis, name in zip(truth.axes, ("gold", "align", "phys", "fid"), strict=True):
        assert torch.equal(found[axis], getattr(expected, name))
    assert repeated(truth.prompts("seen"), 300) == evaluation_captions("train", 300)
    assert set(truth.prompts("unseen")).isdisjoint(truth.prompts("seen"))
    assert len(truth.prompts("seen")) == 192 and len(truth.prompts("unseen")) == 24


def test_prompts_begin_again_when_they_run_out():
    assert repeated(["a", "b", "c"], 7) == ["a", "b", "c", "a", "b", "c", "a"]
    assert repeated(["a", "b", "c"], 2) == ["a", "b"]
    shown = evaluation_captions("compositional", 24 * 3)
    assert shown[:24] == shown[24:48] == shown[48:] and len(set(shown)) == 24


def test_factors_of_the_world_are_those_of_the_captions_and_one_more_for_nothing_found():
    blank = torch.full_like(CLIPS.videos[:1], world.BACKGROUND)
    values, sizes = build_truth("moving_shapes").factors(torch.cat([CLIPS.videos, blank]))
    assert sizes == (len(world.COLOURS), len(world.SHAPES), 4, len(world.SPEEDS))
    names = (list(world.COLOURS), world.SHAPES, list(world.DIRECTIONS), list(world.SPEEDS))
    for row, caption in zip(values.tolist(), CLIPS.captions, strict=False):
        asked = world.caption_to_factors(caption)
        wanted = (asked.colour, asked.shape, asked.direction, asked.speed)
        assert [known[i] for known, i in zip(names, row, strict=True)] == list(wanted)
    assert values[6].tolist() == list(sizes)


def test_held_out_judges_are_averaged_with_penalties_negative_and_gaps_kept():
    truth = HeldOutJudges(["sharpness", Unsure()], {"seen": ["a"]})
    found = truth(CLIPS.videos, CLIPS.captions)
    assert truth.axes == ("held_out", "held_out_sharpness", "held_out_unsure")
    sharp = make_reward("sharpness")(CLIPS.videos, CLIPS.captions).values.double()
    corner = CLIPS.videos[:, 0, 0, 0, 0].double()
    assert torch.equal(found["held_out_sharpness"], sharp)
    torch.testing.assert_close(found["held_out"][::2], (sharp[::2] - corner[::2]) / 2)
    assert found["held_out"][1::2].isnan().all() and found["held_out_unsure"][1::2].isnan().all()
    assert truth.prompts("unseen") == () and truth.factors(CLIPS.videos) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("moving_shape", "did you mean 'moving_shapes'"),
        ({"rewards": []}, "unknown truth 'None'"),
        ({**HELD_OUT, "judges": 1}, "unexpected keyword argument 'judges'"),
        ({**HELD_OUT, "rewards": []}, "of different names, got \\[\\]"),
        ({**HELD_OUT, "rewards": ["sharpness"] * 2}, "of different names"),
        ({**HELD_OUT, "prompts": {"test": ["a"]}}, "of the splits seen, unseen, got \\['test'\\]"),
        ({**HELD_OUT, "prompts": {}}, "of the splits seen, unseen"),
    ],
)
def test_a_truth_that_cannot_be_built_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        build_truth(spec)


class Bright:
    """A world in which light is all that counts."""

    axes = ("bright",)

    def prompts(self, split):
        return ["a lamp"] if split == "seen" else []

    def __call__(self, videos, prompts):
        return {"bright": videos.mean(dim=(1, 2, 3, 4))}

    def factors(self, videos):
        return None


def test_a_second_world_is_a_class(tiny_suite):
    with TRUTHS.isolated():
        register_truth("bright")(Bright)
        check(tiny_suite(truth="bright"), [])
        with pytest.raises(ValueError, match="truth name 'bright' is taken"):
            register_truth("bright")(type("Other", (), {}))


def test_nothing_is_trained_on_a_held_out_judge(tiny_suite):
    suite = tiny_suite(
        truth=HELD_OUT,
        scenarios={"sharp": {**TRAINED, "rewards": [{"name": "sharpness", "label": "edges"}]}},
    )
    with pytest.raises(ValueError, match=r"sharp/grpo: reward: .*got 'sharpness'"):
        check(suite, suite.runs())


def test_results_of_another_truth_are_not_this_suites(tiny_suite, tmp_path):
    known, other = tiny_suite(), tiny_suite(truth=HELD_OUT)
    first, second = next(iter(known.runs())), next(iter(other.runs()))
    assert first.path == second.path and first.digest != second.digest
    store = Store(tmp_path, known)
    store.facts["runs"] = {str(first.path): {"digest": first.digest}}
    store.describe({}, [])
    (tmp_path / "goodhart.csv").write_text(f"method,seed,iteration\n{first.method},0,0\n")
    (tmp_path / "best_of_n.csv").write_text("scenario,seed\ngoodhart,0\n")
    seal(tmp_path)
    assert Store(tmp_path, known).has(first) and Store(tmp_path, known).best_of_n
    assert Store(tmp_path, other).facts["runs"] == {} and not Store(tmp_path, other).best_of_n


def test_a_suite_with_a_held_out_truth_runs_from_bench_to_report(tiny_suite, tmp_path, monkeypatch):
    """Not one call of MovingShapes' gold, in this process or in that of a run."""

    def refuse(*arguments, **settings):
        raise AssertionError("gold was asked")

    for name in ("gold_axes", "gold_axes_of_prompts"):
        monkeypatch.setattr(gold, name, refuse)
    monkeypatch.setattr(truths, "gold_axes_of_prompts", refuse)
    monkeypatch.setattr(truths, "parse", refuse)
    suite = tiny_suite(
        truth=HELD_OUT,
        best_of=2,
        scenarios={"still": TRAINED},
        base={**tiny_suite().base, "env": "reelrl/TextToVideo-v0", "env_args": {
            "model": "nano-early", "num_steps": 2, "shift": 2.0,
            "prompts": ["a red circle", "a blue square"],
        }},
    )  # fmt: skip
    assert bench(suite, tmp_path / "out", tmp_path / "results", jobs=1, progress=False) == []

    facts = json.loads((tmp_path / "results" / "suite.json").read_text())
    assert facts["truth"]["axes"] == list(HeldOutJudges(**_arguments()).axes)
    rows = read_rows(tmp_path / "results" / "still.csv")
    assert {row["method"] for row in rows} == {"grpo", "gdpo"}
    ends = [row for row in rows if row["eval_unseen/held_out"]]
    assert len(ends) == 2 * 3
    for row in ends:
        for split in ("seen", "unseen"):
            axes = [float(row[f"eval_{split}/held_out_{n}"]) for n in HELD_OUT["rewards"]]
            assert float(row[f"eval_{split}/held_out"]) == pytest.approx(np.mean(axes), rel=1e-3)
        assert float(row["eval_open/pairwise"]) > 0
    absent = ("gold", "gold_align", "corr_gold", "eval_open/coverage", "eval_open/vendi")
    assert not set(absent) & set(rows[0]) and "corr_held_out" in rows[0]
    (n, *_) = {row["n"] for row in read_rows(tmp_path / "results" / "best_of_n.csv")} - {"1"}
    assert n == "2" and "held_out" in read_rows(tmp_path / "results" / "best_of_n.csv")[0]

    results = measure(read_results(tmp_path / "results"))
    gains = results.get("still", "grpo", "gold_gain")
    mine = [float(row["eval_unseen/held_out"]) for row in ends if row["method"] == "grpo"]
    assert gains == pytest.approx([mine[-1] - mine[0]])
    best = max(float(row["eval_unseen/held_out"]) for row in ends)
    assert half_way(results.suite, "unseen")[1] == pytest.approx(best)
    page = report(tmp_path / "results")[0].read_text()
    assert "`held_out`, the score of the truth `held_out`" in page
    assert "| method | sharpness | colourfulness | reward temporal_flicker |" in page
    assert "fidelity" not in page.split("## How to read this")[1].split("hypervolume")[1]


def test_best_of_n_of_a_truth_without_unseen_prompts_has_one_split(tiny_suite):
    prompts = {"seen": ["a red circle moving right"]}
    suite = tiny_suite(truth={**HELD_OUT, "prompts": prompts}, best_of=1, methods=["grpo"])
    (row,) = best_of_n(suite, 0)
    assert row["split"] == "seen" and 0 <= row["held_out"] <= 1 and row["kl"] == 0


def _arguments():
    return {key: value for key, value in HELD_OUT.items() if key != "name"}
