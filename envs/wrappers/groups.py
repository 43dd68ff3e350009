"""Prompts by groups, for estimators that compare clips of one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from reelrl.envs.wrappers.reward import base_of


class VectorPromptGroups(VectorWrapper):
    """Every ``group_size`` episodes in a row are about one prompt.

    The environment alone draws a prompt per episode, which leaves nearly every clip without another
    one to be compared with. Here prompts come in shuffled passes over all of them, each for
    ``group_size`` episodes, in the order in which episodes begin: side by side in the batch, and
    over several resets if groups are larger than it. It has no twin, since one environment alone
    has no batch to group.

    Example:
        >>> import gymnasium as gym
        >>> from reelrl.envs.wrappers import VectorPromptGroups
        >>> arguments = {"num_envs": 4, "num_steps": 2, "autoreset_mode": "Disabled"}
        >>> envs = gym.make_vec("reelrl:reelrl/MovingShapes-v0", **arguments)
        >>> _, infos = VectorPromptGroups(envs, 2).reset(seed=0)
        >>> a, b, c, d = infos["prompt_id"]
        >>> a == b, c == d, a == c
        (np.True_, np.True_, np.False_)

    Args:
        env: the native batch with ``autoreset_mode="Disabled"``; in the other modes it begins
            episodes without asking.
        group_size: G.

    Raises:
        ValueError: for another mode, or a group size below 1.
    """

    def __init__(self, env: VectorEnv, group_size: int) -> None:
        super().__init__(env)
        mode = getattr(base_of(env), "autoreset_mode", None)
        if mode is not AutoresetMode.DISABLED:
            raise ValueError(f"prompt groups need autoreset_mode='Disabled', got {mode}")
        if group_size < 1:
            raise ValueError(f"group_size must be at least 1, got {group_size}")
        self.group_size = group_size
        self._prompts = self._stream(None)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; a seed also begins the order of prompts anew.

        An option ``prompt_id`` takes precedence and uses up nothing.
        """
        if seed is not None:
            self._prompts = self._stream(seed if isinstance(seed, int | np.integer) else seed[0])
        options = dict(options or {})
        if "prompt_id" not in options:
            mask = options.get("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
            rows = np.flatnonzero(mask.cpu() if isinstance(mask, Tensor) else mask)
            ids = np.zeros(self.num_envs, dtype=np.int64)
            ids[rows] = list(islice(self._prompts, len(rows)))
            options["prompt_id"] = ids
        # Gymnasium types the seed of a batch as one integer; it takes one each, and so do ours.
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def _stream(self, seed: int | None) -> Any:
        rng = np.random.default_rng(None if seed is None else [int(seed), 3])
        while True:
            for prompt_id in rng.permutation(len(base_of(self.env).prompts)):
                yield from [int(prompt_id)] * self.group_size
