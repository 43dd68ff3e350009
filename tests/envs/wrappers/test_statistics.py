"""Returns add up over an episode, in every mode, for arrays, tensors, numbers and vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from reelrl.envs.wrappers import VectorRecordEpisodeStatistics

MODES = ["NextStep", "SameStep", "Disabled"]


def walk(envs, steps, seed=0):
    """Episode infos of some steps with the same actions."""
    rng = np.random.default_rng(seed)
    envs.reset(seed=seed)
    found = []
    for _ in range(steps):
        actions = rng.normal(size=envs.action_space.shape).astype(np.float32)
        torch_path = envs.unwrapped.output == "torch"
        infos = envs.step(torch.from_numpy(actions) if torch_path else actions)[-1]
        found.append((infos.get("episode"), infos.get("_episode")))
    return found


def test_numbers_are_counted_as_gymnasium_counts_them(make_batch):
    """In its default mode: in "SameStep" Gymnasium's lengths are one short from the second on."""
    arguments = {"num_steps": 2, "scalar_weights": [1, 1, 1]}
    own = walk(VectorRecordEpisodeStatistics(make_batch(3, **arguments)), 7)
    other = walk(RecordEpisodeStatistics(make_batch(3, **arguments)), 7)
    assert [mask is None for _, mask in own] == [mask is None for _, mask in other]
    for (mine, mask), (theirs, their_mask) in zip(own, other, strict=True):
        if mask is not None:
            assert (mask == their_mask).all() and (mine["l"] == theirs["l"]).all()
            np.testing.assert_allclose(mine["r"], theirs["r"], rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_vectors_and_tensors(make_batch, mode, output):
    envs = make_batch(3, autoreset_mode=mode, num_steps=2, output=output)
    envs = VectorRecordEpisodeStatistics(envs)
    obs, _ = envs.reset(seed=0)
    envs.step(obs["latent"])
    obs, rewards, *_, infos = envs.step(obs["latent"])
    assert (infos["episode"]["r"] == rewards).all() and infos["_episode"].all()
    assert infos["episode"]["r"].shape == (3, 3) and infos["episode"]["l"].tolist() == [2, 2, 2]
    assert isinstance(infos["episode"]["r"], torch.Tensor if output == "torch" else np.ndarray)
    assert (infos["episode"]["t"] > 0).all()


def test_a_reset_of_some_leaves_the_others_returns(make_batch):
    envs = make_batch(2, autoreset_mode="Disabled", num_steps=3)
    envs = VectorRecordEpisodeStatistics(envs)
    obs, _ = envs.reset(seed=0)
    envs.step(obs["latent"])
    obs, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(2):
        obs, *_, infos = envs.step(obs["latent"])
    assert infos["_episode"].tolist() == [False, True]
    assert infos["episode"]["l"].tolist() == [0, 3]


def test_attributes_that_libraries_read_from_the_outermost_wrapper(make_batch):
    envs = VectorRecordEpisodeStatistics(make_batch(2, autoreset_mode="Disabled"))
    assert envs.autoreset_mode is envs.unwrapped.autoreset_mode
    assert envs.reward_space == envs.unwrapped.reward_space
