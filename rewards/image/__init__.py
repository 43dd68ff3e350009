"""Rewards of learned image models, frame by frame.

Importing the package registers them; transformers and torchvision are imported when one is built.
"""

from reelrl.rewards.image import (
    adversarial,
    aesthetic,
    artifact,
    clip,
    consistency,
    hpsv2,
    image_reward,
    raft,
)
from reelrl.rewards.image.frames import FrameReward

__all__ = [
    "FrameReward",
    "adversarial",
    "aesthetic",
    "artifact",
    "clip",
    "consistency",
    "hpsv2",
    "image_reward",
    "raft",
]
