"""An environment as plain values, and made again from them."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest

from reelrl.envs.rebuild import describe_env, rebuild_env
from reelrl.rewards import make_reward

ARGUMENTS = {"num_steps": 3, "shift": 2.0, "output": "torch", "autoreset_mode": "Disabled"}


@pytest.mark.parametrize(("clips", "batch"), [(6, 6), (12, 6), (4, 2), (9, 3), (5, 1), (2, 2)])
def test_the_batch_is_the_largest_that_divides_clips_and_the_batch_there_was(clips, batch):
    env = gym.make_vec("reelrl/MovingShapes-v0", num_envs=6, **ARGUMENTS)
    described = json.loads(json.dumps(describe_env(env)))
    assert described.keys() == {"id", "kwargs"}
    assert {"num_envs": 6, "model": "nano", **ARGUMENTS}.items() <= described["kwargs"].items()
    assert "vectorization_mode" not in described["kwargs"]
    again = rebuild_env(described, clips)
    assert again.unwrapped.num_envs == batch
    assert again.unwrapped.num_steps == 3 and again.unwrapped.shift == 2.0
    assert again.unwrapped.output == "torch"
    assert again.unwrapped.autoreset_mode is gym.vector.AutoresetMode.DISABLED
    assert rebuild_env(describe_env(again), clips).unwrapped.num_envs == batch


def test_what_is_no_plain_value_cannot_be_described():
    rewards = [make_reward("proxy_ta")]
    env = gym.make_vec("reelrl/MovingShapes-v0", num_envs=2, rewards=rewards, **ARGUMENTS)
    assert describe_env(env) is None
    with pytest.raises(ValueError, match="cannot be made from plain arguments: pass env="):
        rebuild_env(None, 4)


def test_the_schedule_is_the_one_there_was_whatever_the_models_own_is_today():
    described = describe_env(gym.make_vec("reelrl/MovingShapes-v0", num_envs=2, num_steps=3))
    assert rebuild_env(described, 2).unwrapped.shift == 3.0
    assert rebuild_env(described, 2, shift=5.0).unwrapped.shift == 5.0
