"""The batched environment against the single one, and against Gymnasium's own batching."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reelrl.rewards import Reward

MODES = ["NextStep", "SameStep", "Disabled"]
WEIGHTS = [1.0, 0.5, 2.0]


@pytest.mark.parametrize("variant", [{}, {"observe_embedding": True}, {"flat": True}], ids=str)
def test_sub_env_i_is_the_single_env_seeded_seed_plus_i(make_single, make_batch, variant):
    envs = make_batch(3, autoreset_mode="Disabled", **variant)
    singles = [make_single(**variant) for _ in range(3)]
    for episode in range(2):
        seed = 11 if episode == 0 else None
        batch, infos = envs.reset(seed=seed)
        for i, env in enumerate(singles):
            alone, info = env.reset(seed=None if seed is None else seed + i)
            assert data_equivalence(row(batch, i), alone, exact=True)
            assert infos["prompt_id"][i] == info["prompt_id"]
            assert infos["noise_seed"][i] == info["noise_seed"]
        for _ in range(4):
            actions = envs.action_space.sample()
            batch, rewards, terminated, _, infos = envs.step(actions)
            for i, env in enumerate(singles):
                alone, reward, done, _, info = env.step(actions[i])
                assert data_equivalence(row(batch, i), alone, exact=True)
                np.testing.assert_allclose(rewards[i], reward, atol=1e-5)
                assert terminated[i] == done
        for i in range(3):
            assert (infos["reward_valid"][i] == info["reward_valid"]).all()
        assert (infos["video"][2] == info["video"]).all()


def row(batch, i):
    return {key: value[i] for key, value in batch.items()} if isinstance(batch, dict) else batch[i]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", [WEIGHTS], ids=["scalar"])
def test_equals_gymnasiums_own_batch_of_single_envs(make_single, make_batch, mode, weights):
    make = partial(make_single, scalar_weights=weights)
    sync = SyncVectorEnv([make] * 3, autoreset_mode=AutoresetMode(mode))
    native = make_batch(3, scalar_weights=weights, autoreset_mode=mode)
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert data_equivalence(sync.reset(seed=3), native.reset(seed=3), exact=True)
    native.action_space.seed(0)
    mask = np.array([True, False, True])
    for step in range(10):
        actions = native.action_space.sample()
        one, other = sync.step(actions), native.step(actions)
        assert data_equivalence(one, other), f"step {step}"
        if mode == "Disabled" and other[2].any():
            done = other[2]
            one = sync.reset(options={"reset_mask": done.copy()})
            other = native.reset(options={"reset_mask": done})
            assert data_equivalence(one, other, exact=True)
        elif step == 1:
            one = sync.reset(options={"reset_mask": mask.copy()})
            other = native.reset(options={"reset_mask": mask})
            assert data_equivalence(one, other, exact=True)


def test_same_step_hands_out_the_final_observation_and_info(make_batch):
    envs = make_batch(2, autoreset_mode="SameStep", num_steps=1)
    envs.reset(seed=0)
    actions = envs.action_space.sample()
    observations, rewards, terminated, _, infos = envs.step(actions)
    assert terminated.all()
    assert (observations["sigma"] == 1).all()
    assert (rewards != 0).all()
    for i in range(2):
        assert infos["final_obs"][i]["sigma"] == 0
        assert (infos["final_obs"][i]["latent"] == actions[i]).all()
    assert infos["final_info"]["video"].shape == (2, 5, 8, 8, 3)
    assert "video" not in infos


def test_a_finished_sub_env_is_refused_in_disabled_mode(make_batch):
    envs = make_batch(3, autoreset_mode="Disabled", num_steps=2)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    envs.step(envs.action_space.sample())
    with pytest.raises(gym.error.ResetNeeded, match="sub-env 0, 2 has finished"):
        envs.step(envs.action_space.sample())
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    _, _, terminated, _, _ = envs.step(envs.action_space.sample())
    assert terminated.tolist() == [False, True, False]


def test_a_mask_resets_only_its_rows_and_leaves_the_callers_options_alone(make_batch):
    envs = make_batch(3, autoreset_mode="Disabled")
    envs.reset(seed=0)
    before = envs.step(envs.action_space.sample())[0]
    options = {"reset_mask": np.array([False, True, False]), "prompt_id": 2}
    after, infos = envs.reset(options=options)
    assert set(options) == {"reset_mask", "prompt_id"}
    assert after["sigma"].ravel().tolist()[1] == 1
    assert infos["_prompt_id"].tolist() == [False, True, False]
    assert after["prompt_id"][1] == 2
    for i in (0, 2):
        assert data_equivalence(row(before, i), row(after, i), exact=True)


@pytest.mark.parametrize("out_of_phase", [False, True])
def test_one_decode_and_one_call_per_reward_for_all_that_finish(
    make_batch, tiny_model, reward_types, out_of_phase
):
    counted = [reward_types["brightness"]()]
    envs = make_batch(8, model=tiny_model, rewards=counted, autoreset_mode="Disabled", num_steps=3)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    if out_of_phase:
        envs.reset(options={"reset_mask": np.arange(8) < 3})
    envs.step(envs.action_space.sample())
    assert (tiny_model.calls["decode"], counted[0].calls) == (0, 0)
    _, rewards, terminated, _, _ = envs.step(envs.action_space.sample())
    assert (tiny_model.calls["decode"], counted[0].calls) == (1, 1)
    assert terminated.sum() == (5 if out_of_phase else 8)
    assert ((rewards != 0).all(axis=1) == terminated).all()
    assert tiny_model.calls["velocity"] == 0


def test_a_noise_seed_fixes_the_initial_latent_and_nothing_else(make_batch):
    envs = make_batch(4)
    one, _ = envs.reset(seed=0, options={"noise_seed": 5})
    assert (one["latent"] == one["latent"][0]).all()
    free, _ = make_batch(4).reset(seed=0)
    assert (one["prompt_id"] == free["prompt_id"]).all()
    assert not (one["latent"] == free["latent"]).all(axis=(1, 2, 3, 4)).any()
    two, infos = make_batch(2).reset(seed=99, options={"noise_seed": [7, 5]})
    assert (two["latent"][1] == one["latent"][0]).all()
    assert infos["noise_seed"].tolist() == [7, 5]


def test_the_seeds_of_an_episode_are_its_own(make_batch):
    envs = make_batch(50)
    envs.reset(seed=0)
    state = envs.unwrapped.state
    assert len({*state.noise_seed.tolist(), *state.step_seed.tolist()}) == 100


def test_gymnasiums_own_batching_works_on_the_scalar_form():
    envs = gym.make_vec(
        "reelrl:reelrl/MovingShapes-v0",
        num_envs=2,
        vectorization_mode="sync",
        scalar_weights=[1, 1, 1],
    )
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[1].tolist() == [0, 0]


def test_a_group_shares_its_prompt(make_batch):
    envs = make_batch(4)
    observations, infos = envs.reset(seed=0, options={"prompt_id": [2, 2, 0, 0]})
    assert observations["prompt_id"].ravel().tolist() == [2, 2, 0, 0]
    assert infos["prompt_id"].tolist() == [2, 2, 0, 0]
    assert not (observations["latent"][0] == observations["latent"][1]).any()


def test_generators_go_on_where_no_seed_is_given(make_batch):
    envs = make_batch(2)
    first, _ = envs.reset(seed=[4, None])
    second, _ = envs.reset(seed=[4, None])
    assert (first["latent"][0] == second["latent"][0]).all()
    assert not (first["latent"][1] == second["latent"][1]).any()


def test_seeds_and_generators_are_listed_per_sub_env(make_batch):
    envs = make_batch(3)
    envs.reset(seed=4)
    assert envs.unwrapped.np_random_seed == (4, 5, 6)
    assert len(envs.unwrapped.np_random) == 3


def test_the_global_generator_is_left_alone(make_batch):
    import torch

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    envs = make_batch(2)
    envs.reset(seed=1)
    for _ in range(5):
        envs.step(envs.action_space.sample())
    assert (torch.rand(3) == expected).all()


def test_attributes_that_other_libraries_read(make_batch):
    envs = make_batch(2, autoreset_mode="Disabled")
    assert envs.unwrapped.autoreset_mode is AutoresetMode.DISABLED
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert type(envs.unwrapped).metadata.get("autoreset_mode") is None
    assert envs.unwrapped.reward_space.shape == (3,)
    assert envs.unwrapped.reward_dim == 3
    assert envs.unwrapped.prompts[2] == "bright"
    assert str(envs.unwrapped.device) == "cpu"


def test_score_equals_the_reward_of_the_episode(make_batch):
    envs = make_batch(3, num_steps=1)
    _, infos = envs.reset(seed=0)
    actions = envs.action_space.sample()
    _, rewards, *_ = envs.step(actions)
    scored = envs.unwrapped.score(actions, infos["prompt_id"])
    np.testing.assert_allclose(scored, rewards, atol=1e-6)
    assert scored.dtype == np.float32


class Watching(Reward):
    """Keeps what it is given."""

    name = "watching"
    bounds = (0.0, 1.0)

    def score(self, videos, prompts, infos):
        self.seen = videos.clone()
        return videos.flatten(1).mean(dim=1)


def test_t30_rewards_see_every_frame_as_the_vae_gave_it(make_single, make_batch):
    """Not the first frame, nothing rounded to 8 bits, no video file in between."""
    for make in (make_single, partial(make_batch, 2)):
        reward = Watching()
        env = make(rewards=[reward])
        env.reset(seed=0)
        for _ in range(4):
            obs, _, _, _, info = env.step(env.action_space.sample() / 4)
        latent = torch.as_tensor(obs["latent"])
        expected = env.unwrapped.model.decode(latent if latent.ndim == 5 else latent[None])
        assert reward.seen.dtype == torch.float32 and torch.equal(reward.seen, expected)
        assert not torch.equal(reward.seen * 255, (reward.seen * 255).round())
        assert info["video"].dtype == np.uint8 and len(reward.seen[0]) == 5
