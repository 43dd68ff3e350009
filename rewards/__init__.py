"""What a clip is worth: reward components, their registry, and the MovingShapes world."""

from reelrl.rewards import judges as judges
from reelrl.rewards import moving_shapes as moving_shapes
from reelrl.rewards import vlm as vlm
from reelrl.rewards.base import Reward, RewardOutput, list_rewards, make_reward, register_reward

__all__ = ["Reward", "RewardOutput", "list_rewards", "make_reward", "register_reward"]
