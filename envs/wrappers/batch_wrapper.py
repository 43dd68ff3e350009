"""The base of the wrappers of the batch: attributes that libraries read from the outermost one."""

from __future__ import annotations

from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorWrapper

from reelrl.envs.base_env import BaseEnv


class BatchWrapper(VectorWrapper):
    """A wrapper of the batch that hands on attributes which Gymnasium's own hides."""

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """When the environment begins a new episode by itself."""
        mode: AutoresetMode = self.env.unwrapped.autoreset_mode
        return mode

    @property
    def reward_space(self) -> Box:
        """(K,) box of the reward vector."""
        base = self.env.unwrapped
        assert isinstance(base, BaseEnv)
        return base.reward_space
