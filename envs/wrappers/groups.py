"""Prompts by groups, for estimators that compare clips of one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from reelrl.envs.wrappers.batch_wrapper import BatchWrapper
from reelrl.envs.wrappers.reward import base_of


class VectorPromptGroups(BatchWrapper):
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
        ValueError: for another mode, a group size that is no integer or below 1, or one that does
            not divide the batch while a reward compares the clips of a group.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], group_size: int) -> None:
        super().__init__(env)
        mode = getattr(base_of(env), "autoreset_mode", None)
        if mode is not AutoresetMode.DISABLED:
            raise ValueError(f"prompt groups need autoreset_mode='Disabled', got {mode}")
        if isinstance(group_size, bool) or not isinstance(group_size, int | np.integer):
            raise ValueError(f"group_size must be an integer, got {group_size!r}")
        if group_size < 1:
            raise ValueError(f"group_size must be at least 1, got {group_size}")
        self._refuse_cut_groups(group_size)
        self.group_size = group_size
        self._groups = 0
        self._begin_order(None)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; a seed also begins the order of prompts anew.

        An option ``prompt_id`` that is not None takes precedence and uses up nothing.
        """
        options = dict(options or {})
        mask = options.get("reset_mask")
        if seed is not None:
            self._begin_order(seed if isinstance(seed, int | np.integer) else seed[0])
        if mask is None:
            # With a seed everything begins anew; without one a group may go on in the next batch.
            self._groups = self._groups if seed is None else 0
            mask = np.ones(self.num_envs, dtype=np.bool_)
        rows = np.flatnonzero(mask.cpu() if isinstance(mask, Tensor) else mask)
        ids, groups = np.zeros((2, self.num_envs), dtype=np.int64)
        if options.get("prompt_id") is None:
            for row in rows:
                ids[row], groups[row] = self._next()
            options["prompt_id"] = ids
        else:
            # Checked here too, because a number is counted for every prompt.
            given = base_of(self.env).task.read_prompt_ids(options["prompt_id"], self.num_envs)
            numbers = {prompt: self._number() for prompt in dict.fromkeys(given[rows].tolist())}
            groups[rows] = [numbers[prompt] for prompt in given[rows].tolist()]
        if options.get("group_id") is None:
            options["group_id"] = groups
        # Gymnasium types the seed of a batch as one integer; it takes one each, and so do ours.
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def _refuse_cut_groups(self, group_size: int) -> None:
        compares = base_of(self.env).task.rewards.groupwise
        if compares and self.num_envs % group_size:
            raise ValueError(
                f"the rewards {', '.join(compares)} compare the {group_size} clips of a group, "
                f"which must be scored together: expected num_envs a multiple of {group_size}, got "
                f"{self.num_envs}"
            )

    # Plain values and no generator: those can be pickled and copied.
    def _begin_order(self, seed: int | None) -> None:
        self._rng = np.random.default_rng(None if seed is None else [int(seed), 3])
        self._order = np.empty(0, dtype=np.int64)
        self._begun = self._current = 0

    def _next(self) -> tuple[int, int]:
        """Prompt of the next episode, and the number of its group."""
        if self._begun == len(self._order) * self.group_size:
            self._order = self._rng.permutation(len(base_of(self.env).prompts))
            self._begun = 0
        if self._begun % self.group_size == 0:
            self._current = self._number()
        self._begun += 1
        return int(self._order[(self._begun - 1) // self.group_size]), self._current

    def _number(self) -> int:
        """A number that no group has since the last reset of all."""
        self._groups += 1
        return self._groups - 1
