"""Tianshou's view of the batch: its Collector works on it, and every trap it has."""

from __future__ import annotations

import numpy as np
import pytest
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import BaseVectorEnv, DummyVectorEnv

from reelrl.envs.interop.tianshou import TianshouVectorEnv
from reelrl.envs.scoring import RewardError
from reelrl.envs.wrappers import VectorPromptGroups

T = 4


@pytest.fixture
def make_venv(make_batch):
    def make(num_envs=3, weights=None, mask_failed=False, **changes):
        native = make_batch(num_envs, autoreset_mode="Disabled", **changes)
        return TianshouVectorEnv(native, weights, mask_failed=mask_failed)

    return make


class Halving(Policy):
    """A policy that denoises towards zero."""

    def __init__(self, venv):
        space = venv.get_env_attr("action_space")[0]
        super().__init__(space, action_bound_method=None)

    def forward(self, batch, state=None):
        return Batch(act=0.5 * batch.obs.latent, dist=None, state=None)


def test_it_does_what_tianshou_does_to_single_environments(make_single, make_venv):
    theirs = DummyVectorEnv([lambda: make_single(scalar_weights=[1 / 3] * 3)] * 3)
    ours = make_venv(3)
    assert isinstance(ours, BaseVectorEnv) and len(ours) == len(theirs)
    ours.seed(11)
    one, their_info = theirs.reset(seed=11)
    other, info = ours.reset()
    # Their workers all take the seed they are given; ours count up from it.
    assert all((one[0][key] == other[0][key]).all() for key in one[0])
    for step in range(T):
        actions = np.random.default_rng(step).normal(size=(3, *other[0]["latent"].shape))
        actions = actions.astype(np.float32)
        one, their_rewards, their_ends, _, their_info = theirs.step(actions)
        other, rewards, ends, cuts, info = ours.step(actions)
        assert (ends == their_ends).all() and not cuts.any()
        assert rewards.shape == their_rewards.shape
        assert {row["env_id"] for row in info} == {row["env_id"] for row in their_info}
        assert rewards[0] == pytest.approx(their_rewards[0], abs=1e-6) or step == T - 1
    assert (info[0]["vector_reward"] != 0).any()


def test_the_collector_fills_a_buffer(make_venv):
    venv = make_venv(3, weights=[1.0, 2.0, 0.0])
    buffer = VectorReplayBuffer(T * 6, 3)
    stats = Collector(Halving(venv), venv, buffer).collect(n_episode=6, reset_before_collect=True)
    assert stats.n_collected_steps == T * 6 and stats.lens.tolist() == [T] * 6
    batch, _ = buffer.sample(0)
    done = batch.terminated
    assert done.sum() == 6 and batch.info.vector_reward.shape == (T * 6, 3)
    np.testing.assert_allclose(
        batch.rew, batch.info.vector_reward @ np.array([1.0, 2.0, 0.0]), atol=1e-6
    )
    assert (batch.info.prompt_id == batch.obs.prompt_id.ravel()).all()
    assert (batch.obs.sigma[1:][~done[:-1]] == batch.obs_next.sigma[:-1][~done[:-1]]).all()
    assert set(batch.info.get_keys()) == {"env_id", "prompt_id", "vector_reward", "reward_valid"}
    assert venv.infos[0]["video"].shape == (5, 8, 8, 3)


def test_the_collector_takes_steps_too(make_venv):
    venv = make_venv(2, flat=True)

    class Flat(Halving):
        def forward(self, batch, state=None):
            return Batch(act=0.5 * batch.obs[:, : self.action_space.shape[0]])

    stats = Collector(Flat(venv), venv, VectorReplayBuffer(20, 2)).collect(
        n_step=10, reset_before_collect=True
    )
    assert stats.n_collected_steps == 10 and stats.n_collected_episodes == 2


def test_prompts_by_groups(make_batch):
    native = VectorPromptGroups(make_batch(6, autoreset_mode="Disabled"), 3)
    venv = TianshouVectorEnv(native)
    buffer = VectorReplayBuffer(T * 12, 6)
    Collector(Halving(venv), venv, buffer).collect(
        n_episode=12, reset_before_collect=True, gym_reset_kwargs={"seed": 3}
    )
    batch, _ = buffer.sample(0)
    ids = batch.info.prompt_id[batch.terminated].reshape(6, 2)
    for group in (ids[:3], ids[3:]):
        assert (group == group[0]).all()
    assert (ids[0] != ids[3]).all()


def test_part_of_a_batch_is_reset_but_not_stepped(make_venv):
    venv = make_venv(3)
    obs, _ = venv.reset(seed=0)
    again, infos = venv.reset(env_id=[1], options={"prompt_id": 2})
    assert again.shape == (1,) and again[0]["prompt_id"] == 2 and infos[0]["env_id"] == 1
    everything = np.zeros((3, *obs[0]["latent"].shape), np.float32)
    with pytest.raises(ValueError, match="collect a multiple of 3 episodes"):
        venv.step(everything[:2], id=[0, 1])
    with pytest.raises(ValueError, match="unknown reset arguments"):
        venv.reset(sede=1)
    with pytest.raises(ValueError, match="collect a multiple"):
        Collector(Halving(venv), venv, VectorReplayBuffer(30, 3)).collect(
            n_episode=4, reset_before_collect=True
        )


def test_seeds(make_venv):
    venv = make_venv(2)
    assert venv.seed(3) == [[3], [4]]
    first, _ = venv.reset()
    untouched, _ = venv.reset()
    assert (first[1]["latent"] == untouched[1]["latent"]).all()
    venv.step(np.stack([0.5 * row["latent"] for row in first]))
    second, _ = venv.reset()
    third, _ = venv.reset(seed=[3, 4])
    assert (first[1]["latent"] == third[1]["latent"]).all()
    assert (first[1]["latent"] != second[1]["latent"]).any()


def test_attributes(make_venv):
    venv = make_venv(2)
    assert venv.action_space == venv.get_env_attr("action_space")
    assert venv.get_env_attr("num_steps", id=0) == [T]
    assert len(venv.observation_space) == 2 and venv.facts.names[0] == "brightness"
    with pytest.raises(ValueError, match="without id"):
        venv.set_env_attr("clean_estimate", None, id=0)
    venv.close()
    with pytest.raises(AssertionError, match="after close"):
        venv.reset()


def test_a_failed_reward_is_an_error_or_masked_and_never_nan(make_venv, reward_types):
    class Broken(reward_types["contrast"]):
        name = "broken"

        def score(self, videos, prompts, infos):
            return videos.flatten(1).mean(dim=1) * float("nan")

    rewards = [reward_types["brightness"](), Broken()]

    def play(venv):
        obs, _ = venv.reset()
        for _ in range(T):
            result = venv.step(np.stack([row["latent"] for row in obs]))
        return result

    with (
        pytest.warns(UserWarning, match="could not score"),
        pytest.raises(RewardError, match=r"broken could not be scored.*mask_failed"),
    ):
        play(make_venv(2, rewards=rewards))
    with pytest.warns(UserWarning, match="could not score"):
        _, numbers, _, _, infos = play(make_venv(2, rewards=rewards, mask_failed=True))
    assert (numbers == 0).all()
    assert infos[0]["reward_valid"].tolist() == [True, False]
    assert infos[0]["vector_reward"][0] > 0 and infos[0]["vector_reward"][1] == 0


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_only_the_disabled_mode(make_batch, mode):
    with pytest.raises(ValueError, match="autoreset_mode"):
        TianshouVectorEnv(make_batch(2, autoreset_mode=mode))


def test_rendering(make_venv):
    venv = make_venv(2, render_mode="rgb_array")
    venv.reset()
    assert len(venv.render()) == 2 and venv.render()[0].ndim == 3
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert make_venv(2).render() == [None, None]


@pytest.mark.parametrize("group_size", [2, 8])
def test_a_collector_plays_every_group_whole_and_in_order(make_batch, group_size):
    """Its resets, of finished rows and then of all, neither cut a group nor skip one."""

    def grouped():
        return VectorPromptGroups(make_batch(4, autoreset_mode="Disabled"), group_size)

    venv = TianshouVectorEnv(grouped())
    buffer = VectorReplayBuffer(8 * (T + 1), 4)
    collector = Collector(Halving(venv), venv, buffer)
    collector.reset()
    played = []
    for _ in range(3):
        collector.collect(n_episode=8)
        batch, _ = buffer.sample(0)
        # The buffer holds them row by row; they were begun round by round.
        played += batch.info["prompt_id"][batch.done].reshape(4, 2).T.flatten().tolist()
        collector.reset_buffer()
    for start in range(0, len(played), group_size):
        assert len(set(played[start : start + group_size])) == 1, played
    # The prompts are those that the wrapper deals by itself, none left out.
    envs = grouped()
    dealt = []
    for _ in range(6):
        envs.reset()
        dealt += envs.unwrapped.state.prompt_id.tolist()
    assert sorted(played) == sorted(dealt)
