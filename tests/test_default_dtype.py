"""Nothing that is computed depends on the default dtype of torch, which a notebook may have set."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import reelrl  # noqa: F401  (registers the ids)
from reelrl.algos.advantages import advantages
from reelrl.algos.run.runlog import read_metrics
from reelrl.rewards import make_reward
from reelrl.zoo.train import train

REWARDS = (
    "gold", "gold_align", "gold_phys", "gold_fid", "proxy_vq", "proxy_mq", "proxy_ta", "coin",
    "dynamic_degree", "flow_warp_error", "temporal_flicker", "pairwise_distance",
)  # fmt: skip
ESTIMATORS = ("grpo", "gdpo", "rloo", "dr_grpo", "dancegrpo", "global_std", "adv_min_norm")
TINY = (
    "learner.prompts_per_iteration=2", "learner.group_size=2", "env_args.num_steps=2",
    "learner.rollout.last_step=0", "evaluation.clips=1",
)  # fmt: skip


def both(make):
    """What a function returns under float32 and under float64."""
    before, found = torch.get_default_dtype(), []
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            found.append(make())
    finally:
        torch.set_default_dtype(before)
    return found


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        one, other = (np.asarray(v) for v in (value, second[name]))
        assert one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True), name


@pytest.mark.parametrize("id", ["reelrl/MovingShapesEarly-v0", "reelrl/MovingShapesFlat-v0"])
def test_an_episode(id):
    def play():
        env = gym.make_vec(id, num_envs=2, num_steps=2)
        first, _ = env.reset(seed=0)
        assert env.observation_space.contains(first)
        action = np.zeros(env.action_space.shape, np.float32)
        env.step(action)
        last, rewards, *_, infos = env.step(action)
        seen = {"first": first, "last": last} if isinstance(first, np.ndarray) else {**first}
        return seen | {"rewards": rewards, "video": infos["video"]}

    assert_same(*both(play))


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward(name):
    videos = torch.rand(4, 9, 32, 32, 3, dtype=torch.float32, generator=torch.manual_seed(0))

    def score():
        prompts = ["a red circle moving right"] * 4
        output = make_reward(name)(
            videos, prompts, [{"prompt_id": 0, "noise_seed": i} for i in range(4)]
        )
        return {"values": output.values, "valid": output.valid}

    assert_same(*both(score))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator(name, dtype):
    rewards = torch.rand(8, 3, dtype=dtype, generator=torch.manual_seed(0))
    groups = [0, 0, 0, 0, 1, 1, 1, 1]
    assert_same(*both(lambda: {"advantages": advantages(rewards, groups, name)}))


def test_a_training(tmp_path):
    def run():
        folder = tmp_path / str(torch.get_default_dtype())
        train(settings=TINY, iterations=2, out=folder, progress=False)
        rows = read_metrics(folder)
        return {
            f"{row['iteration']}/{name}": np.nan if value is None else value
            for row in rows
            for name, value in row.items()
            if not name.startswith("time/")
        }

    assert_same(*both(run))
