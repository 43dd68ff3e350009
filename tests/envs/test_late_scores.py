"""The batched environment's option late_scores, and the groups that episodes are told of."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import reelrl  # noqa: F401  (registers the ids)
from reelrl.envs.scoring import Scores
from reelrl.rewards import Reward
from reelrl.rewards.asynchronous import AsyncReward

STEPS = 2


class Noted(Reward):
    """Mean pixel; remembers the infos it was given."""

    name, bounds = "noted", (0.0, 1.0)

    def __init__(self):
        self.infos = []

    def score(self, videos, prompts, infos):
        self.infos += [dict(info) for info in infos]
        return videos.flatten(1).mean(dim=1)


class Second(Noted):
    name = "second"


def make(rewards, **changes):
    arguments = {"rewards": rewards, "num_steps": STEPS, "autoreset_mode": "Disabled", **changes}
    return gym.make_vec("reelrl/MovingShapes-v0", num_envs=4, **arguments)


def play(env, **options):
    obs, infos = env.reset(seed=0, options=options)
    started = infos
    for _ in range(STEPS):
        obs, rewards, _, _, infos = env.step(0.5 * obs["latent"])
    return rewards, infos, started


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_late_scores_are_missing_from_the_step_and_in_what_it_hands_out(output):
    waited, infos, _ = play(make([AsyncReward(Noted()), Second()], output=output))
    assert "scores" not in infos
    env = make([AsyncReward(Noted()), Second()], output=output)
    rewards, infos, _ = play(env, late_scores=True)
    assert isinstance(infos["scores"], Scores)
    rewards, waited = torch.as_tensor(rewards), torch.as_tensor(waited)
    assert rewards[:, 0].isnan().all() and not torch.as_tensor(infos["reward_valid"])[:, 0].any()
    assert torch.equal(rewards[:, 1], waited[:, 1])
    values, valid = infos["scores"].result()
    assert torch.equal(values, waited) and valid.all()
    # The option holds for the episodes that the reset began, not for those after them.
    assert "scores" not in play(env)[1]


@pytest.mark.parametrize("late", [1, "yes", None])
def test_late_scores_is_yes_or_no(late):
    with pytest.raises(ValueError, match=f"late_scores must be True or False, got {late!r}"):
        make([Noted()]).reset(options={"late_scores": late})


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_late_scores_are_refused_where_new_episodes_begin_by_themselves(mode):
    with pytest.raises(ValueError, match=r"late_scores needs .*'Disabled', got '\w+'"):
        make([Noted()], autoreset_mode=mode).reset(options={"late_scores": True})


def test_rewards_and_infos_are_told_the_group():
    reward = Noted()
    groups = [7, 7, 2, 2]
    _, infos, started = play(make([reward]), prompt_id=[0, 0, 0, 0], group_id=groups)
    assert started["group_id"].tolist() == infos["group_id"].tolist() == groups
    assert [info["group_id"] for info in reward.infos] == groups
    assert [info["prompt_id"] for info in reward.infos] == [0, 0, 0, 0]


def test_untold_the_group_is_the_prompt():
    reward = Noted()
    _, infos, _ = play(make([reward]), prompt_id=[3, 1, 3, 1])
    assert infos["group_id"].tolist() == [3, 1, 3, 1]
    assert [info["group_id"] for info in reward.infos] == [3, 1, 3, 1]


def test_the_single_environment_tells_the_group_too():
    reward = Noted()
    env = gym.make("reelrl/MovingShapes-v0", rewards=[reward], num_steps=1)
    obs, info = env.reset(options={"prompt_id": 1, "group_id": 5})
    assert info["group_id"] == 5
    *_, info = env.step(0.5 * obs["latent"])
    assert info["group_id"] == 5 and reward.infos[0]["group_id"] == 5


def test_a_partial_reset_changes_the_groups_of_those_alone():
    env = make([Noted()])
    env.reset(seed=0, options={"group_id": [1, 1, 2, 2]})
    mask = np.array([True, False, False, True])
    env.reset(options={"reset_mask": mask, "group_id": [8, 8, 9, 9]})
    assert env.unwrapped.state.group_id.tolist() == [8, 1, 2, 9]


def test_prompt_groups_number_their_groups_on_over_resets():
    from reelrl.envs.wrappers import VectorPromptGroups

    reward = Noted()
    env = VectorPromptGroups(make([reward], prompts=["a red circle moving right"]), 2)
    for expected in ([0, 0, 1, 1], [2, 2, 3, 3]):
        _, infos, _ = play_on(env)
        # One prompt in every group: only the number tells them apart.
        assert infos["prompt_id"].tolist() == [0] * 4
        assert infos["group_id"].tolist() == expected
    env.reset(seed=1)
    assert env.unwrapped.state.group_id.tolist() == [0, 0, 1, 1]


def play_on(env):
    obs, started = env.reset()
    for _ in range(STEPS):
        obs, rewards, _, _, infos = env.step(0.5 * obs["latent"])
    return rewards, infos, started


def test_episodes_that_go_on_keep_what_was_asked_for_them():
    env = make([AsyncReward(Noted())])
    env.reset(seed=0, options={"late_scores": True})
    mask = np.array([True, True, False, False])
    obs, _ = env.reset(options={"reset_mask": mask})
    for _ in range(STEPS):
        obs, _, _, _, infos = env.step(0.5 * obs["latent"])
    assert "scores" in infos


def test_groups_of_a_partial_reset_have_numbers_that_nobody_else_has():
    from reelrl.envs.wrappers import VectorPromptGroups

    env = VectorPromptGroups(make(["pairwise_distance"]), 2)
    env.reset(seed=0)  # groups 0 and 1
    mask = np.array([True, True, False, False])
    env.reset(options={"reset_mask": mask, "prompt_id": [1, 1, 0, 0]})
    assert env.unwrapped.state.group_id.tolist() == [2, 2, 1, 1]
    env.reset(seed=5, options={"reset_mask": mask})
    assert env.unwrapped.state.group_id.tolist() == [3, 3, 1, 1]
    env.reset(seed=0, options={"group_id": None, "prompt_id": [4, 7, 4, 7]})
    assert env.unwrapped.state.group_id.tolist() == [0, 1, 0, 1]
