"""Wrappers of the denoising environment, each with a twin for the batch."""

from reelrl.envs.wrappers.action import (
    GuidanceAction,
    VectorGuidanceAction,
    VectorVelocityAction,
    VelocityAction,
)
from reelrl.envs.wrappers.groups import VectorPromptGroups
from reelrl.envs.wrappers.reward import AddReward, VectorAddReward
from reelrl.envs.wrappers.scalar import ScalarReward, VectorScalarReward
from reelrl.envs.wrappers.statistics import VectorRecordEpisodeStatistics

__all__ = [
    "AddReward",
    "GuidanceAction",
    "ScalarReward",
    "VectorAddReward",
    "VectorGuidanceAction",
    "VectorPromptGroups",
    "VectorRecordEpisodeStatistics",
    "VectorScalarReward",
    "VectorVelocityAction",
    "VelocityAction",
]
