"""The id that every library of agents takes as it is."""

from __future__ import annotations

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

from reelrl.envs.wrappers import GuidanceAction, ScalarReward, VectorGuidanceAction
from reelrl.envs.wrappers.action import takes_latents

ID = "reelrl:reelrl/MovingShapesGuidance-v0"


def walk(env, actions):
    env.reset(seed=4)
    return [env.step(action)[:2] for action in actions]


def test_it_is_the_wrapped_environment_with_its_action_scaled():
    base = gym.make("reelrl:reelrl/MovingShapesFlat-v0", num_steps=3)
    wrapped = ScalarReward(GuidanceAction(base), [1 / 3, 1 / 3, 1 / 3])
    actions = np.array([[-1.0, -1.0], [0.0, 0.5], [1.0, 1.0]], dtype=np.float32)
    controls = np.array([[1.0, 0.0], [4.5, 0.75], [8.0, 1.0]], dtype=np.float32)
    for (seen, paid), (expected, reward) in zip(
        walk(gym.make(ID, num_steps=3), actions), walk(wrapped, controls), strict=True
    ):
        np.testing.assert_array_equal(seen, expected)
        assert paid == pytest.approx(reward, abs=1e-6)


def test_the_batch_is_the_single_environments():
    envs = gym.make_vec(ID, num_envs=2, num_steps=2, autoreset_mode="Disabled")
    envs.reset(seed=4)
    actions = np.array([[0.1, -0.2], [0.3, 0.9]], dtype=np.float32)
    seen = envs.step(actions)[0]
    for row in range(2):
        env = gym.make(ID, num_steps=2)
        env.reset(seed=4 + row)
        np.testing.assert_allclose(env.step(actions[row])[0], seen[row], atol=1e-5)
    rewards = envs.step(actions)[1]
    assert rewards.shape == (2,) and rewards.dtype == np.float64 and (rewards != 0).all()


def test_gymnasiums_checker_has_nothing_to_say(recwarn):
    check_env(gym.make(ID, num_steps=2).unwrapped)
    assert [str(w.message) for w in recwarn if "reward" in str(w.message)] == []


def test_gymnasiums_wrappers_and_vectors_take_it():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec(ID, num_envs=2, num_steps=1))
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[-1]["episode"]["r"].shape == (2,)
    envs = gym.make_vec(ID, num_envs=2, vectorization_mode="sync", num_steps=1)
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[1].shape == (2,)
    env = gym.wrappers.NormalizeReward(gym.make(ID, num_steps=1))
    env.reset(seed=0)
    assert np.isscalar(env.step(env.action_space.sample())[1])


@pytest.mark.slow
def test_sb3_takes_the_id():
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_util import make_vec_env

    agent = sb3.PPO("MlpPolicy", ID, n_steps=10, batch_size=10, n_epochs=1, device="cpu")
    agent.learn(20)
    venv = make_vec_env(ID, n_envs=2, env_kwargs={"num_steps": 2})
    agent = sb3.SAC("MlpPolicy", venv, learning_starts=2, batch_size=2, device="cpu")
    agent.learn(6)
    assert len(agent.ep_info_buffer) >= 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_keeps_its_settings_and_its_episode(copied):
    env = gym.make(ID, num_steps=3, guidance_range=(1.0, 3.0), noise_range=(0.2, 0.4))
    env.reset(seed=1)
    action = np.array([0.5, -0.5], dtype=np.float32)
    env.step(action)
    again = copied(env)
    assert data_equivalence(env.step(action), again.step(action), exact=True)
    assert again.unwrapped.control_space == env.unwrapped.control_space


def test_its_spec_makes_it_again():
    env = gym.make(ID, num_steps=2, noise_range=[0.0, 0.5])
    again = gym.make(env.spec)
    assert again.unwrapped.control_space == env.unwrapped.control_space
    assert type(again.unwrapped) is type(env.unwrapped)


@pytest.mark.parametrize("action", [[0.0], [[0.0, 0.0]], ["a", "b"], [np.nan, 0.0], [True, 1j]])
def test_other_actions_are_refused(action):
    env = gym.make(ID, num_steps=1)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions must have shape|must be numbers|holds nan"):
        env.unwrapped.step(np.array(action))


def test_a_policy_over_latents_is_refused():
    """It would read a latent as two numbers."""
    for env, wrapper in (
        (gym.make(ID), GuidanceAction),
        (gym.make_vec(ID, num_envs=2, output="torch"), VectorGuidanceAction),
    ):
        with pytest.raises(ValueError, match=r"actions are latents, .* got Guidance"):
            takes_latents(env)
        with pytest.raises(ValueError, match="actions are latents"):
            wrapper(env)


def test_weights_and_tensors_of_ones_own():
    envs = gym.make_vec(ID, num_envs=2, num_steps=1, output="torch", scalar_weights=[1, 0, 0])
    envs.reset(seed=0)
    _, rewards, _, _, infos = envs.step(torch.zeros(2, 2))
    assert torch.equal(rewards, infos["vector_reward"][:, 0].double())
    assert envs.unwrapped.reward_names == ["proxy_vq", "proxy_mq", "proxy_ta"]


def test_a_copy_has_the_models_weights_of_the_moment():
    """The model was opened again by its name, without what was trained."""
    env = gym.make(ID, num_steps=2)
    with torch.no_grad():
        for parameter in env.unwrapped.model.transformer.parameters():
            parameter.add_(0.05)
    env.reset(seed=0)
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    action = np.array([0.0, -1.0], dtype=np.float32)
    seen = env.step(action)[0]
    for again in copies:
        np.testing.assert_array_equal(again.step(action)[0], seen)
    assert copies[0].unwrapped.model is env.unwrapped.model
