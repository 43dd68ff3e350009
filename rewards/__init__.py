"""What a clip is worth: reward components, their registry, and the MovingShapes world.

Importing it registers every component and loads no library of models: those that need weights load
them when they are built.
"""

from reelrl.rewards import (
    ensemble,
    group,
    image,
    jpeg,
    judges,
    motion,
    movement,
    pixel,
    soli,
    transforms,
    uncertainty,
    vlm,
)
from reelrl.rewards import moving_shapes as moving_shapes
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
    "ensemble",
    "group",
    "image",
    "jpeg",
    "judges",
    "list_rewards",
    "make_reward",
    "motion",
    "movement",
    "pixel",
    "register_reward",
    "reward_class",
    "soli",
    "transforms",
    "uncertainty",
    "vlm",
]
