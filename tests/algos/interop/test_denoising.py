"""A saved policy and the environment it is loaded for: the same task, or an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RescaleAction
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer

from reelrl.algos.grpo import GRPO
from reelrl.algos.interop import tianshou
from reelrl.algos.interop.sb3 import DenoisingPolicy, DenoisingTask, GroupPPO, shared_task
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.envs.interop.sb3 import SB3VecEnv
from reelrl.envs.interop.tianshou import TianshouVectorEnv
from reelrl.envs.wrappers import VectorGuidanceAction, VectorPromptGroups, VectorVelocityAction

OTHER = [
    ({"num_steps": 2}, "noise levels"),
    ({"num_steps": 8}, "noise levels"),
    ({"shift": 1.0}, "noise levels"),
    ({"prompts": ["dim", "dark", "bright", "brightest"]}, "'dark' as number 0, got .* 'dim'"),
]
SETTINGS = {"kernel": "dance_sde", "eta": 0.2, "guidance_scale": 2.5}


@pytest.fixture
def make_venv(make_env):
    def make(**changes):
        return VecMonitor(SB3VecEnv(make_env(4, output="numpy", **changes)))

    return make


def ppo(venv, **settings):
    kwargs = {"task": DenoisingTask.of(venv), **settings}
    return PPO(DenoisingPolicy, venv, n_steps=4, batch_size=16, policy_kwargs=kwargs, device="cpu")


@pytest.mark.parametrize(("change", "message"), OTHER)
def test_a_loaded_learner_refuses_another_task(make_venv, tmp_path, change, message):
    model = GroupPPO("DenoisingPolicy", make_venv())
    model.save(tmp_path / "model")
    other = make_venv(**change)
    with pytest.raises(ValueError, match=message):
        GroupPPO.load(tmp_path / "model", env=other)
    with pytest.raises(ValueError, match=message):
        GroupPPO.load(tmp_path / "model").set_env(other)
    with pytest.raises(ValueError, match=message):
        model.set_env(other.unwrapped.native)
    with pytest.raises(ValueError, match=message):
        shared_task(tmp_path / "model", other)
    assert GroupPPO.load(tmp_path / "model", env=make_venv()).get_env() is not None


def test_prompts_may_differ_where_they_are_seen_and_not_looked_up(make_venv):
    model = GroupPPO("DenoisingPolicy", make_venv(observe_embedding=True))
    model.set_env(make_venv(observe_embedding=True, prompts=["a", "b", "c", "d"]))


@pytest.mark.parametrize("change", [{"num_steps": 3}, {"num_steps": 8}, {"shift": 2.0}])
def test_a_noise_level_of_another_schedule_is_refused(make_venv, make_env, change):
    model, other = ppo(make_venv()), make_venv(**change)
    obs = other.reset()
    actions, _ = model.predict(obs)  # every schedule begins at pure noise
    obs, *_ = other.step(actions)
    with pytest.raises(ValueError, match=r"expected noise levels .* 0\.9, .* got an observation"):
        model.predict(obs)
    tensors = {key: torch.as_tensor(value) for key, value in obs.items()}
    with pytest.raises(ValueError, match="another num_steps or shift"):
        model.policy(tensors)
    venv = TianshouVectorEnv(make_env(4, output="numpy"))
    policy = tianshou.DenoisingPolicy(
        task=DenoisingTask.of(venv), action_space=venv.get_env_attr("action_space", 0)[0]
    )
    with pytest.raises(ValueError, match="another num_steps or shift"):
        policy(Batch(obs=Batch(obs)))


def test_a_shared_task_keeps_how_the_saved_policy_denoises(make_venv, tmp_path):
    ppo(make_venv(), **SETTINGS).save(tmp_path / "model")
    venv = make_venv()
    custom = shared_task(tmp_path / "model.zip", venv)
    again = PPO.load(tmp_path / "model", env=venv, custom_objects=custom)
    assert again.policy.transformer is venv.unwrapped.native.unwrapped.model.transformer
    settings = again.policy.flow.settings()
    assert {key: settings[key] for key in SETTINGS} == SETTINGS


def test_a_learner_without_a_task_shares_none(make_env, tmp_path):
    venv = SB3VecEnv(VectorGuidanceAction(make_env(4, output="numpy")))
    PPO("MultiInputPolicy", venv, n_steps=4, batch_size=16, device="cpu").save(tmp_path / "model")
    with pytest.raises(ValueError, match="to hold a task"):
        shared_task(tmp_path / "model", venv)


@pytest.mark.parametrize(
    "wrap",
    [
        VectorVelocityAction,
        VectorGuidanceAction,
        lambda env: VectorPromptGroups(VectorVelocityAction(env), 2),
        lambda env: RescaleAction(env, np.float32(-1), np.float32(1)),
    ],
)
def test_policies_that_give_latents_refuse_environments_that_take_others(make_env, wrap):
    env = wrap(make_env(4, output="numpy"))
    message = "expected an environment whose actions are latents"
    for adapter in (env, SB3VecEnv(env), VecMonitor(SB3VecEnv(env)), TianshouVectorEnv(env)):
        with pytest.raises(ValueError, match=message):
            DenoisingTask.of(adapter)
    with pytest.raises(ValueError, match=message):
        GroupPPO("DenoisingPolicy", env)
    with pytest.raises(ValueError, match=message):
        GRPO(env, FlowPolicy(env.unwrapped.model))


@pytest.mark.parametrize(("num_envs", "group_size"), [(6, 4), (2, 4)])
def test_a_rollout_that_cuts_a_group_is_refused(make_env, num_envs, group_size):
    env = VectorPromptGroups(make_env(num_envs, output="numpy"), group_size)
    with pytest.raises(ValueError, match=rf"whole groups of {group_size} .* got 2 of prompt"):
        GroupPPO("DenoisingPolicy", env).learn(num_envs * 4)
    venv = TianshouVectorEnv(env, mask_failed=True)
    assert venv.facts.group_size == group_size
    policy = tianshou.DenoisingPolicy(
        task=DenoisingTask.of(venv), action_space=venv.get_env_attr("action_space", 0)[0]
    )
    algorithm = tianshou.EstimatorPG(
        policy=policy, optim=AdamOptimizerFactory(lr=1e-3), facts=venv.facts
    )
    buffer = VectorReplayBuffer(num_envs * 4, num_envs, ignore_obs_next=True)
    Collector(algorithm, venv, buffer).collect(n_episode=num_envs, reset_before_collect=True)
    policy.is_within_training_step = True
    with pytest.raises(ValueError, match=rf"whole groups of {group_size} episodes"):
        algorithm.update(buffer, None, 1)


def test_groups_larger_than_the_batch_are_whole_over_several_episodes(make_env):
    env = VectorPromptGroups(make_env(2, output="numpy"), 4)
    model = GroupPPO("DenoisingPolicy", env, episodes=2)
    model.learn(2 * 2 * 2 * 4)
    assert model.rollout_buffer.signal.calls == 2
    with pytest.raises(ValueError, match="a reset with a seed"):
        model.learn(2 * 2 * 4)  # begins anew, in the middle of a group
    model.env.seed(1)
    model.learn(2 * 2 * 4)
