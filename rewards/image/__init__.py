"""Rewards of learned image models, frame by frame.

``transformers`` and ``torchvision`` are imported when a component is built.
"""

from reelrl.rewards.image.frames import FrameReward

__all__ = ["FrameReward"]
