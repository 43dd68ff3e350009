"""Whatever `reelrl train` wrote can be drawn from and scored."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from reelrl.envs.models import VideoModel
from reelrl.zoo.cli import main
from reelrl.zoo.evaluate import evaluate
from reelrl.zoo.generate import generate
from reelrl.zoo.train import train
from reelrl.zoo.trained import open_trained

TINY = (
    "env_args.num_steps=2", "learner.prompts_per_iteration=1", "learner.group_size=2",
    "learner.micro_batch=4", "learner.rollout.last_step=0", "learner.learning_rate=1e-2",
    "evaluation.clips=1",
)  # fmt: skip
CAPTION = "a red circle moving right"


def clip(model):
    return next(generate(model, [CAPTION], [0], num_steps=2))


@pytest.fixture(scope="module", params=["full", "lora"])
def run(request, tmp_path_factory):
    """A run of one iteration that moved far, and the clip that its model draws."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    further = ("policy.lora_rank=2", "learner.learning_rate=0.3")
    lora = further if request.param == "lora" else ()
    train(iterations=1, settings=TINY + lora, out=folder, progress=False)
    return folder


@pytest.mark.slow
def test_a_run_is_opened_by_each_of_its_folders(run, tmp_path):
    base = clip(VideoModel.from_pretrained("nano-early"))
    drawn = clip(open_trained(str(run)).model)
    assert not torch.equal(drawn, base)
    assert torch.equal(clip(open_trained(str(run / "weights")).model), drawn)
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "weights")
    # Of a run that was stopped the newest checkpoint is drawn from.
    torch.testing.assert_close(clip(open_trained(str(unfinished)).model), drawn)


@pytest.mark.slow
def test_the_base_is_found_by_its_digest(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = copy / "weights" / "reelrl.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "base": "/gone"}), encoding="utf-8")
    assert torch.equal(clip(open_trained(str(copy)).model), clip(open_trained(str(run)).model))
    path.write_text(json.dumps({**record, "base": "/gone", "digest": "0" * 64}), encoding="utf-8")
    with pytest.raises(ValueError, match="over '/gone' of digest 000000000000, and no model here"):
        open_trained(str(copy))
    with pytest.raises(ValueError, match="and nano has it: give its folder as --base"):
        open_trained(str(copy), base="nano")


@pytest.mark.slow
def test_the_last_lines_of_training_are_commands_that_work(run, tmp_path, capsys):
    main(["sample", "--model", str(run), "--out", str(tmp_path / "a.gif")])
    assert re.search(
        r"run .*, iteration 1, over nano-early, seed 0, 2 steps", capsys.readouterr().out
    )
    main(["eval", str(run), "--clips", "4", "--rewards", "gold", "proxy_vq"])
    first, gold, proxy = capsys.readouterr().out.strip().splitlines()
    assert first.endswith("over nano-early: 4 clips of moving_shapes/compositional")
    number = r"[+-]?\d\.\d\d \[[+-]?\d\.\d\d, [+-]?\d\.\d\d\]"
    for line, name in ((gold, "gold"), (proxy, "proxy_vq")):
        assert re.fullmatch(rf"{name} +{number} -> {number}, change {number}", line), line


@pytest.mark.slow
def test_the_base_is_scored_with_its_own_weights(run):
    both = evaluate(str(run), rewards=["proxy_vq"], clips=4)[1]
    alone = evaluate("nano-early", rewards=["proxy_vq"], clips=4, num_steps=2)[1]
    before, after, change = re.findall(r"[+-]?\d\.\d\d \[[^]]*\]", both)
    assert before in alone and before != after
    assert change != "+0.00 [+0.00, +0.00]"


def test_a_base_model_is_scored_alone(capsys):
    main(["eval", "nano-early", "--clips", "2", "--num-steps", "1"])
    assert re.search(r"^gold  \d\.\d\d \[", capsys.readouterr().out, flags=re.M)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere"], "unknown model 'nowhere'"),
        (["nano", "--clips", "1"], "clips must be at least 2 for an interval, got 1"),
        (["nano", "--rewards", "goold"], "goold"),
        (["nano", "--prompts", "x"], "unknown prompt set 'x'"),
        (["nano", "--device", "cuda:77"], "--device must be"),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["eval", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count("\n") == 1
