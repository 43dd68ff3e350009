"""Whatever is wrong with a setting is one line and exit code 2, before a model is loaded."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from reelrl.envs.models import VideoModel
from reelrl.zoo.arguments import EnvArguments
from reelrl.zoo.benchmark.runner import bench as run_bench
from reelrl.zoo.cli import main
from reelrl.zoo.door import door
from reelrl.zoo.folders import writable


@pytest.fixture
def no_model(monkeypatch, tmp_path):
    """A working folder in which a model that is loaded is a failure."""

    def refuse(*arguments, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(VideoModel, "from_pretrained", refuse)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) == 1, said
    return said


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("env_args.device=cuda", "no CUDA device here: env_args.device must be 'cpu', got 'cuda'"),
        ("env_args.device=nope", "env_args.device must be a device such as 'cpu', got 'nope'"),
        ("env_args.device=meta", "env_args.device must be a device of this machine, got 'meta'"),
        ("env_args.device=5", "env_args.device must be str or null, got 5"),
        ("env_args.shift=abc", "env_args.shift must be float or null, got 'abc'"),
        ("env_args.shift=.inf", "env_args.shift must be finite, got inf"),
        ("env_args.shift=0", "env_args.shift must be positive, got 0.0"),
        ("env_args.num_steps=0", "env_args.num_steps must be at least 1, got 0"),
        ("env_args.num_steps=2.5", "env_args.num_steps must be int, got 2.5"),
        ("env_args.flat=maybe", "env_args.flat must be bool, got 'maybe'"),
        ("env_args.prompts=5", "env_args.prompts must be str or list, got 5"),
        ("env_args.prompts=[]", "env_args.prompts: prompts must hold at least one text"),
        ("env_args.prompts=movin", "env_args.prompts: unknown prompt set 'movin'"),
        ("env_args.rewards=gold", "env_args.rewards must be list, got 'gold'"),
        ("env_args.rewards=[gould]", "env_args.rewards[0]: unknown reward 'gould'; did you mean"),
        ("env_args.rewards=[gold, 5]", "env_args.rewards[1] must be a name, or keys and values"),
        ("env_args.rewards=[{name: proxy_vq, hackabilty: 1}]",
         "unknown key 'env_args.rewards[0].hackabilty'; did you mean 'hackability'?"),
        ("env_args.rewards=[{name: gold, x: 1}]", "unknown key 'env_args.rewards[0].x'"),
        ("env=CartPole-v1", "env must be a batch of text-to-video episodes, such as reelrl/Movi"),
        ("env=reelrl/NoSuch-v0", "unknown env 'reelrl/NoSuch-v0'"),
        ("estimator=taros@foo", "estimator: "),
        ("learner.learning_rate=.inf", "learning_rate must be finite, got inf"),
        ("learner.learning_rate=.nan", "learning_rate must be finite, got nan"),
        ("learner.weight_decay=.inf", "weight_decay must be finite, got inf"),
        ("learner.betas=[0.9, .nan]", "betas must be finite, got (0.9, nan)"),
        ("learner.max_grad_norm=.inf", "max_grad_norm must be finite, got inf"),
        ("learner.loss.kl_weight=.inf", "kl_weight must be finite, got inf"),
        ("learner.reward_weights=[1, 2]",
         "learner.reward_weights: expected 1 weights, one for each of gold, got [1.0, 2.0]"),
        ("learner.reward_weights=[0]", "reward_weights must not all be 0, got [0.0]"),
        ("learner.reward_weights=[.nan]", "reward_weights must be finite, got (nan,)"),
        ("learner.seed=-1", "seed must be at least 0, got -1"),
        ("learner.ema_decay=1", "ema_decay must be in [0, 1), got 1.0"),
        ("evaluation.rewards=[gould]", "evaluation.rewards[0]: unknown reward 'gould'"),
        ("learning_rate=1e-4", "unknown key 'learning_rate'; did you mean 'learner.learning_rate'"),
        ("iterations=" + "[" * 500, "expected at most 40 levels of nesting"),
    ],
)  # fmt: skip
def test_a_wrong_setting_names_its_key_and_leaves_nothing(setting, message, no_model, capsys):
    assert message in refused(["train", "--set", setting], capsys)
    assert list(no_model.iterdir()) == []


@pytest.mark.parametrize("command", [["train"], ["bench", "quick"], ["train-reward"]])
def test_an_out_that_is_a_file_is_told_at_once(command, no_model, capsys):
    (no_model / "taken").write_text("", encoding="utf-8")
    assert "taken: File exists" in refused([*command, "--out", "taken"], capsys)
    assert "taken/below: Not a directory" in refused([*command, "--out", "taken/below"], capsys)
    assert [path.name for path in no_model.iterdir()] == ["taken"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_to_is_told_at_once(no_model, capsys):
    assert "/proc/reelrl" in refused(["train", "--out", "/proc/reelrl"], capsys)


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(["train", "--set", "env_args.model=nanno"], capsys)
    refused(["train", "--set", "env_args.rewards=[gold]", "evaluation.prompts=[]"], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guidance-scale", "nan"], "--guidance-scale must be finite, got nan"),
        (["--guidance-scale", "inf"], "--guidance-scale must be finite, got inf"),
        (["--num-steps", "0"], "num_steps must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--out", "no/such/\0/clip.gif"], "null"),
    ],
)
def test_a_wrong_number_of_a_sample(options, message, no_model, capsys):
    assert message in refused(["sample", *options], capsys)
    assert list(no_model.iterdir()) == []


def test_a_setting_given_as_an_option_is_pointed_at_set(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--learning-rate", "1e-4"])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.splitlines()[-1] == (
        "reelrl: --learning-rate is set by --set learner.learning_rate=VALUE"
    )


def test_a_suite_that_is_not_there(no_model, capsys):
    assert f"there is no file mine.yaml in {no_model}" in refused(["bench", "mine.yaml"], capsys)


def test_committed_results_are_said_to_be_in_a_checkout(no_model, capsys):
    assert "in a checkout" in refused(["report", "zoo/results/quick"], capsys)


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("reelrl 0.")


def test_the_arguments_are_those_of_the_environment():
    import inspect

    from reelrl.envs.task import Task

    known = {*inspect.signature(Task).parameters, "render_mode"}
    assert set(EnvArguments.__dataclass_fields__) == known


@pytest.mark.parametrize("error", [TypeError("ours"), KeyError("ours"), AssertionError("ours")])
def test_an_error_of_our_own_shows_where_it_comes_from(error):
    with pytest.raises(type(error)), door():
        raise error


def test_an_error_without_a_path_gets_that_of_the_folder(tmp_path):
    with pytest.raises(OSError, match="No space left") as error, writable(tmp_path / "a" / "b"):
        raise OSError(28, "No space left on device")
    assert str(tmp_path / "a" / "b") in str(error.value) and not (tmp_path / "a").exists()


def test_streams_of_a_notebook_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stdout", own := io.StringIO())
    with door():
        print("seen")
    assert own.getvalue() == "seen\n" and sys.stdout is own


def test_bench_checks_its_arguments_before_the_first_run(no_model, tmp_path):
    import yaml

    from reelrl.zoo.benchmark.design import read_suite

    path = tmp_path / "mine.yaml"
    base = {"iterations": 1, "env_args": {"device": "cuda"}}
    values = {"title": "t", "seeds": [0], "scenarios": ["gold"], "methods": ["grpo"], "base": base}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ValueError, match="no CUDA device here"):
        run_bench(read_suite(str(path)), tmp_path / "out", tmp_path / "results")
