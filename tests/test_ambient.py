"""Settings of torch that surround a call change nothing: the same seed is the same clip."""

from __future__ import annotations

from contextlib import contextmanager

import gymnasium as gym
import numpy as np
import pytest
import torch

import reelrl  # noqa: F401  (registers the ids)
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.policies import FlowPolicy
from reelrl.ambient import own_settings, undisturbed


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


def trained(estimator):
    """Weights after two iterations, and the observation and reward of an environment of arrays."""
    env = gym.make_vec(
        "reelrl/MovingShapesEarly-v0", num_envs=4, num_steps=2, output="torch",
        autoreset_mode="Disabled", rewards=["gold", "proxy_vq", "proxy_mq"],
    )  # fmt: skip
    config = GRPOConfig(prompts_per_iteration=1, group_size=4, learning_rate=1e-3)
    learner = GRPO(env, FlowPolicy(env.unwrapped.model), estimator, config)
    learner.learn(2)
    single = gym.make("reelrl/MovingShapes-v0", num_steps=1)
    seen, _ = single.reset(seed=5)
    reward = single.step(0.5 * seen["latent"])[1]
    assert seen["latent"].dtype == np.float32 and seen in single.observation_space
    return learner.policy.state_dict(), torch.from_numpy(seen["latent"]), torch.from_numpy(reward)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["grpo", "gdpo", "taros"])
def test_a_run_is_the_same_whatever_surrounds_it(estimator):
    weights, latent, reward = trained(estimator)
    for name, surrounding in SURROUNDINGS.items():
        with surrounding():
            found, seen, paid = trained(estimator)
        assert torch.equal(seen, latent) and torch.equal(paid, reward), name
        assert all(torch.equal(found[key], weight) for key, weight in weights.items()), name


def test_own_settings_are_torchs_own_and_end():
    @undisturbed
    def inside():
        made = torch.ones(2, dtype=torch.float32, requires_grad=False)
        return made.device.type, torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()

    with default_device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.inference_mode():
            assert inside() == ("cpu", False, False)
            assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu") and torch.get_default_device().type == "meta"


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("wanted", [False, True])
def test_gradients_stay_as_they_were_unless_they_are_needed(surrounding, wanted):
    with surrounding():
        before = torch.is_grad_enabled()
        with own_settings(gradients=wanted):
            assert torch.is_grad_enabled() == (before or wanted)
        assert torch.is_grad_enabled() == before
