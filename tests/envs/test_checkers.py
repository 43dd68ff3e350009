"""The checkers of Gymnasium, MO-Gymnasium and Stable-Baselines3 on our environments."""

from __future__ import annotations

import copy
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.utils.env_match import check_environments_match

NEW_GYMNASIUM = tuple(int(part) for part in gym.__version__.split(".")[:2]) >= (1, 4)
BROKEN = "mo-gymnasium 1.3.2 shares one reward_weights array between infos, which 1.4 refuses"


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


VARIANTS = [
    {},
    {"observe_embedding": True},
    {"flat": True},
    {"num_steps": 1},
    {"scalar_weights": [1.0, 0.5, 2.0]},
    {"render_mode": "rgb_array"},
    {"render_mode": "rgb_array_list"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gymnasium_check_env(make_single, variant):
    check_env(make_single(**variant).unwrapped)


def test_check_env_warns_only_of_what_is_meant(make_single):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(make_single().unwrapped)
    meant = ("infinity", "The reward returned by `step()` must be a float")
    texts = [str(warning.message) for warning in caught]
    assert [text for text in texts if not any(part in text for part in meant)] == []


def test_stable_baselines3_check_env(make_single):
    from stable_baselines3.common.env_checker import check_env as check_sb3

    check_sb3(make_single(scalar_weights=[1, 1, 1]), warn=False)
    check_sb3(make_single(scalar_weights=[1, 1, 1], flat=True), warn=False)


def rollout(env, seed, steps=9):
    """Everything the environment says over more than two episodes of seeded random actions."""
    env.action_space.seed(seed)
    said = [env.reset(seed=seed)]
    for _ in range(steps):
        said.append(env.step(env.action_space.sample()))
        if said[-1][2]:
            said.append(env.reset())
    return said


def equal(one, other):
    return all(
        data_equivalence(a, b, exact=True)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )


def test_rollouts_are_deterministic(make_single):
    assert equal(rollout(make_single(), 3), rollout(make_single(), 3))
    assert not equal(rollout(make_single(), 3), rollout(make_single(), 4))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_pickled_environment_behaves_the_same(make_single, variant):
    env = make_single(**variant)
    again = pickle.loads(pickle.dumps(env))
    assert equal(rollout(env, 5), rollout(again, 5))


def test_a_pickled_batch_behaves_the_same(make_batch):
    envs = make_batch(2, autoreset_mode="SameStep")
    again = pickle.loads(pickle.dumps(envs))
    assert again.unwrapped.autoreset_mode == envs.unwrapped.autoreset_mode
    assert data_equivalence(envs.reset(seed=1), again.reset(seed=1), exact=True)


@pytest.mark.parametrize("variant", [{}, {"render_mode": "rgb_array"}], ids=str)
def test_env_match(make_single, variant):
    check_environments_match(make_single(**variant), make_single(**variant), num_steps=9, seed=2)


def test_the_model_is_shared_and_not_copied_into_the_spec(make_single, tiny_model):
    env = make_single(model=tiny_model)
    assert env.unwrapped.model is tiny_model
    assert env.spec.kwargs["model"] is tiny_model
    assert copy.deepcopy({"model": tiny_model})["model"] is tiny_model
    assert copy.deepcopy(tiny_model) is not tiny_model


BY = [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))]


@pytest.mark.parametrize("copied", BY)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_copied_environment_keeps_its_episode(make_single, copied, variant):
    """It asked for a reset: tree search and outside agents lost their place."""
    env = make_single(**variant)
    env.reset(seed=3)
    steps = env.unwrapped.num_steps
    for value in range(steps // 2):
        env.step(env.action_space.sample() * 0 + value)
    again = copied(env)
    for value in range(steps - steps // 2):
        action = env.action_space.sample() * 0 + 0.1 * value
        assert data_equivalence(env.step(action), again.step(action), exact=True)
    # The generator came along.
    assert data_equivalence(env.reset(), again.reset(), exact=True)


@pytest.mark.parametrize("copied", BY)
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_copied_batch_keeps_its_episodes(make_batch, copied, mode):
    envs = make_batch(2, autoreset_mode=mode, num_steps=2)
    envs.reset(seed=1)
    actions = envs.action_space.sample() * 0 + 0.5
    envs.step(actions)
    again = copied(envs)
    for _ in range(1 if mode == "Disabled" else 4):
        assert data_equivalence(envs.step(actions), again.step(actions), exact=True)
    assert data_equivalence(envs.reset(), again.reset(), exact=True)


def test_a_copy_walks_its_own_way(make_single):
    env = make_single()
    env.reset(seed=0)
    again = copy.deepcopy(env)
    again.step(again.action_space.sample())
    assert env.unwrapped.state.step[0] == 0 and again.unwrapped.state.step[0] == 1


def test_the_spec_says_how_long_an_episode_is(make_single, make_batch):
    for env in (make_single(num_steps=3), make_batch(2, num_steps=3)):
        assert env.spec.max_episode_steps == 3
    timed = gym.wrappers.TimeAwareObservation(make_single(flat=True, num_steps=3))
    timed.reset(seed=0)
    steps = [timed.step(timed.action_space.sample())[2:4] for _ in range(3)]
    assert steps == [(False, False), (False, False), (True, False)]
    again = gym.make(make_single(num_steps=3).spec)
    assert again.unwrapped.num_steps == 3
    assert gym.spec("reelrl/MovingShapes-v0").max_episode_steps is None


def test_the_environment_says_what_it_is(make_single, make_batch):
    assert repr(make_single(num_steps=3).unwrapped) == (
        "TextToVideoEnv(model='tiny', num_steps=3, "
        "rewards=['brightness', 'contrast', 'caption'], prompts=3)"
    )
    assert repr(make_batch(2)).startswith("TextToVideoVectorEnv(num_envs=2, model='tiny', ")


mo = pytest.importorskip("mo_gymnasium")


@pytest.mark.skipif(NEW_GYMNASIUM, reason=BROKEN)
def test_linear_reward_passes_check_env(make_single):
    check_env(mo.wrappers.LinearReward(make_single(), weight=np.array([1.0, 2.0, 3.0])))


@pytest.mark.parametrize("wrapped", ["normalize", "clip"])
def test_reward_wrappers_pass_check_env(make_single, wrapped):
    env = make_single()
    if wrapped == "normalize":
        env = mo.wrappers.MONormalizeReward(env, idx=1)
    else:
        env = mo.wrappers.MOClipReward(env, idx=0, min_r=0.0, max_r=0.2)
    check_env(env)


def test_linear_reward_equals_the_weighted_sum(make_single):
    weight = np.array([0.5, 2.0, -1.0])
    plain = rollout(make_single(), 1)
    linear = rollout(mo.wrappers.LinearReward(make_single(), weight=weight), 1)
    for one, other in zip(plain, linear, strict=True):
        if len(one) == 5:
            np.testing.assert_allclose(other[1], one[1] @ weight, rtol=1e-6)


def test_clip_reward_writes_into_the_reward(make_single):
    env = mo.wrappers.MOClipReward(make_single(num_steps=1), idx=0, min_r=0.0, max_r=0.1)
    env.reset(seed=0)
    _, reward, *_ = env.step(np.full(env.action_space.shape, 5.0, np.float32))
    assert reward[0] == np.float32(0.1)


def test_record_episode_statistics(make_single):
    env = mo.wrappers.MORecordEpisodeStatistics(make_single(), gamma=1.0)
    env.reset(seed=0)
    for _ in range(4):
        _, reward, _, _, info = env.step(env.action_space.sample())
    np.testing.assert_allclose(info["episode"]["r"], reward)
    assert info["episode"]["l"] == 4


def test_mo_sync_vector_env_equals_the_native_batch(make_single, make_batch):
    sync = mo.wrappers.vector.MOSyncVectorEnv([make_single] * 3)
    native = make_batch(3)
    one, other = sync.reset(seed=7), native.reset(seed=7)
    assert data_equivalence(one[0], other[0], exact=True)
    for _ in range(11):
        actions = native.action_space.sample()
        one, other = sync.step(actions), native.step(actions)
        assert data_equivalence(one[0], other[0], exact=True)
        np.testing.assert_allclose(one[1], other[1], atol=1e-5)
        assert (one[2] == other[2]).all()
        assert (one[3] == other[3]).all()


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_vector_record_episode_statistics_on_the_native_batch(make_batch, mode):
    envs = make_batch(2, autoreset_mode=mode)
    recorded = mo.wrappers.vector.MORecordEpisodeStatistics(envs, gamma=1.0)
    recorded.reset(seed=0)
    for _ in range(4):
        _, rewards, _, _, infos = recorded.step(envs.action_space.sample())
    np.testing.assert_allclose(infos["episode"]["r"], rewards, atol=1e-6)
    assert infos["episode"]["l"].tolist() == [4, 4]
