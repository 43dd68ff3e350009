"""Tianshou's ``BaseVectorEnv`` over the native batch.

Tianshou expects a pool of workers that can be reset and stepped a few at a time, infos as an array
of dicts with ``env_id``, and the same keys in every step's info, since its buffer allocates memory
for each key in every transition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tianshou.env import BaseVectorEnv

from reelrl.envs.base_env import per_sub_env
from reelrl.envs.interop.batch import NativeBatch
from reelrl.envs.scoring import RewardError, RewardFacts
from reelrl.envs.task import row_of

SINGLE = {
    "action_space": "single_action_space",
    "observation_space": "single_observation_space",
}
"""Name on the batch for each attribute of one sub-environment."""
Rows = int | list[int] | np.ndarray | None


# Tianshou is read without types, so that the library is checked where it is not installed.
class TianshouVectorEnv(BaseVectorEnv):  # type: ignore[misc]
    """The native batch as a Tianshou ``Collector`` wants it.

    ```python
    envs = gym.make_vec("reelrl:reelrl/MovingShapes-v0", num_envs=8, autoreset_mode="Disabled")
    collector = Collector(algorithm, TianshouVectorEnv(envs), buffer)
    collector.collect(n_episode=16, reset_before_collect=True)
    ```

    The reward is a number, and the vector is in the info as ``vector_reward``, beside
    ``reward_valid``, ``prompt_id`` and ``env_id``; all of them reach the buffer. Clips do not: the
    buffer would hold one for every denoising step. They are in :attr:`infos` until the next step.

    Tianshou's trainer stops at any ``nan`` in its buffer, so a component that could not be scored
    cannot be one there.

    Args:
        env: the native batch, wrapped or not, with ``autoreset_mode="Disabled"``.
        weights: K weights of the reward components; None means 1 / K each,
            negative for a penalty.
        mask_failed: put zeros where a component could not be scored, False in ``reward_valid``
            beside it; for algorithms that read that, as
            :class:`~reelrl.algos.interop.tianshou.EstimatorPG` does. Otherwise such a component is
            an error, since to any other algorithm a zero is a score.

    Attributes:
        native: the batch as given.
        infos: of the last step, one dict per sub-environment, with all the environment said.

    Raises:
        TypeError: if the environment is not ours.
        ValueError: for another autoreset mode, tensors as output, or weights that do not fit.
    """

    # No super().__init__: it would start a worker per environment, and here there are none.
    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        weights: Sequence[float] | None = None,
        *,
        mask_failed: bool = False,
    ) -> None:
        self.native = env
        self.mask_failed = mask_failed
        self.batch = NativeBatch(env, weights)
        self.infos: list[dict[str, Any]] = []
        self.env_num = self.wait_num = env.num_envs
        self.is_async, self.is_closed = False, False
        self._seed: Any = None
        self._fresh = np.zeros(env.num_envs, dtype=np.bool_)
        self._begun: tuple[Any, list[dict[str, Any]]] = (None, [{}] * env.num_envs)

    @property
    def facts(self) -> RewardFacts:
        """Meaning of the numbers in the reward vector."""
        return self.batch.facts

    def get_env_attr(self, key: str, id: Rows = None) -> list[Any]:
        """An attribute of the outermost environment of the batch that has it, once per row."""
        value = self.batch.attribute(SINGLE.get(key, key))
        return [value for _ in self._wrap_id(id)]

    def set_env_attr(self, key: str, value: Any, id: Rows = None) -> None:
        """Set an attribute of the outermost environment that has it, for all sub-environments.

        Raises:
            ValueError: for some of the rows.
            AttributeError: if no environment of the batch has it.
        """
        if id is not None:
            raise ValueError(f"sub-environments share one state: set {key!r} without id")
        self.batch.set_attribute(SINGLE.get(key, key), value)

    def reset(self, env_id: Rows = None, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Begin the episodes of some sub-environments; the others keep theirs.

        An episode in which nothing has happened yet is not begun again, unless a seed or options
        are given: Tianshou's Collector resets finished rows and then, at the end, all of them, and
        the first draw would be thrown away and a group of one prompt cut in two.

        Args:
            env_id: rows to reset; None means all rows.
            **kwargs: ``seed`` and ``options`` of Gymnasium's ``reset``.

        Returns:
            observations and infos of those rows.
        """
        self._assert_is_not_closed()
        rows = np.asarray(self._wrap_id(env_id))
        mask = np.zeros(self.env_num, dtype=np.bool_)
        mask[rows] = True
        seed, self._seed = kwargs.pop("seed", self._seed), None
        options = kwargs.pop("options", None)
        if kwargs:
            raise ValueError(f"unknown reset arguments {sorted(kwargs)}; known: seed, options")
        if seed is None and options is None:
            mask &= ~self._fresh
        if mask.any():
            obs, infos = self.batch.reset(mask, seed, options)
            kept = self._begun[1]
            self._begun = obs, [infos[i] if mask[i] else kept[i] for i in range(self.env_num)]
            self._fresh |= mask
        obs, infos = self._begun
        for i in rows:
            infos[i]["env_id"] = int(i)
        return self._rows(obs)[rows], _array(infos)[rows]

    def step(self, action: np.ndarray | torch.Tensor | None, id: Rows = None) -> Any:
        """Step all sub-environments.

        Raises:
            ValueError: for some of the rows: one forward pass serves them all.
            RewardError: if a component could not be scored and failures are not masked.
        """
        self._assert_is_not_closed()
        rows = np.asarray(self._wrap_id(id))
        if len(rows) != self.env_num or action is None:
            raise ValueError(
                f"all {self.env_num} sub-envs step together, got {len(rows)}: collect a multiple "
                f"of {self.env_num} episodes"
            )
        step = self.batch.step(np.asarray(action))
        self._fresh[:] = False
        self.infos = step.infos
        valid = ~np.isnan(step.vectors)
        self._check(valid)
        short = [
            {
                "env_id": i,
                "prompt_id": int(step.prompt_id[i]),
                "vector_reward": np.where(valid[i], step.vectors[i], 0).astype(np.float32),
                "reward_valid": valid[i],
            }
            for i in range(self.env_num)
        ]
        rewards = np.nan_to_num(step.rewards, nan=0.0)
        return self._rows(step.obs), rewards, step.terminated, step.truncated, _array(short)

    def seed(self, seed: int | list[int] | None = None) -> list[list[int] | None]:
        """Keep a seed, or one per sub-environment, for the next reset."""
        self._assert_is_not_closed()
        seeds = per_sub_env(seed, self.env_num)
        self._seed = None if seed is None else seeds
        return [None if one is None else [one] for one in seeds]

    def render(self, **kwargs: Any) -> list[Any]:
        """A picture, or a list of frames, per sub-environment."""
        self._assert_is_not_closed()
        pictures = self.native.render()
        return [None] * self.env_num if pictures is None else list(pictures)

    def close(self) -> None:
        """Close the batch; it can be called again."""
        self.native.close()
        self.is_closed = True

    def _check(self, valid: np.ndarray) -> None:
        if self.mask_failed or valid.all():
            return
        names = [self.facts.names[k] for k in np.flatnonzero(~valid.all(axis=0))]
        raise RewardError(
            f"reward {', '.join(names)} could not be scored, and Tianshou's trainer takes no nan: "
            "pass mask_failed=True if the algorithm reads info.reward_valid, as EstimatorPG does"
        )

    def _rows(self, obs: Any) -> np.ndarray:
        """Observations as the Collector takes them: dicts as an array of dicts."""
        dicts = isinstance(obs, dict)
        rows: np.ndarray = _array([row_of(obs, i) for i in range(self.env_num)]) if dicts else obs
        return rows


def _array(dicts: Sequence[dict[str, Any]]) -> np.ndarray:
    out = np.empty(len(dicts), dtype=object)
    out[:] = dicts
    return out
