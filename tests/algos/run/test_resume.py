"""A run goes on in the environment it had, from the checkpoint it was told."""

from __future__ import annotations

import json
import shutil

import gymnasium as gym
import pytest
import torch

from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.learners.update import LearnerWarning
from reelrl.algos.policies import FlowPolicy
from reelrl.algos.run.checkpoint import CheckpointWarning
from reelrl.envs.models import VideoModel

SMALL = {"prompts_per_iteration": 1, "group_size": 4, "save_every": 1, "keep": 9}


def batch(env_id="reelrl/MovingShapesEarly-v0", **changes):
    arguments = {
        "num_envs": 4, "num_steps": 2, "output": "torch", "autoreset_mode": "Disabled"
    }  # fmt: skip
    return gym.make_vec(env_id, **{**arguments, **changes})


def run(folder, iterations, env=None, **policy):
    env = env or batch()
    learner = GRPO(
        env, FlowPolicy(env.unwrapped.model, **policy), "grpo", GRPOConfig(**SMALL), folder=folder
    )
    learner.learn(iterations)
    return learner


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three iterations with an adapter."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    run(folder, 3, lora_rank=2)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "r")


@pytest.mark.parametrize(
    "env_id, changes, words",
    [
        ("reelrl/MovingShapes-v0", {}, r"it had model 6276\w{8}, now \w{12}"),
        ("reelrl/MovingShapesEarly-v0", {"num_steps": 3}, r"num_steps 2, now 3"),
        ("reelrl/MovingShapesEarly-v0", {"num_frames": 5}, r"latent_shape \[8, 5.*now \[8, 3"),
        ("reelrl/MovingShapesEarly-v0", {"prompts": ["a red circle moving right"]}, "prompts"),
        ("reelrl/MovingShapesEarly-v0", {"shift": 9.0}, "shift 3.0, the environment has 9.0"),
    ],
)  # fmt: skip
def test_another_environment_is_refused_by_name(folder, env_id, changes, words):
    """The adapter of one base trained on on another, and on another schedule."""
    with pytest.raises(ValueError, match=words):
        GRPO.load(folder, env=batch(env_id, **changes))
    changed = GRPO.load(folder, env=batch(env_id, **changes), allow_changes=True)
    assert changed.iteration == 3


def test_rewards_with_other_settings_are_refused(tmp_path):
    def env(hackability):
        return batch(rewards=[{"name": "proxy_vq", "hackability": hackability}])

    run(tmp_path, 1, env(0.5))
    assert GRPO.load(tmp_path, env=env(0.5)).iteration == 1
    with pytest.raises(ValueError, match=r"rewards \[.*0\.5.*now \[.*1\.0"):
        GRPO.load(tmp_path, env=env(1.0))


def test_the_same_environment_by_another_road_is_taken(folder):
    """Another id, another batch, the model given as an object or by its folder."""
    spec = gym.spec("reelrl/MovingShapesEarly-v0").kwargs
    model = VideoModel.from_pretrained("nano-early")
    for given in (model, str(model.folder)):
        env = batch("reelrl/TextToVideo-v0", **{**spec, "model": given})
        assert GRPO.load(folder, env=env).iteration == 3


def test_a_checkpoint_without_a_digest_of_its_base_knows_its_name(folder):
    for state in folder.glob("checkpoints/step_*/state.json"):
        old = {**json.loads(state.read_text()), "version": 1}
        del old["digest"], old["facts"]["environment"]
        state.write_text(json.dumps(old))
    assert GRPO.load(folder).iteration == 3
    with pytest.raises(ValueError, match="model nano-early, now nano"):
        GRPO.load(folder, env=batch("reelrl/MovingShapes-v0"))


def test_going_back_leaves_the_abandoned_branch_aside(folder, tmp_path):
    """A kill brought the diverged weights back: the newest number was taken, of either branch."""
    back = GRPO.load(folder / "checkpoints" / "step_00000001", log_folder=folder)
    with pytest.warns(CheckpointWarning, match=r"from iteration 1: newer .*set_aside_1 now"):
        back.learn(1)
    assert [row["iteration"] for row in rows(folder)] == [0, 1]
    again = GRPO.load(folder, log_folder=folder)
    assert again.iteration == 2
    for name, weight in back.policy.state_dict().items():
        assert torch.equal(weight, again.policy.state_dict()[name])
    aside = folder / "checkpoints" / "set_aside_1"
    assert sorted(p.name for p in aside.iterdir()) == [
        "metrics.jsonl", "step_00000002", "step_00000003",
    ]  # fmt: skip
    assert GRPO.load(aside).iteration == 3
    assert [r["iteration"] for r in rows(aside)] == [0, 1, 2]


def test_going_on_from_the_newest_sets_nothing_aside(folder, recwarn):
    GRPO.load(folder, log_folder=folder).learn(1)
    assert not list(folder.glob("checkpoints/set_aside_*"))
    assert not [w for w in recwarn if issubclass(w.category, CheckpointWarning)]


def test_another_number_of_threads_is_said(folder, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 31)
    with pytest.warns(
        LearnerWarning, match=r"with \d+ CPU threads and goes on with 31: .*THREADS="
    ):
        GRPO.load(folder)


def test_a_damaged_line_in_the_middle_of_the_log_costs_that_line(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b'{"iteration": \xff', *lines[2:]]))
    with pytest.warns(UserWarning, match="line 2 of .* is damaged and left out"):
        GRPO.load(folder, log_folder=folder).learn(1)
    assert [row["iteration"] for row in rows(folder)] == [0, 2, 3]


def test_adapters_over_weights_that_were_loaded_first_go_on_over_them_alone(tmp_path):
    """They went on over the bare base model."""
    stage = batch().unwrapped.model
    with torch.no_grad():
        next(iter(stage.transformer.parameters())).add_(0.1)
    stage.save_trained(tmp_path / "stage")

    def env():
        made = batch()
        made.unwrapped.model.load_trained(tmp_path / "stage")
        return made

    run(tmp_path / "run", 1, env(), lora_rank=2)
    with pytest.raises(ValueError, match=r"over other weights: \w{12}, now the base model's own"):
        GRPO.load(tmp_path / "run")
    assert GRPO.load(tmp_path / "run", env=env()).iteration == 1


def test_a_set_aside_branch_goes_on_in_a_folder_of_its_own(folder, tmp_path):
    """The curve was of two runs."""
    with pytest.warns(CheckpointWarning):
        GRPO.load(folder / "checkpoints" / "step_00000001", log_folder=folder).learn(1)
    aside = folder / "checkpoints" / "set_aside_1"
    with pytest.raises(ValueError, match=r"would mix two runs\. Give another log_folder"):
        GRPO.load(aside / "step_00000003", log_folder=folder)
    other = GRPO.load(aside / "step_00000003", log_folder=tmp_path / "other")
    other.learn(1)
    assert GRPO.load(tmp_path / "other").iteration == 4


def test_an_old_checkpoint_knows_the_arguments_of_its_environment(folder):
    for state in folder.glob("checkpoints/step_*/state.json"):
        old = {**json.loads(state.read_text()), "version": 1}
        del old["digest"], old["facts"]["environment"]
        state.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="num_steps 2, now 3"):
        GRPO.load(folder, env=batch(num_steps=3))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"lora_alpha": 64.0}, r"lora_alpha None, now 64\.0"),
        ({"eta": 0.5}, r"eta None, now 0\.5"),
        ({"guidance_scale": 2.0}, r"guidance_scale 1\.0, now 2\.0"),
    ],
)
def test_a_policy_of_other_settings_is_refused(folder, changes, words):
    env = batch()
    policy = FlowPolicy(env.unwrapped.model, lora_rank=2, **changes)
    with pytest.raises(ValueError, match=rf"another policy: it had {words}"):
        GRPO.load(folder, env=env, policy=policy)


def test_another_negative_prompt_is_another_environment(folder):
    env = batch()
    env.unwrapped.model.negative_prompt = "a blue square moving up"
    with pytest.raises(ValueError, match="negative_prompt , now a blue square"):
        GRPO.load(folder, env=env)
