"""Training the judge: deterministic, resumed bit for bit, balanced, and able to learn."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from reelrl.rewards.judges.rubric import RUBRICS
from reelrl.rewards.moving_shapes.world import captions, sample_clips
from reelrl.rewards.vlm.model import Query, QwenVL
from reelrl.zoo.shipped.nano_judge import train_judge as module
from reelrl.zoo.shipped.nano_judge.network import build_judge, save_judge
from reelrl.zoo.shipped.nano_judge.questions import Question
from reelrl.zoo.shipped.nano_judge.train_judge import (
    MODEL_CLIPS,
    JudgeConfig,
    balance,
    install,
    loss_of,
    train,
)

TINY = JudgeConfig(steps=2, batch=8, clips_per_model=2, save_every=1)


@pytest.fixture
def run(tmp_path):
    """Makes a run folder with four bytes-clips in the place of the video models'."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        clips = sample_clips(4, torch.Generator().manual_seed(0))
        save_file({"videos": (clips.videos * 255).to(torch.uint8)}, folder / MODEL_CLIPS)
        return folder

    return make


def weights(folder):
    return load_file(folder / "nano-judge" / "model.safetensors")


class Killed(Exception):
    pass


@pytest.mark.slow
def test_two_runs_are_one_and_a_killed_run_goes_on_bit_for_bit(run, monkeypatch):
    first, second, third = (replace(TINY, out=run(name)) for name in "abc")
    train(first)
    train(second)
    once, calls = module.loss_of, []

    def dies_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        return once(*args)

    monkeypatch.setattr(module, "loss_of", dies_at_the_second)
    with pytest.raises(Killed):
        train(third)
    monkeypatch.setattr(module, "loss_of", once)
    train(third)
    reference = weights(first.out)
    save_judge(build_judge(0), first.out.parent / "fresh" / "nano-judge")
    start = weights(first.out.parent / "fresh")
    assert all(not torch.equal(w, start[n]) for n, w in reference.items() if w.ndim > 1)
    for other in (second, third):
        assert all(torch.equal(reference[n], w) for n, w in weights(other.out).items())
    # A finished run is installed with a record, and opens under its own class.
    install(first.out, first.out.parent / "installed")
    assert QwenVL.from_pretrained(first.out.parent / "installed").tokenizer.chat_template
    assert (first.out.parent / "installed" / "record.json").exists()


def test_weights_balance_answers_and_kinds():
    def asked(kind, answer):
        return Question(kind, 0, RUBRICS["visual"], "", answer)

    questions = [asked("a", "yes")] * 3 + [asked("a", "no")] + [asked("b", "yes")] * 2
    questions += [asked("c", word) for word in ("red", "blue", "blue")]
    total = Counter()
    for question, weight in zip(questions, balance(questions).tolist(), strict=True):
        total[question.kind, question.answer] += weight
    halves = [total[key] for key in (("a", "yes"), ("a", "no"), ("c", "red"), ("c", "blue"))]
    assert halves == pytest.approx([1 / 6] * 4)
    assert total["b", "yes"] == pytest.approx(1 / 3)


def test_loss_is_the_cross_entropy_of_the_answering_token():
    judge = build_judge(1)
    clips = sample_clips(2, torch.Generator().manual_seed(0))
    text = captions("train")[0]
    questions = [
        Question("overall", i, RUBRICS["overall"], text, a) for i, a in ((1, "no"), (0, "yes"))
    ]
    with torch.no_grad():
        loss, right = loss_of(judge, clips.videos, questions)
    expected, hits = 0.0, []
    for q in questions:
        share = judge.next_logits([Query((clips.videos[q.clip],), q.text, rates=(16.0,))])
        (target,) = judge.tokenizer(q.answer)["input_ids"]
        expected -= 0.5 * float(share.log_softmax(-1)[0, target])
        hits.append(int(share.argmax()) == target)
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    assert right.tolist() == hits
