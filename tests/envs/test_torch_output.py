"""Tensors in, tensors out, and no value copied to the host on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reelrl.envs.wrappers import VectorGuidanceAction, VectorVelocityAction

FORBIDDEN = ("cpu", "numpy", "item", "tolist", "__array__")


@pytest.fixture
def no_host_copies(monkeypatch):
    def forbid():
        for name in FORBIDDEN:

            def refuse(self, *args, name=name, **kwargs):
                raise AssertionError(f"Tensor.{name}() during a step")

            monkeypatch.setattr(torch.Tensor, name, refuse)

    return forbid


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("wrapper", [None, VectorVelocityAction, VectorGuidanceAction])
def test_nothing_is_copied_to_the_host_during_steps(make_batch, no_host_copies, mode, wrapper):
    envs = make_batch(3, output="torch", autoreset_mode=mode, rewards=no_host_rewards())
    envs = envs if wrapper is None else wrapper(envs)
    envs.reset(seed=0)
    actions = torch.zeros(envs.action_space.shape)
    no_host_copies()
    for _ in range(4 if mode == "Disabled" else 9):
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        for value in (*observations.values(), rewards, terminated, truncated):
            assert isinstance(value, torch.Tensor)
    assert infos is not None


def no_host_rewards():
    from reelrl.rewards import Reward

    class Mean(Reward):
        name = "mean"
        bounds = (0.0, 1.0)

        def score(self, videos, prompts, infos):
            return videos.flatten(1).mean(dim=1)

    return [Mean()]


def test_the_single_environment_too(make_single, no_host_copies):
    env = make_single(output="torch", rewards=no_host_rewards())
    env.reset(seed=0)
    no_host_copies()
    for step in range(4):
        observation, reward, terminated, truncated, info = env.step(torch.zeros(2, 3, 2, 2))
        assert (terminated, truncated) == (step == 3, False)
        assert isinstance(reward, torch.Tensor)
        assert isinstance(observation["sigma"], torch.Tensor)
    assert info["video"].dtype == torch.uint8


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("flat", [False, True])
def test_the_values_are_those_of_the_numpy_output(make_batch, mode, flat):
    numpy_envs = make_batch(3, autoreset_mode=mode, flat=flat)
    torch_envs = make_batch(3, autoreset_mode=mode, flat=flat, output="torch")
    same(numpy_envs.reset(seed=4), torch_envs.reset(seed=4))
    for _ in range(4 if mode == "Disabled" else 10):
        actions = numpy_envs.action_space.sample()
        same(numpy_envs.step(actions), torch_envs.step(torch.from_numpy(actions)))


def same(one, other):
    """Equal values, array against tensor; object arrays of observations against batched ones."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, tuple):
        for first, second in zip(one, other, strict=True):
            same(first, second)
    elif one.dtype == object:
        for i, row in enumerate(one):
            if row is not None:
                batched = isinstance(other, dict)
                same(row, {k: v[i] for k, v in other.items()} if batched else other[i])
    else:
        assert isinstance(other, torch.Tensor)
        np.testing.assert_array_equal(one, other.numpy())


def test_the_observation_is_the_action_by_reference(make_batch):
    envs = make_batch(2, output="torch")
    envs.reset(seed=0)
    actions = torch.zeros(envs.action_space.shape)
    assert envs.step(actions)[0]["latent"].data_ptr() == actions.data_ptr()


def test_actions_carry_no_gradient_into_the_environment(make_batch):
    envs = make_batch(2, output="torch", num_steps=1)
    envs.reset(seed=0)
    actions = torch.zeros(envs.action_space.shape, requires_grad=True)
    observations, rewards, *_ = envs.step(actions)
    assert not observations["latent"].requires_grad
    assert not rewards.requires_grad


def test_arrays_are_taken_too_and_masks_may_be_tensors(make_batch):
    envs = make_batch(2, output="torch", autoreset_mode="Disabled", num_steps=1)
    envs.reset(seed=0, options={"prompt_id": torch.tensor([1, 2])})
    _, _, terminated, _, infos = envs.step(np.zeros(envs.action_space.shape, np.float32))
    assert infos["prompt_id"].tolist() == [1, 2]
    observations, _ = envs.reset(options={"reset_mask": terminated})
    assert (observations["sigma"] == 1).all()


def test_numpy_output_shares_no_memory_with_the_environment(make_batch):
    envs = make_batch(2)
    observations, _ = envs.reset(seed=0)
    before = envs.unwrapped.state.latent.clone()
    observations["latent"][:] = 0
    assert (envs.unwrapped.state.latent == before).all()
    actions = np.zeros(envs.action_space.shape, np.float32)
    envs.step(actions)
    actions[:] = 7
    assert (envs.unwrapped.state.latent == 0).all()
    tensor = torch.zeros(envs.action_space.shape)
    envs.step(tensor)
    tensor += 7
    assert (envs.unwrapped.state.latent == 0).all()
