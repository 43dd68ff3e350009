"""Interchangeable, literally: three learners, one rollout, one policy gradient.

Our learner makes the rollout. Stable-Baselines3's PPO and Tianshou's trainer then collect it
themselves, through their adapters, with an actor that plays the same latents again, and do their
own update at a learning rate of zero.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.trainer import OnPolicyTrainerParams

from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.interop import sb3, tianshou
from reelrl.algos.interop.denoising import DenoisingTask
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.envs.interop.sb3 import SB3VecEnv
from reelrl.envs.interop.tianshou import TianshouVectorEnv

PROMPTS, MEMBERS, STEPS = 3, 4, 4
CLIPS = PROMPTS * MEMBERS
FREE = 1e9  # of a gradient that is not shortened
ESTIMATORS = ["grpo", "gdpo", "taros", "rloo"]


class Replay:
    """An actor that plays the clips of a rollout again, in the batches they were made in."""

    def __init__(self, rollout, flow):
        kept = {step.index: step.action for step in rollout.transitions.steps}
        self.flow, self.calls = flow, 0
        self.actions = [kept.get(t, rollout.latents) for t in range(STEPS)]

    def act(self, obs, generator=None):
        step = self.calls % STEPS
        first = self.calls // STEPS * len(obs["latent"])
        self.calls += 1
        latent = self.actions[step][first : first + len(obs["latent"])].clone()
        with torch.no_grad():
            return latent, self.flow.log_prob(obs, latent)


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.fixture
def ours(make_env):
    """A function: estimator -> the rollout, its gradient, and the learner."""

    def run(estimator, num_envs=CLIPS, **changes):
        env = make_env(num_envs, **changes)
        config = GRPOConfig(
            prompts_per_iteration=PROMPTS,
            group_size=MEMBERS,
            learning_rate=1e-30,
            max_grad_norm=FREE,
            micro_batch=1000,
        )
        learner = GRPO(env, FlowPolicy(env.unwrapped.model, eta=0.7), estimator, config)
        rollout = learner.collect()
        learner.update(rollout, learner.estimate(rollout))
        return rollout, gradients(learner.policy.experts["transformer"]), learner

    return run


def options_of(rollout, num_envs):
    """What begins the rollout's first episodes; with fewer sub-environments, several resets."""
    ids, seeds = rollout.prompt_ids.numpy(), rollout.noise_seeds
    return [
        {"prompt_id": ids[i : i + num_envs], "noise_seed": seeds[i : i + num_envs]}
        for i in range(0, len(ids), num_envs)
    ]


def scripted(env, rollout):
    """Let an environment begin the rollout's episodes, in order, whoever resets it."""
    waiting = options_of(rollout, env.num_envs)
    reset = env.reset

    def next_reset(*, seed=None, options=None):
        script = waiting.pop(0) if waiting else {}
        return reset(seed=seed, options={**(options or {}), **script})

    env.reset = next_reset
    return env


def sb3_gradient(make_env, rollout, estimator, num_envs=CLIPS, learner="PPO", **changes):
    native = make_env(num_envs, output="numpy", **changes)
    venv = SB3VecEnv(scripted(native, rollout))
    shared = {"max_grad_norm": FREE, "learning_rate": 0.0, "n_epochs": 1, "batch_size": 1000}
    shared["policy_kwargs"] = {"task": DenoisingTask.of(venv), "eta": 0.7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a minibatch may be the whole rollout
        if learner == "PPO":
            model = PPO(
                sb3.DenoisingPolicy,
                venv,
                n_steps=STEPS * CLIPS // num_envs,
                normalize_advantage=False,
                clip_range=1e-3,
                rollout_buffer_class=sb3.EstimatorRolloutBuffer,
                rollout_buffer_kwargs={"estimator": estimator},
                **shared,
            )
        else:
            model = sb3.GroupPPO(
                sb3.DenoisingPolicy, venv, estimator, episodes=CLIPS // num_envs, **shared
            )
    replay = Replay(rollout, model.policy.flow)
    model.policy.flow.act = replay.act
    model.learn(STEPS * CLIPS)
    assert replay.calls == STEPS * CLIPS // num_envs
    return gradients(model.policy.transformer)


def tianshou_gradient(make_env, rollout, estimator, num_envs=CLIPS, **changes):
    native = scripted(make_env(num_envs, output="numpy", **changes), rollout)
    venv = TianshouVectorEnv(native, mask_failed=True)
    policy = tianshou.DenoisingPolicy(
        task=DenoisingTask.of(venv), action_space=venv.get_env_attr("action_space", 0)[0], eta=0.7
    )
    policy.flow.act = Replay(rollout, policy.flow).act
    algorithm = tianshou.EstimatorPG(
        policy=policy,
        optim=AdamOptimizerFactory(lr=0.0),
        estimator=estimator,
        facts=venv.facts,
        max_grad_norm=None,
    )
    buffer = VectorReplayBuffer(STEPS * CLIPS, num_envs, ignore_obs_next=True)
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=Collector(algorithm, venv, buffer),
            collection_step_num_env_steps=None,
            collection_step_num_episodes=CLIPS,
            batch_size=None,
            max_epochs=1,
            epoch_num_steps=STEPS * CLIPS,
            verbose=False,
            show_progress=False,
        )
    )
    return gradients(policy.transformer)


def difference(one, other):
    """Largest difference of any entry, relative to the largest entry."""
    assert one.keys() == other.keys()
    largest = max(float(value.abs().max()) for value in one.values())
    assert largest > 1e-5  # what is compared is not nothing
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("num_envs", [CLIPS, CLIPS // 3])
def test_three_learners_have_one_gradient(make_env, ours, estimator, num_envs):
    rollout, gradient, _ = ours(estimator, num_envs)
    for other in (
        sb3_gradient(make_env, rollout, estimator, num_envs),
        sb3_gradient(make_env, rollout, estimator, num_envs, learner="GroupPPO"),
        tianshou_gradient(make_env, rollout, estimator, num_envs),
    ):
        assert difference(gradient, other) < 1e-5


def test_one_loss_per_component(make_env, ours):
    rollout, gradient, _ = ours("dancegrpo")
    group = sb3_gradient(make_env, rollout, "dancegrpo", learner="GroupPPO")
    assert difference(gradient, group) < 1e-5
    assert difference(gradient, tianshou_gradient(make_env, rollout, "dancegrpo")) < 1e-5


@pytest.mark.filterwarnings("ignore:.*could not score.*")
def test_a_failed_reward_and_a_penalty(make_env, ours, tiny_types):
    class Penalty(tiny_types["contrast"]):
        higher_is_better = False

    rewards = [tiny_types["flaky"](fails=(1,)), Penalty()]
    rollout, gradient, _ = ours("gdpo", rewards=rewards)
    assert np.isnan(rollout.rewards.numpy()).any()
    for other in (sb3_gradient, tianshou_gradient):
        assert difference(gradient, other(make_env, rollout, "gdpo", rewards=rewards)) < 1e-5


@pytest.mark.filterwarnings("ignore:.*could not score.*")
def test_clips_that_nobody_scored_do_not_count(make_env, ours, tiny_types):
    rewards = [tiny_types["flaky"](fails=(1,))]
    rollout, gradient, _ = ours("grpo", rewards=rewards)
    assert (rollout.prompt_ids == 1).any()
    for other in (sb3_gradient, tianshou_gradient):
        assert difference(gradient, other(make_env, rollout, "grpo", rewards=rewards)) < 1e-5


def test_the_comparison_can_fail(make_env, ours):
    rollout, gradient, _ = ours("grpo")
    assert difference(gradient, sb3_gradient(make_env, rollout, "rloo")) > 1e-2
