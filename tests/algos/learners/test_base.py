"""A second learner: what the trainer gives it, and what it may count on."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import pytest
import torch

from reelrl.algos.advantages import make_estimator
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.config import TrainerConfig
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.learners import Learner, list_learners, make_learner, register_learner
from reelrl.algos.learners.base import LEARNERS
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.run.checkpoint import load_latest
from reelrl.algos.trainer import Trainer


@dataclass(frozen=True)
class PullConfig:
    """Settings of the learner below."""

    level: float = 0.5


@dataclass(frozen=True)
class PullObjective:
    """Sum over clips of advantage times squared error of the velocity at one level."""

    policy: FlowPolicy
    rollout: object
    advantages: torch.Tensor
    noise: torch.Tensor
    level: float
    orders: list

    components: ClassVar[int] = 0
    has_penalty: ClassVar[bool] = False

    @property
    def num_items(self):
        return len(self.advantages)

    def active(self):
        return self.advantages.nonzero().flatten()

    def own(self, index):
        self.orders.append(index.tolist())
        return index

    def weight(self):
        return torch.tensor(float(self.num_items))

    def __call__(self, index, total, only=None, kl=True):
        clean, noise = self.rollout.latents[index], self.noise[index]
        embedding = self.policy.model.encode(["dark"]).expand(len(index), -1, -1)
        sigma = torch.full((len(index),), self.level)
        latent = (1 - self.level) * clean + self.level * noise
        error = self.policy.model.velocity(latent, sigma, embedding) - (noise - clean)
        value = self.advantages[index] * error.square().flatten(1).mean(dim=1)
        return value.sum() / total, {"error": value.detach()}

    def metrics(self, parts, first):
        return {"train/error": float(torch.cat([part["error"] for part in parts]).mean())}


class Pull(Learner):
    """Regresses to good clips, away from bad ones; counts what the trainer calls."""

    source, Config = "a test", PullConfig

    def __init__(self, config=None):
        super().__init__(config)
        self.calls = {"updates": 0, "iterations": 0, "begun": 0, "drawing": 0}
        self.seeds, self.orders = [], []

    def rollout(self, config):
        return RolloutConfig(window="none", keep_videos=config.keep_videos)

    def begin(self, policy):
        self.calls["begun"] += 1

    @contextmanager
    def sampling(self, policy):
        self.calls["drawing"] += 1
        yield

    def objective(self, policy, rollout, output, estimator, *, seed):
        self.seeds.append(tuple(seed))
        generator = torch.Generator().manual_seed(1000 * seed[0] + seed[1])
        noise = torch.randn(rollout.latents.shape, generator=generator)
        advantages = torch.as_tensor(output.advantages).flatten()
        level, orders = self.config.level, self.orders
        return PullObjective(policy, rollout, advantages, noise, level, orders)

    def after_update(self, policy):
        self.calls["updates"] += 1

    def after_iteration(self, policy):
        self.calls["iterations"] += 1

    def state(self):
        return {"updates": torch.tensor(self.calls["updates"])}, {"seen": self.calls["iterations"]}

    def restore(self, tensors, facts):
        self.calls["updates"] = int(tensors["updates"])
        self.calls["iterations"] = facts["seen"]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    list_learners()  # reads the package first, so that its learners stay
    monkeypatch.setattr(LEARNERS, "_entries", dict(LEARNERS._entries))
    register_learner("pull")(Pull)


@pytest.fixture
def make_trainer(make_env, tiny_types):
    def make(learner="pull", estimator="grpo", folder=None, **changes):
        env = make_env(8, model=tiny_types["model"]())
        settings = {"prompts_per_iteration": 2, "group_size": 4, "learning_rate": 1e-3, **changes}
        policy = FlowPolicy(env.unwrapped.model)
        return Trainer(env, policy, estimator, learner, TrainerConfig(**settings), folder=folder)

    return make


def test_the_trainer_knows_nothing_of_transitions(make_trainer):
    trainer = make_trainer(updates_per_iteration=2, epochs=2)
    history = trainer.learn(3)
    assert trainer.learner.calls == {"updates": 12, "iterations": 3, "begun": 1, "drawing": 3}
    assert trainer.learner.seeds == [(0, 0), (0, 1), (0, 2)]
    assert all("train/error" in metrics for metrics in history)
    assert not {"rollout/log_prob", "health/first_pass_log_ratio"} & history[0].keys()
    assert trainer.updater.updates == 12


def test_every_epoch_of_every_iteration_has_an_order_of_its_own(make_trainer):
    def orders(**changes):
        trainer = make_trainer(updates_per_iteration=2, epochs=2, **changes)
        trainer.learn(2)
        halves = trainer.learner.orders
        assert [len(half) for half in halves] == [4] * 8
        return [halves[i] + halves[i + 1] for i in range(0, 8, 2)]

    found = orders()
    assert all(sorted(order) == list(range(8)) for order in found)
    assert len({tuple(order) for order in found}) == 4
    assert found == orders()
    assert found != orders(seed=1)


class Watch:
    """An examination that remembers what it was asked."""

    every = 2

    def __init__(self):
        self.asked = []

    def metrics(self, policy, ema=None):
        self.asked.append((policy, ema))
        return {"eval/count": float(len(self.asked))}


def test_the_average_is_examined_before_every_so_many_iterations(make_trainer):
    trainer = make_trainer(ema_decay=0.5)
    trainer.evaluation = Watch()
    history = trainer.learn(5)
    assert [metrics.get("eval/count") for metrics in history] == [1, None, 2, None, 3]
    assert all(
        policy is trainer.policy and ema is trainer.updater.ema
        for policy, ema in trainer.evaluation.asked
    )
    assert trainer.updater.ema.updates == 5


def test_clips_of_a_rollout_without_noise_are_those_of_the_deterministic_sampler(make_trainer):
    trainer = make_trainer()
    rollout = trainer.collect()
    assert rollout.transitions is None and rollout.extras == {}
    assert rollout.group_id.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    obs, _ = trainer.env.reset(
        options={"prompt_id": rollout.prompt_ids.numpy(), "noise_seed": rollout.noise_seeds}
    )
    for _ in range(4):
        obs, *_ = trainer.env.step(trainer.policy.predict(obs, deterministic=True))
    assert torch.equal(rollout.latents, obs["latent"])
    with pytest.raises(ValueError, match="expected a rollout with stochastic steps"):
        rollout.stochastic()


def test_resume_is_bit_for_bit_with_the_state_of_the_learner(make_trainer, make_env, tmp_path):
    straight = make_trainer()
    straight.learn(4)
    broken = make_trainer(folder=tmp_path)
    broken.learn(2)
    env = make_env(8)
    fresh = type(env.unwrapped.model)()
    resumed = Trainer.load(tmp_path, env=make_env(8, model=fresh))
    assert isinstance(resumed.learner, Pull) and resumed.learner.calls["updates"] == 2
    resumed.learn(2)
    assert resumed.learner.calls["updates"] == 4 and resumed.learner.calls["iterations"] == 4
    for name, tensor in straight.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name]), name


def test_a_run_of_another_learner_is_not_grpo(make_trainer, make_env, tmp_path):
    make_trainer(folder=tmp_path).learn(1)
    with pytest.raises(ValueError, match=r"a run of .*'policy_gradient', got one of 'pull'"):
        GRPO.load(tmp_path, env=make_env(8))


def test_a_checkpoint_from_before_there_were_learners_goes_on(make_trainer, make_env, tmp_path):
    grpo = make_trainer("policy_gradient", folder=tmp_path)
    grpo.learn(1)
    state = next((tmp_path / "checkpoints").glob("step_*")) / "state.json"
    saved = {**json.loads(state.read_text()), "version": 1}
    for later in ("environment", "threads", "silence"):
        del saved["facts"][later]
    del saved["digest"], saved["digests"]["learner.safetensors"]
    (state.parent / "learner.safetensors").unlink()
    assert saved["facts"].pop("learner") == {"name": "policy_gradient"}
    state.write_text(json.dumps(saved))
    assert load_latest(tmp_path / "checkpoints").iteration == 1
    resumed = GRPO.load(tmp_path, env=make_env(8))
    assert isinstance(resumed.config, GRPOConfig) and resumed.iteration == 1


def test_settings_of_the_learner_come_from_the_config(make_trainer):
    assert make_trainer(loss=PullConfig(level=0.25)).learner.config.level == 0.25
    assert make_trainer().learner.config == PullConfig()
    with pytest.raises(TypeError, match="learner 'pull' has the settings PullConfig, got LossConf"):
        make_trainer(loss=GRPOConfig().loss)


@pytest.mark.parametrize(
    ("learner", "estimator", "changes", "message"),
    [
        ("pull", "dancegrpo", {}, "'pull' learns from a signal per clip, got 'dancegrpo' with one"),
        ("pull", "dense_grpo", {}, "signal per clip, got 'dense_grpo' with one per step"),
        ("pull", "branch_grpo", {"rollout": RolloutConfig(branch_steps=(0, 1))}, "one per step"),
        (
            "policy_gradient", "grpo", {"rollout": RolloutConfig(window="none")},
            "window must be all, random or sliding, got 'none'",
        ),
        ("pul", "grpo", {}, "unknown learner 'pul'; did you mean 'pull'"),
    ],
)  # fmt: skip
def test_a_pair_that_makes_no_sense_is_refused(make_trainer, learner, estimator, changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(learner, estimator, **changes)


def test_names_and_settings_of_a_learner_are_checked_when_it_registers():
    assert list_learners() == ["policy_gradient", "pull"]
    assert make_learner("pull", PullConfig(0.1)).config.level == 0.1
    with pytest.raises(ValueError, match="learner name 'policy_gradient' is taken"):
        register_learner("policy_gradient")(Pull)
    with pytest.raises(TypeError, match=r"Bare\.Config must be a dataclass"):
        register_learner("bare")(type("Bare", (Learner,), {}))


@pytest.mark.parametrize(
    "changes", [{"initial_noise": "shared"}, {"branch_steps": (0,)}, {"dense": True}]
)
def test_window_none_refuses_what_needs_noise(changes):
    with pytest.raises(
        ValueError, match=f"window 'none' has no .* which {next(iter(changes))} nee"
    ):
        RolloutConfig(window="none", **changes)


def test_every_estimator_per_step_is_known_as_one(make_trainer):
    # Which estimators give (P, G, T) is read off what they require.
    for name in ("dense_grpo", "tp_grpo", "branch_grpo", "mapo_mica"):
        with pytest.raises(ValueError, match="per step"):
            make_learner("pull").check(make_estimator(name), RolloutConfig())
    for name in ("grpo", "gdpo", "taros", "marble", "gd2po", "rloo"):
        make_learner("pull").check(make_estimator(name), RolloutConfig())


def test_an_instance_must_be_of_a_class_that_a_checkpoint_can_name(make_trainer):
    class Nameless(Pull):
        pass

    with pytest.raises(ValueError, match="learner of a registered class, got a Nameless"):
        make_trainer(Nameless())


def test_settings_that_an_instance_would_ignore_are_refused(make_trainer):
    with pytest.raises(ValueError, match=r"config\.loss to be None or .*level=0\.25.*got Pull"):
        make_trainer(Pull(PullConfig(0.25)), loss=PullConfig(0.5))
    trainer = make_trainer(Pull(PullConfig(0.25)))
    assert trainer.config.loss == PullConfig(0.25)


def test_a_used_folder_is_loaded_by_the_class_that_can(make_trainer, tmp_path):
    make_trainer(folder=tmp_path).learn(1)
    with pytest.raises(ValueError, match=r"holds a run.*: Trainer\.load it"):
        make_trainer(folder=tmp_path).learn(1)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_goes_on_with_the_schedule_it_had(tmp_path, recorded):
    """Recorded or, in an older checkpoint, as the environment was made."""
    arguments = {"num_envs": 4, "num_steps": 2, "output": "torch", "autoreset_mode": "Disabled"}
    env = gym.make_vec("reelrl/MovingShapes-v0", shift=2.0, **arguments)
    config = GRPOConfig(prompts_per_iteration=1, group_size=4)
    GRPO(env, FlowPolicy(env.unwrapped.model), "grpo", config, folder=tmp_path).learn(1)
    if not recorded:
        state = next((tmp_path / "checkpoints").glob("step_*")) / "state.json"
        saved = {**json.loads(state.read_text()), "version": 1}
        del saved["digest"]
        assert saved["facts"].pop("shift") == 2.0
        state.write_text(json.dumps(saved))
    assert GRPO.load(tmp_path).env.unwrapped.shift == 2.0
    with pytest.raises(ValueError, match=r"schedule of shift 2\.0, the environment has 3\.0"):
        GRPO.load(tmp_path, env=gym.make_vec("reelrl/MovingShapes-v0", **arguments))
