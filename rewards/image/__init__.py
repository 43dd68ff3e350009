"""Rewards of learned image models, frame by frame.

Importing the package registers them; transformers and torchvision are imported when one is built.
"""

from reelrl.rewards.image import aesthetic, clip, consistency, hpsv2, raft
from reelrl.rewards.image.frames import FrameReward

__all__ = ["FrameReward", "aesthetic", "clip", "consistency", "hpsv2", "raft"]
