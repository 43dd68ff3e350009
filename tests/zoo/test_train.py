"""A run in a folder: settings that can be wrong, clips before and after, taking up again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import gymnasium as gym
import pytest
import torch
import yaml
from safetensors.torch import load_file

from reelrl.algos.run.checkpoint import list_checkpoints, load_latest
from reelrl.algos.run.distributed import ALONE
from reelrl.algos.run.runlog import read_metrics
from reelrl.algos.trainer import CHECKPOINTS
from reelrl.rewards.base import REWARDS, register_reward
from reelrl.zoo.cli import main
from reelrl.zoo.settings import PRESETS, TrainConfig, build, override, read_preset
from reelrl.zoo.train import _examination, _make, _spec, make_env, open_run, train

TINY = (
    "learner.prompts_per_iteration=2",
    "learner.group_size=2",
    "learner.save_every=1",
    "env_args.num_steps=3",
    "learner.rollout.last_step=1",
    "evaluation.clips=4",
    "evaluation.every=2",
)


@pytest.mark.slow
def test_a_run_leaves_a_folder_and_goes_on_from_it(tmp_path, capsys):
    folder = train(settings=TINY, iterations=2, out=tmp_path / "run", progress=False)
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "checkpoints", "config.yaml", "metrics.jsonl", "before.png", "after.png", "before.gif",
        "after.gif", "weights", "tensorboard",
    }  # fmt: skip
    first = read_metrics(folder)
    train(settings=TINY, iterations=4, out=folder, progress=False)
    resumed = read_metrics(folder)
    assert [row["iteration"] for row in resumed] == [0, 1, 2, 3] and resumed[:2] == first
    straight = train(settings=TINY, iterations=4, out=tmp_path / "other", progress=False)

    def curve(rows):
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]

    assert curve(read_metrics(straight)) == curve(resumed)
    out = capsys.readouterr().out
    assert "before iteration 0: gold" in out
    # Before the first update of each of the two runs, and of none that goes on.
    assert out.count("first 4 clips, of the base model:") == 2
    assert re.search(r"\ngold +\d\.\d+ +\d\.\d+ +100%\n", out)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        train(settings=TINY, seed=1, out=folder, progress=False)


def test_the_weights_left_are_those_that_were_examined(tmp_path):
    settings = (*TINY, "learner.ema_decay=0.999", "learner.learning_rate=1e-3")
    folder = train(settings=settings, iterations=2, out=tmp_path, progress=False)
    left = load_file(folder / "weights" / "transformer" / "diffusion_pytorch_model.safetensors")
    checkpoint = load_latest(folder / CHECKPOINTS)
    raw, average = checkpoint.tensors["weights"], checkpoint.tensors["ema"]
    assert all(torch.equal(left[name], tensor) for name, tensor in average.items())
    assert not all(torch.equal(left[name], tensor) for name, tensor in raw.items())


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_presets_are_valid(preset):
    config = build(TrainConfig, read_preset(preset))
    assert config.iterations > 0


def test_the_long_preset_is_the_recipe_of_the_quick_one():
    quick, full = (build(TrainConfig, read_preset(f"nano-{name}")) for name in ("quick", "full"))
    assert full.iterations == 200 and full.learner.save_every == full.evaluation.every == 10
    learner = replace(full.learner, save_every=quick.learner.save_every, keep=quick.learner.keep)
    assert replace(full, iterations=quick.iterations, learner=learner) == quick


def test_t34_the_examination_has_the_schedule_and_sizes_of_training():
    kwargs = {"model": "nano", "prompts": "moving_shapes", "rewards": ["proxy_ta"]}
    gym.register(
        "tests/Short-v0",
        entry_point="reelrl.envs.text_to_video:TextToVideoEnv",
        vector_entry_point="reelrl.envs.vector:TextToVideoVectorEnv",
        kwargs={**kwargs, "num_steps": 7, "num_frames": 5},
    )
    try:
        config = build(TrainConfig, {"env": "tests/Short-v0", "env_args": {"shift": 5.0}})
        env = _make(config.env, 2, config.env_args).unwrapped
        examined = _examination(config, env.model, ALONE).env.unwrapped
    finally:
        gym.registry.pop("tests/Short-v0")
    assert torch.equal(examined.sigmas, env.sigmas) and examined.num_steps == 7
    assert examined.task.latent_shape == env.task.latent_shape
    assert examined.model is env.model and examined.reward_names == ["gold"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learner.learning_rat=1", "unknown key 'learner.learning_rat'; did you mean 'learning_ra"),
        ("learner.rollout.windw=all", "'learner.rollout.windw'; did you mean 'window'"),
        ("estimater=gdpo", "unknown key 'estimater'; did you mean 'estimator'"),
        ("learner.learning_rate=fast", "learner.learning_rate must be float, got 'fast'"),
        ("learner.group_size=4.5", "learner.group_size must be int, got 4.5"),
        ("learner.loss.kind=ppo", "kind must be one of clip, dppo, guard, got 'ppo'"),
        ("learner=3", "learner must hold keys and values, got 3"),
        ("learner.betas=[0.9]", "betas must hold 2 values, got (0.9,)"),
        ("iterations=-3", "iterations must be at least 0, got -3"),
        ("evaluation.every=0", "evaluation.every must be at least 1, got 0"),
        ("evaluation.clips=0", "evaluation.clips must be at least 1, got 0"),
        ("evaluation.rewards=[gold", "evaluation.rewards=[gold is no yaml: while parsing"),
        ("seed", "a setting is key=value, got 'seed'"),
        ("env.seed=1", "'env' holds 'reelrl/MovingShapesEarly-v0' and has no keys"),
    ],
)
def test_t37_a_typo_is_an_error_that_names_the_nearest_key(setting, message):
    with pytest.raises(ValueError) as error:
        build(TrainConfig, override(read_preset("nano-quick"), [setting]))
    assert message in str(error.value)


def test_values_are_converted_as_meant():
    config = build(
        TrainConfig,
        yaml.safe_load(
            "{learner: {learning_rate: 1e-4, betas: [0.8, 1], reward_weights: [1, 2]},"
            " policy: {eta: null, lora_targets: [to_q]}, evaluation: {prompts: [a, b]}}"
        ),
    )
    assert config.learner.learning_rate == 1e-4
    assert config.learner.betas == (0.8, 1.0) and config.learner.reward_weights == (1.0, 2.0)
    assert config.policy.eta is None and config.policy.lora_targets == ("to_q",)
    assert config.evaluation.prompts == ("a", "b")


def test_unknown_presets_name_the_nearest():
    with pytest.raises(ValueError, match="unknown preset 'nano-quik'; did you mean 'nano-quick'"):
        read_preset("nano-quik")


def test_the_command_ends_a_typo_with_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--estimator", "tarros"])
    assert stop.value.code == 2 and "did you mean 'taros'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--set", "learner.group_siz=3"])
    assert "did you mean 'group_size'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "env_args.nume_steps=3"], "'env_args.nume_steps'; did you mean 'num_steps'"),
        (["--env", "reelrl/MovingShapsEarly-v0"], "Did you mean: `MovingShapesEarly`"),
        (["--env", "reelr:reelrl/MovingShapes-v0"], "unknown env 'reelr:reelrl/MovingShapes-v0'"),
        (["--env", "reelrl/Moving/Shapes"], "Malformed environment ID"),
    ],
)
def test_t37_a_bad_environment_ends_the_command_with_one_line(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and message in printed and len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_id_may_name_the_module_that_registers_it():
    assert _spec("reelrl:reelrl/MovingShapes-v0") is _spec("reelrl/MovingShapes-v0")


def test_a_run_without_its_settings_is_not_taken_up(tmp_path):
    (tmp_path / CHECKPOINTS / "step_00000001").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds a run, but not the config\.yaml"):
        open_run(TrainConfig(), tmp_path, None, None)


def launch(arguments):
    """``accelerate launch -m reelrl train`` with two processes."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0", "-m", "reelrl", "train", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


@pytest.mark.slow
def test_two_processes_train_one_run_and_leave_it_whole_at_ctrl_c(tmp_path):
    """The launcher passes Ctrl-C on to both, who end their iteration together."""
    folder = tmp_path / "run"
    process = launch(["--set", *TINY, "--iterations", "100000", "--out", str(folder)])
    deadline = time.monotonic() + 600
    while not list_checkpoints(folder / "checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert output.count("before iteration 0: gold") == 1, output
    assert "Traceback" not in output.split("closing signal")[0], output
    rows = read_metrics(folder)
    reached = len(rows)
    assert [row["iteration"] for row in rows] == list(range(reached))
    assert list_checkpoints(folder / "checkpoints")[-1].name == f"step_{reached:08d}"
    assert f"stopped at iteration {reached} of 100000; the same command goes on" in output
    names = {path.name for path in folder.iterdir()}
    assert not names & {"after.png", "after.gif", "weights"}
    train(settings=TINY, iterations=1, out=tmp_path / "alone", progress=False)
    (alone,) = read_metrics(tmp_path / "alone")
    assert rows[0]["reward/gold"] == pytest.approx(alone["reward/gold"], abs=1e-5)
    assert rows[0]["eval/gold"] == pytest.approx(alone["eval/gold"], abs=1e-5)
    assert rows[0]["train/grad_norm"] == pytest.approx(alone["train/grad_norm"], rel=1e-3)


def test_a_folder_from_before_the_layers_of_adapters_were_the_models_goes_on(tmp_path):
    config = build(TrainConfig, read_preset("nano-quick"))
    env = make_env(config)
    open_run(config, tmp_path, env, None)
    recorded = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert recorded["policy"]["lora_targets"] == ["to_q", "to_k", "to_v", "to_out.0"]


def test_a_run_that_learns_nothing_ends_in_one_line_and_exit_code_1(tmp_path, capsys):
    """It ended with exit code 0, and a script went on with the base model."""

    @register_reward("test_same_for_all")
    def same(videos, prompts, infos):
        return [0.5] * len(videos)

    settings = (*TINY, "env_args.rewards=[test_same_for_all]", "learner.max_skipped=1")
    try:
        with pytest.raises(SystemExit) as stop:
            main(["train", "--out", str(tmp_path / "run"), "--set", *settings])
    finally:
        REWARDS._entries.pop("test_same_for_all")
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert stop.value.code == 1
    assert last.startswith("reelrl: nothing was learned in 1 iterations in a row: all clips of a")
    assert not (tmp_path / "run" / "weights").exists()
