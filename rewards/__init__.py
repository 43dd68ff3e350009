"""Scores for clips: reward components, their registry, and the MovingShapes world.

Each module of this package and of its sub-packages is found by itself when a component is first
asked for by name. None of them loads a library of models: components that need weights load it when
they are built.
"""

from reelrl.rewards.adaptive import AdaptiveReward
from reelrl.rewards.base import (
    Reward,
    RewardOutput,
    list_rewards,
    make_reward,
    register_reward,
    reward_class,
)
from reelrl.rewards.group import GroupReward

__all__ = [
    "AdaptiveReward",
    "GroupReward",
    "Reward",
    "RewardOutput",
    "list_rewards",
    "make_reward",
    "register_reward",
    "reward_class",
]
