"""Return and length of every episode, for rewards that are tensors or vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from reelrl.envs.wrappers.batch_wrapper import BatchWrapper


class VectorRecordEpisodeStatistics(BatchWrapper):
    """Puts the return of an episode into the infos of the step that ends it.

    Gymnasium's wrapper of this name takes neither tensors nor vectors of rewards. The keys are its:
    ``infos["episode"]`` has ``r``, the return (N,) or (N, K), ``l``, the length (N,), and ``t``,
    seconds since the episode began (N,); ``infos["_episode"]`` (N,) says for whom. With tensors as
    output, ``r`` and ``_episode`` are tensors.

    Example:
        >>> import gymnasium as gym
        >>> from reelrl.envs.wrappers import VectorRecordEpisodeStatistics
        >>> arguments = {"num_envs": 2, "num_steps": 1, "output": "torch"}
        >>> envs = gym.make_vec("reelrl:reelrl/MovingShapes-v0", **arguments)
        >>> envs = VectorRecordEpisodeStatistics(envs)
        >>> observations, _ = envs.reset(seed=0)
        >>> infos = envs.step(observations["latent"])[-1]
        >>> episode = infos["episode"]
        >>> episode["r"].shape, episode["l"]
        (torch.Size([2, 3]), array([1, 1]))

    Args:
        env: the native batch, wrapped or not.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._returns: Any = None
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._begun = np.full(self.num_envs, time.perf_counter())
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; the episodes that go on keep their return."""
        # As in VectorPromptGroups: Gymnasium types the seed of a batch as one integer.
        result = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        mask = (options or {}).get("reset_mask")
        rows = np.ones(self.num_envs, dtype=np.bool_) if mask is None else _host(mask)
        self._forget(rows)
        self._ended &= ~rows
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and add up."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        self._forget(self._ended)
        # In this mode the step after the last one is a reset, which earns nothing.
        waits = self.autoreset_mode is AutoresetMode.NEXT_STEP
        self._lengths += ~self._ended if waits else 1
        self._returns = rewards if self._returns is None else self._returns + rewards
        self._ended = _host(terminations) | _host(truncations)
        if self._ended.any():
            mask: Any = self._ended.copy()
            if isinstance(rewards, Tensor):
                mask = torch.from_numpy(mask).to(rewards.device)
            episode = {
                "r": self._kept(self._ended),
                "l": np.where(self._ended, self._lengths, 0),
                "t": np.where(self._ended, time.perf_counter() - self._begun, 0.0),
            }
            infos = {**infos, "episode": episode, "_episode": mask}
        return observations, rewards, terminations, truncations, infos

    def _forget(self, rows: np.ndarray) -> None:
        """Begin the sums of some rows at zero."""
        self._lengths[rows] = 0
        self._begun[rows] = time.perf_counter()
        if self._returns is not None:
            self._returns = self._kept(~rows)

    def _kept(self, rows: np.ndarray) -> Any:
        """The returns of some rows, zero for all others; a component that failed stays nan."""
        if isinstance(self._returns, Tensor):
            mask = torch.from_numpy(rows).to(self._returns.device)
            mask = mask.reshape(-1, *[1] * (self._returns.ndim - 1))
            return torch.where(mask, self._returns, 0)
        flags = rows.reshape(-1, *[1] * (self._returns.ndim - 1))
        return np.where(flags, self._returns, 0)


def _host(flags: Any) -> np.ndarray:
    """Flags (N,) as an array of the host."""
    return np.asarray(flags.cpu() if isinstance(flags, Tensor) else flags, dtype=np.bool_)
