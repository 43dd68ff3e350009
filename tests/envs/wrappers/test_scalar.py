"""The reward vector as one number."""

from __future__ import annotations

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reelrl.envs.wrappers import AddReward, ScalarReward, VectorAddReward, VectorScalarReward

WEIGHTS = [1.0, 0.5, -2.0]


def test_the_weighted_sum_and_the_vector(make_single):
    env = ScalarReward(make_single(num_steps=1), WEIGHTS)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(env.action_space.sample())
    assert type(reward) is float
    assert reward == pytest.approx(info["vector_reward"] @ np.array(WEIGHTS))


def test_the_wrapper_is_the_argument(make_single):
    one, other = ScalarReward(make_single(), WEIGHTS), make_single(scalar_weights=WEIGHTS)
    one.reset(seed=0), other.reset(seed=0)
    for _ in range(4):
        action = one.action_space.sample()
        assert data_equivalence(one.step(action), other.step(action), exact=True)


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_the_twin_equals_a_batch_of_single_envs(make_single, make_batch, mode):
    sync = SyncVectorEnv([partial(ScalarReward, make_single(), WEIGHTS) for _ in range(3)])
    native = VectorScalarReward(make_batch(3, autoreset_mode=mode), WEIGHTS)
    sync.reset(seed=0), native.reset(seed=0)
    for _ in range(4):
        actions = native.action_space.sample()
        assert data_equivalence(sync.step(actions), native.step(actions))


def test_checkers_and_statistics(make_single, make_batch):
    from stable_baselines3.common.env_checker import check_env as check_sb3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(ScalarReward(make_single()))
    check_sb3(ScalarReward(make_single()), warn=False)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(VectorScalarReward(make_batch(2)))
    envs.reset(seed=0)
    for _ in range(4):
        _, rewards, _, _, infos = envs.step(envs.action_space.sample())
    np.testing.assert_allclose(infos["episode"]["r"], rewards)


def test_weights_survive_json():
    env = ScalarReward(gym.make("reelrl:reelrl/MovingShapesGold-v0"), WEIGHTS)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.weights.tolist() == WEIGHTS
    arrays = ScalarReward(gym.make("reelrl:reelrl/MovingShapesGold-v0"), np.array(WEIGHTS))
    assert arrays.spec.to_json() == env.spec.to_json()


def test_torch_rewards_stay_tensors(make_single, make_batch):
    import torch

    env = ScalarReward(make_single(output="torch", num_steps=1), WEIGHTS)
    env.reset(seed=0)
    _, reward, *_ = env.step(torch.zeros(env.action_space.shape))
    assert reward.shape == ()
    envs = VectorScalarReward(make_batch(2, output="torch", num_steps=1), WEIGHTS)
    envs.reset(seed=0)
    _, rewards, _, _, infos = envs.step(torch.zeros(envs.action_space.shape))
    assert rewards.shape == (2,)
    assert isinstance(infos["_vector_reward"], torch.Tensor)


def test_bad_arguments(make_single, make_batch):
    with pytest.raises(ValueError, match="expected 3 finite weights"):
        ScalarReward(make_single(), [1, 2])
    with pytest.raises(ValueError, match="a number already"):
        VectorScalarReward(make_batch(2, scalar_weights=WEIGHTS))
    with pytest.raises(ValueError, match=r"write ScalarReward\(AddReward\(env, ...\), {name"):
        AddReward(ScalarReward(make_single()), "gold")
    with pytest.raises(ValueError, match=r"write VectorScalarReward\(VectorAddReward\(env"):
        VectorAddReward(VectorScalarReward(make_batch(2)), "gold")


def test_default_weights_are_the_signs_and_given_ones_are_raw(
    make_single, make_batch, reward_types
):
    class Penalty(reward_types["brightness"]):
        name = "penalty"
        higher_is_better = False

    for weights, expected in ((None, [1.0, -1.0]), ([1.0, 1.0], [1.0, 1.0])):
        rewards = [reward_types["contrast"](), Penalty()]
        single = ScalarReward(make_single(num_steps=1, rewards=rewards), weights)
        batch = VectorScalarReward(make_batch(2, num_steps=1, rewards=rewards), weights)
        for env in (single, batch):
            env.reset(seed=0)
            _, reward, _, _, info = env.step(env.action_space.sample())
            np.testing.assert_allclose(reward, info["vector_reward"] @ np.array(expected))


def test_a_number_is_not_weighed_again(make_single, make_batch):
    with pytest.raises(ValueError, match=r"made by ScalarReward with weights=\[1.0, 0.5, -2.0\]"):
        ScalarReward(gym.wrappers.TimeLimit(ScalarReward(make_single(), WEIGHTS), 9))
    with pytest.raises(ValueError, match="made by VectorScalarReward"):
        VectorScalarReward(VectorScalarReward(make_batch(3)))  # as many sub-envs as components


def test_what_ended_episodes_say_has_the_vector_in_same_step(make_single, make_batch):
    sync = SyncVectorEnv(
        [partial(ScalarReward, make_single(num_steps=2), WEIGHTS) for _ in range(3)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    native = VectorScalarReward(make_batch(3, num_steps=2, autoreset_mode="SameStep"), WEIGHTS)
    sync.reset(seed=0), native.reset(seed=0)
    for _ in range(2):
        actions = native.action_space.sample()
        theirs, ours = sync.step(actions)[4], native.step(actions)[4]
    for key in ("vector_reward", "_vector_reward"):
        np.testing.assert_allclose(ours["final_info"][key], theirs["final_info"][key], atol=1e-6)
