"""Components added by a wrapper are components of the base environment."""

from __future__ import annotations

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from reelrl.envs.wrappers import AddReward, VectorAddReward
from reelrl.rewards import Reward


class Darkness(Reward):
    name = "darkness"
    bounds = (-1.0, 0.0)

    def score(self, videos, prompts, infos):
        return -videos.flatten(1).mean(dim=1)


def finish(env):
    env.reset(seed=0)
    for _ in range(4):
        result = env.step(env.action_space.sample())
    return result


def test_the_component_is_scored_with_the_others(make_single, tiny_model):
    env = AddReward(make_single(model=tiny_model), Darkness())
    assert env.unwrapped.reward_names == ["brightness", "contrast", "caption", "darkness"]
    assert env.unwrapped.reward_space.shape == (4,)
    assert env.unwrapped.reward_dim == 4
    _, reward, _, _, info = finish(env)
    assert reward[3] == -reward[0]
    assert info["reward_valid"].shape == (4,)
    assert tiny_model.calls["decode"] == 1


def test_the_twin_gives_the_same_rewards(make_single, make_batch):
    single = AddReward(make_single(num_steps=1), Darkness())
    batch = VectorAddReward(make_batch(2, num_steps=1), Darkness())
    batch.reset(seed=0)
    single.reset(seed=0)
    actions = batch.action_space.sample()
    np.testing.assert_allclose(batch.step(actions)[1][0], single.step(actions[0])[1], atol=1e-6)
    assert batch.unwrapped.reward_space.shape == (4,)


def test_mo_gymnasium_wrappers_work_on_top(make_single):
    mo = pytest.importorskip("mo_gymnasium")
    env = AddReward(make_single(), Darkness())
    env = mo.wrappers.MORecordEpisodeStatistics(env, gamma=1.0)
    env = mo.wrappers.LinearReward(env, weight=np.array([1.0, 0, 0, 1.0]))
    _, reward, _, _, info = finish(env)
    assert reward == pytest.approx(0, abs=1e-6)
    assert info["episode"]["r"].shape == (4,)


def test_checker_passes(make_single):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(AddReward(make_single(), Darkness()))


def test_a_pickled_environment_keeps_its_components(make_single):
    env = pickle.loads(pickle.dumps(AddReward(make_single(), Darkness())))
    assert env.unwrapped.reward_names[-1] == "darkness"
    assert finish(env)[1].shape == (4,)


def test_a_named_component_survives_json():
    env = gym.make("reelrl:reelrl/MovingShapes-v0")
    env = AddReward(AddReward(env, "gold"), "gold_fid")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.reward_names == env.unwrapped.reward_names
    assert again.unwrapped.reward_names[-2:] == ["gold", "gold_fid"]
    configured = AddReward(gym.make("reelrl:reelrl/MovingShapesGold-v0"), "proxy_vq", hackability=0)
    assert configured.spec.additional_wrappers[-1].kwargs == {
        "reward": "proxy_vq",
        "hackability": 0,
    }


def test_bad_arguments(make_single):
    env = AddReward(make_single(), Darkness())
    with pytest.raises(ValueError, match="'darkness' is already one of"):
        AddReward(env, Darkness())
    with pytest.raises(ValueError, match="unknown reward 'motio'"):
        AddReward(env, "motio")
    with pytest.raises(ValueError, match="built already; it takes no hackability"):
        AddReward(env, Darkness(), hackability=1)
    with pytest.raises(ValueError, match="scalar_weights fixes the number of components at 3"):
        AddReward(make_single(scalar_weights=[1, 1, 1]), Darkness())
    with pytest.raises(TypeError, match="expected wrappers over a TextToVideoEnv"):
        AddReward(gym.make("CartPole-v1"), Darkness())
