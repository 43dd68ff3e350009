"""MO-Gymnasium's wrappers in the order in which morl-baselines stacks them, and TorchRL's."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest

from reelrl.envs.wrappers import GuidanceAction, VectorGuidanceAction

mo = pytest.importorskip("mo_gymnasium")
T = 4


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def morl_chain(env, gamma=0.9):
    """What morl-baselines' mo_ppo.make_env puts around an environment."""
    env = gym.wrappers.ClipAction(env)
    env = gym.wrappers.NormalizeObservation(env)
    env = gym.wrappers.TransformObservation(
        env, lambda obs: np.clip(obs, -10, 10), env.observation_space
    )
    for k in range(env.unwrapped.reward_space.shape[0]):
        env = mo.wrappers.MONormalizeReward(env, idx=k, gamma=gamma)
        env = mo.wrappers.MOClipReward(env, idx=k, min_r=-10, max_r=10)
    return mo.wrappers.MORecordEpisodeStatistics(env, gamma=gamma)


@pytest.mark.parametrize("guided", [False, True])
def test_the_chain_of_morl_baselines(make_single, guided):
    def make():
        env = make_single(flat=True)
        return morl_chain(GuidanceAction(env) if guided else env)

    envs = mo.wrappers.vector.MOSyncVectorEnv([make] * 2)
    # What its agents read: shapes of one-dimensional spaces, and the reward's.
    assert envs.single_observation_space.shape == (26,)
    assert envs.single_action_space.shape == ((2,) if guided else (24,))
    assert envs.reward_space.shape == (3,)
    observations, _ = envs.reset(seed=0)
    for _ in range(T):
        observations, rewards, ends, _, infos = envs.step(envs.action_space.sample())
        assert observations.shape == (2, 26) and np.isfinite(observations).all()
    assert rewards.shape == (2, 3) and (rewards[:, 0] != 0).all() and ends.all()
    assert infos["episode"]["l"].tolist() == [T, T]


def test_the_registered_flat_environment_is_made_by_mo_gymnasium():
    import reelrl  # noqa: F401  (registers the ids)

    env = mo.wrappers.LinearReward(
        GuidanceAction(mo.make("reelrl/MovingShapesFlat-v0", num_steps=2)),
        weight=np.array([0.5, 0.25, 0.25]),
    )
    env.reset(seed=0)
    for _ in range(2):
        _, reward, _, _, info = env.step(np.array([2.0, 0.0], np.float32))
    assert reward == pytest.approx(info["vector_reward"] @ np.array([0.5, 0.25, 0.25]))
    assert isinstance(env.unwrapped.reward_space, gym.spaces.Box)


@pytest.fixture
def torchrl():
    return pytest.importorskip("torchrl.envs")


def play(env, steps):
    """A rollout that goes on where episodes end, denoising towards zero."""
    return env.rollout(
        steps, lambda td: td.set("action", 0.9 * td["latent"]), break_when_any_done=False
    )


def test_torchrl_on_the_batch(make_batch, torchrl):
    envs = make_batch(3, autoreset_mode="Disabled", scalar_weights=[1, 1, 1])
    env = torchrl.GymWrapper(envs)
    assert env.batch_size == (3,)
    data = play(env, 2 * T + 1)
    assert data["next", "reward"].shape == (3, 2 * T + 1, 1)
    done = data["next", "done"][..., 0]
    assert (done.nonzero()[:, 1] % T == T - 1).all() and done.sum() == 6
    # Episodes begin anew through the reset mask: pure noise again after each end.
    assert (data["sigma"][:, [0, T, 2 * T]] == 1).all() and (data["sigma"] == 1).sum() == 9
    from torchrl.envs.utils import check_env_specs

    check_env_specs(env)


def test_torchrl_with_reward_vectors(make_batch, torchrl):
    envs = make_batch(2, autoreset_mode="Disabled")
    data = play(torchrl.GymWrapper(envs), T)
    assert data["next", "reward"].shape == (2, T, 3)
    assert (data["next", "reward"][:, -1] != 0).any() and (data["next", "reward"][:, 0] == 0).all()


def test_torchrl_collects_with_guidance(make_batch, torchrl):
    """It reads autoreset_mode from the outermost wrapper."""
    from torchrl.collectors import Collector

    def make():
        envs = make_batch(3, autoreset_mode="Disabled", scalar_weights=[1, 1, 1], flat=True)
        return torchrl.GymWrapper(VectorGuidanceAction(envs))

    collector = Collector(make, None, frames_per_batch=6 * T, total_frames=12 * T)
    batches = [data["next", "reward"].shape for data in collector]
    collector.shutdown()
    assert batches == [(3, 2 * T, 1)] * 2


def test_torchrl_sees_the_vector_through_a_wrapper(make_batch, torchrl):
    envs = VectorGuidanceAction(make_batch(2, autoreset_mode="Disabled"))
    assert envs.reward_space == envs.unwrapped.reward_space
    data = torchrl.GymWrapper(envs).rollout(T, break_when_any_done=False)
    assert data["next", "reward"].shape == (2, T, 3)


def test_torchrl_on_the_single_environment(make_single, torchrl):
    data = play(torchrl.GymWrapper(make_single()), T)
    assert data["next", "reward"].shape == (T, 3)
    assert data["next", "done"][-1] and not data["next", "done"][0]
