"""SB3's view of the batch: everything Stable-Baselines3 expects, and every trap it has."""

from __future__ import annotations

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers.vector import RescaleAction
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_checker import _check_spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecMonitor,
    VecNormalize,
)

from reelrl.envs.interop.sb3 import RewardArray, SB3VecEnv
from reelrl.envs.wrappers import VectorGuidanceAction, VectorScalarReward, VectorVelocityAction
from reelrl.rewards.adaptive import AdaptiveReward

T = 4  # steps of an episode in make_batch


@pytest.fixture
def make_venv(make_batch):
    def make(num_envs=3, weights=None, wrap=lambda env: env, **changes):
        return SB3VecEnv(wrap(make_batch(num_envs, autoreset_mode="Disabled", **changes)), weights)

    return make


def actions_of(venv, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(venv.num_envs, *venv.action_space.shape)).astype(np.float32)


def test_it_does_what_sb3_does_to_single_environments(make_single, make_venv):
    theirs = DummyVecEnv([lambda: make_single(scalar_weights=[1 / 3] * 3)] * 3)
    ours = make_venv(3)
    assert isinstance(ours, VecEnv)
    for venv in (theirs, ours):
        venv.seed(11)
    one, other = theirs.reset(), ours.reset()
    for step in range(2 * T + 1):
        for key in one:
            assert (one[key] == other[key]).all() and one[key].dtype == other[key].dtype
        assert [info["prompt_id"] for info in theirs.reset_infos] == [
            info["prompt_id"] for info in ours.reset_infos
        ]
        actions = actions_of(ours, step)
        one, their_rewards, their_dones, their_infos = theirs.step(actions)
        other, rewards, dones, infos = ours.step(actions)
        np.testing.assert_allclose(rewards, their_rewards, atol=1e-6)
        assert rewards.dtype == their_rewards.dtype == np.float32
        assert (dones == their_dones).all() and dones.dtype == their_dones.dtype
        for theirs_info, info in zip(their_infos, infos, strict=True):
            assert theirs_info.keys() - {"vector_reward"} <= info.keys()
            assert info["TimeLimit.truncated"] is False
            if dones[0]:
                last = info["terminal_observation"]
                assert all((last[k] == theirs_info["terminal_observation"][k]).all() for k in last)
                assert last["sigma"] == 0 and other["sigma"][0] == 1
                assert (info["video"] == theirs_info["video"]).all()


def test_reward_is_a_number_and_the_vector_is_in_the_info(make_venv):
    for weights, expected in ((None, [1 / 3] * 3), ([1.0, 0.0, 2.0], [1.0, 0.0, 2.0])):
        venv = make_venv(2, weights)
        venv.reset()
        for step in range(T):
            _, rewards, dones, infos = venv.step(actions_of(venv, step))
            vectors = np.stack([info["vector_reward"] for info in infos])
            assert vectors.shape == (2, 3)
            np.testing.assert_allclose(rewards, vectors @ np.array(expected), atol=1e-6)
        assert dones.all() and (vectors != 0).any()


def test_a_penalty_counts_negative_in_the_mean(make_venv, reward_types):
    class Penalty(reward_types["brightness"]):
        name = "penalty"
        higher_is_better = False

    venv = make_venv(2, rewards=[reward_types["brightness"](), Penalty()])
    venv.reset()
    for step in range(T):
        _, rewards, _, infos = venv.step(actions_of(venv, step))
    assert (rewards == 0).all() and (infos[0]["vector_reward"] > 0).all()


@pytest.mark.parametrize("how", ["wrapper", "argument"])
def test_an_environment_that_weighs_for_itself_keeps_its_number(make_venv, how):
    weights = [1.0, 2.0, 3.0]
    if how == "wrapper":
        with pytest.raises(ValueError, match="made by VectorScalarReward"):
            make_venv(2, [1.0, 1.0, 1.0], wrap=lambda env: VectorScalarReward(env, weights))
        venv = make_venv(2, wrap=lambda env: VectorScalarReward(env, weights))
    else:
        venv = make_venv(2, scalar_weights=weights)
    venv.reset()
    for step in range(T):
        _, rewards, _, infos = venv.step(actions_of(venv, step))
    vectors = np.stack([info["vector_reward"] for info in infos])
    np.testing.assert_allclose(rewards, vectors @ np.array(weights), rtol=1e-6)


def test_only_what_has_ended_begins_anew(make_venv):
    venv = make_venv(3)
    venv.seed(0)
    venv.reset()
    venv.step(actions_of(venv, 0))
    # The batch has no episodes of different lengths; one that was begun later makes some.
    venv.native.reset(options={"reset_mask": np.array([False, True, False])})
    venv.step(actions_of(venv, 1))
    venv.step(actions_of(venv, 2))
    before = venv.reset_infos[1]
    obs, _, dones, infos = venv.step(actions_of(venv, 3))
    assert dones.tolist() == [True, False, True]
    assert obs["sigma"][[0, 2]].ravel().tolist() == [1, 1] and obs["sigma"][1] < 1
    assert "terminal_observation" not in infos[1] and "video" not in infos[1]
    assert venv.reset_infos[1] is before
    _, _, dones, infos = venv.step(actions_of(venv, 4))
    assert dones.tolist() == [False, True, False]
    assert "terminal_observation" in infos[1]


def test_seeds_and_options_are_used_once(make_venv):
    venv = make_venv(2)
    assert venv.seed(5) == [5, 6]
    first = venv.reset()
    again = venv.reset()
    venv.seed(5)
    third = venv.reset()
    assert (first["latent"] == third["latent"]).all()
    assert (first["latent"] != again["latent"]).any()
    venv.set_options({"prompt_id": 2})
    assert venv.reset()["prompt_id"].ravel().tolist() == [2, 2]
    venv.set_options([{"prompt_id": 0, "noise_seed": 7}, {"prompt_id": 1, "noise_seed": 7}])
    obs = venv.reset()
    assert obs["prompt_id"].ravel().tolist() == [0, 1]
    assert (obs["latent"][0] == obs["latent"][1]).all()
    assert {tuple(venv.reset()["prompt_id"].ravel()) for _ in range(9)} != {(0, 1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([{"prompt_id": 0}, {}], "every sub-environment needs the same reset options"),
        ({"reset_mask": True}, "no option reset_mask"),
        ({"promt_id": 0}, "did you mean 'prompt_id'"),
    ],
)
def test_options_that_make_no_sense(make_venv, options, message):
    venv = make_venv(2)
    venv.set_options(options)
    with pytest.raises(ValueError, match=message):
        venv.reset()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_only_the_disabled_mode(make_batch, mode):
    with pytest.raises(ValueError, match='autoreset_mode="Disabled"'):
        SB3VecEnv(make_batch(2, autoreset_mode=mode))


def test_what_else_is_refused(make_batch):
    with pytest.raises(ValueError, match="output must be 'numpy'"):
        SB3VecEnv(make_batch(2, autoreset_mode="Disabled", output="torch"))
    with pytest.raises(ValueError, match="expected 3 finite weights"):
        SB3VecEnv(make_batch(2, autoreset_mode="Disabled"), [1.0])
    with pytest.raises(ValueError, match="number already"):
        SB3VecEnv(make_batch(2, autoreset_mode="Disabled", scalar_weights=[1] * 3), [1, 1, 1])
    with pytest.raises(TypeError, match="TextToVideo"):
        SB3VecEnv(gym.make_vec("CartPole-v1", num_envs=2))


def test_attributes_and_methods(make_venv):
    venv = make_venv(3, wrap=VectorGuidanceActionLike)
    assert venv.get_attr("num_steps") == [T] * 3
    assert venv.get_attr("prompts", indices=[0, 2])[0][0] == "dark"
    assert venv.get_attr("action_space", 1) == [venv.action_space]
    assert venv.get_attr("marker") == ["here"] * 3
    venv.seed(4)
    venv.reset()
    assert venv.get_attr("np_random_seed") == [4, 5, 6]
    assert not venv.has_attr("nothing_of_the_kind")
    latent = np.zeros((2, *venv.action_space.shape), np.float32)
    scores = venv.env_method("score", latent, [0, 1], indices=0)
    assert len(scores) == 1 and scores[0].shape == (2, 3)
    with pytest.raises(ValueError, match="of the vectorised environment"):
        venv.env_method("reset")
    with pytest.raises(ValueError, match="without indices"):
        venv.set_attr("clean_estimate", None, indices=[0])
    venv.set_attr("marker", "there")
    assert venv.get_attr("marker", 0) == ["there"] and venv.native.marker == "there"
    with pytest.raises(AttributeError, match="'marke'"):
        venv.set_attr("marke", "nowhere")
    venv.set_attr("clean_estimate", "set")
    assert venv.native.unwrapped.clean_estimate == "set"
    assert venv.env_is_wrapped(VectorGuidanceActionLike) == [True] * 3
    assert venv.env_is_wrapped(VectorScalarReward, indices=[1]) == [False]


class VectorGuidanceActionLike(gym.vector.VectorWrapper):
    marker = "here"


def test_a_component_can_be_added_later(make_venv):
    venv = make_venv(2)
    venv.env_method("add_reward", "proxy_mq", indices=0)
    venv.reset()
    for step in range(T):
        _, rewards, _, infos = venv.step(actions_of(venv, step))
    vector = infos[0]["vector_reward"]
    assert vector.shape == (4,)
    assert rewards[0] == pytest.approx(vector.mean(), abs=1e-6)


def test_a_reward_that_would_adapt_is_told_of(make_venv):
    class Learning(AdaptiveReward):
        name, bounds, settings = "learning", (0.0, 1.0), ""

        def score(self, videos, prompts, infos):
            return videos.flatten(1).mean(dim=1)

        def adapt(self, videos, prompts, generator):
            return {}

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    with pytest.warns(UserWarning, match=r"learning adapts .* only under reelrl.algos.grpo.GRPO"):
        make_venv(2, rewards=[Learning()])


def test_rendering(make_venv):
    venv = make_venv(3, render_mode="rgb_array")
    venv.reset()
    assert len(venv.get_images()) == 3
    tiled = venv.render()
    assert tiled.ndim == 3 and tiled.shape[0] > venv.get_images()[0].shape[0]
    one = venv.env_method("render", indices=1)
    assert (one[0] == venv.get_images()[1]).all()
    venv.close()
    films = make_venv(2, render_mode="rgb_array_list")
    films.reset()
    assert len(films.env_method("render")[0]) == 5


def test_wrappers_of_sb3_go_on_top(make_venv):
    inner = make_venv(2)
    venv = VecCheckNan(VecNormalize(VecMonitor(inner), norm_obs=False), raise_exception=True)
    venv.seed(1)
    venv.reset()
    for step in range(T):
        _, rewards, dones, infos = venv.step(actions_of(venv, step))
    assert dones.all()
    assert infos[0]["episode"]["l"] == T
    assert infos[0]["episode"]["r"] == pytest.approx(infos[0]["vector_reward"].mean(), abs=1e-6)
    # What an estimator reads came through three wrappers, one of which divides the rewards.
    assert isinstance(rewards, RewardArray)
    assert (rewards.vectors[0] == infos[0]["vector_reward"]).all()
    assert rewards[0] != pytest.approx(infos[0]["episode"]["r"])
    assert rewards.num_steps == T and rewards.facts.names == ("brightness", "contrast", "caption")


def test_a_failed_reward_is_nan_and_sb3_can_be_told(make_venv, reward_types):
    class Broken(reward_types["brightness"]):
        name = "broken"

        def score(self, videos, prompts, infos):
            raise RuntimeError("no judge today")

    venv = make_venv(2, rewards=[reward_types["brightness"](), Broken()])
    venv.reset()
    with pytest.warns(UserWarning, match="no judge today"):
        for step in range(T):
            _, rewards, _, infos = venv.step(actions_of(venv, step))
    assert np.isnan(rewards).all()
    assert infos[0]["reward_valid"].tolist() == [True, False]
    checked = VecCheckNan(make_venv(2, rewards=[Broken()]), raise_exception=True)
    checked.reset()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="nan"):
        for step in range(T):
            checked.step(actions_of(checked, step))


def test_spaces_are_what_sb3_takes(make_venv):
    venv = make_venv(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_spaces(_Single(venv))
    assert isinstance(venv.observation_space, spaces.Dict)
    assert np.isfinite(venv.action_space.low).all() and np.isfinite(venv.action_space.high).all()
    assert pickle.loads(pickle.dumps(venv.action_space)) == venv.action_space


class _Single(gym.Env):
    def __init__(self, venv):
        self.observation_space, self.action_space = venv.observation_space, venv.action_space


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3")
def test_their_algorithms_learn_save_and_load(make_venv, tmp_path, algorithm):
    venv = VecMonitor(
        make_venv(4, wrap=lambda env: RescaleAction(VectorGuidanceAction(env), -1, 1))
    )
    assert venv.action_space.high.tolist() == [1, 1]
    model = algorithm("MultiInputPolicy", venv, n_steps=T, seed=0, device="cpu")
    model.learn(2 * 4 * T)
    assert model.ep_info_buffer[0]["l"] == T
    model.save(tmp_path / "agent")
    again = algorithm.load(tmp_path / "agent", env=venv, device="cpu")
    obs = venv.reset()
    one, _ = model.predict(obs, deterministic=True)
    other, _ = again.predict(obs, deterministic=True)
    assert (one == other).all()
    again.learn(4 * T)
    mean, _ = evaluate_policy(again, venv, n_eval_episodes=4)
    assert np.isfinite(mean)


def test_an_evaluation_callback(make_venv, tmp_path):
    venv = make_venv(2, flat=True, wrap=VectorGuidanceAction)
    callback = EvalCallback(
        VecMonitor(make_venv(2, flat=True, wrap=VectorGuidanceAction)), eval_freq=T
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PPO("MlpPolicy", venv, n_steps=T, batch_size=2 * T, device="cpu").learn(2 * T, callback)
    assert np.isfinite(callback.last_mean_reward)


def test_velocities_as_actions(make_venv):
    venv = make_venv(2, wrap=VectorVelocityAction)
    venv.reset()
    for step in range(T):
        _, rewards, dones, _ = venv.step(actions_of(venv, step))
    assert dones.all() and np.isfinite(rewards).all()
