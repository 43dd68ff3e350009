"""The registered ids: what they are, what importing costs, and that their specs are data."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

IDS = ("MovingShapes", "MovingShapesEarly", "MovingShapesGold", "MovingShapesFlat")
PROXIES = ["proxy_vq", "proxy_mq", "proxy_ta"]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_reelrl_loads_neither_torch_nor_diffusers():
    code = (
        "import sys, reelrl; print([m for m in ('torch', 'diffusers', 'transformers', 'tianshou', "
        "'stable_baselines3', 'matplotlib') if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_ids_work_without_importing_anything_first():
    code = (
        "import gymnasium as gym\n"
        "env = gym.make('reelrl:reelrl/MovingShapes-v0')\n"
        "envs = gym.make_vec('reelrl:reelrl/MovingShapesFlat-v0', num_envs=2)\n"
        "print(env.reset(seed=0)[0]['latent'].shape, envs.reset(seed=0)[0].shape)\n"
        "import sys; print('diffusers' in sys.modules)"
    )
    assert run(code).splitlines() == ["(8, 5, 8, 8) (2, 2562)", "False"]


@pytest.mark.parametrize("name", IDS)
def test_what_the_ids_are(name):
    env = gym.make(f"reelrl:reelrl/{name}-v0")
    gold = ["gold_align", "gold_phys", "gold_fid"]
    assert env.unwrapped.reward_names == (gold if name.endswith("Gold") else PROXIES)
    assert env.unwrapped.model.name == ("nano-early" if name.endswith("Early") else "nano")
    assert len(env.unwrapped.prompts) == 192
    assert env.unwrapped.num_steps == 10
    assert (len(env.action_space.shape) == 1) == name.endswith("Flat")


@pytest.mark.parametrize("name", IDS)
def test_specs_round_trip_through_json(name):
    rewards = [{"name": "proxy_vq", "hackability": 0.5}, "gold"]
    env = gym.make(f"reelrl:reelrl/{name}-v0", num_steps=2, rewards=rewards)
    spec = EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec)
    assert again.spec == env.spec
    assert again.unwrapped.reward_names == ["proxy_vq", "gold"]
    assert again.observation_space == env.observation_space
    one, _ = env.reset(seed=3)
    other, _ = again.reset(seed=3)
    for first, second in zip(leaves(one), leaves(other), strict=True):
        assert (first == second).all()


def leaves(observation):
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def test_text_to_video_asks_for_its_three_arguments():
    with pytest.raises(ValueError, match="needs model=, prompts=, rewards="):
        gym.make("reelrl:reelrl/TextToVideo-v0")


def test_the_flat_observation_is_the_structured_one_in_order(make_single):
    flat, structured = make_single(flat=True), make_single()
    vector, _ = flat.reset(seed=1)
    seen, _ = structured.reset(seed=1)
    again = gym.spaces.unflatten(structured.observation_space, vector)
    for key, value in seen.items():
        np.testing.assert_array_equal(again[key], value)
    action = structured.action_space.sample()
    one, other = flat.step(action.ravel()), structured.step(action)
    assert (gym.spaces.unflatten(structured.observation_space, one[0])["latent"] == action).all()
    assert (one[1] == other[1]).all()
