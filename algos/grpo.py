"""GRPO by its public name: the trainer with the learner ``policy_gradient``."""

from reelrl.algos.config import GRPOConfig
from reelrl.algos.trainer import GRPO

__all__ = ["GRPO", "GRPOConfig"]
