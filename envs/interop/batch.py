"""Shared work of both adapters: reset the native batch, weigh its rewards, split its infos."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from reelrl.envs.base_env import BaseEnv
from reelrl.envs.scoring import RewardFacts, read_weights, scalarise
from reelrl.envs.task import row_of
from reelrl.envs.wrappers.groups import VectorPromptGroups
from reelrl.envs.wrappers.reward import base_of, chain_of
from reelrl.envs.wrappers.scalar import VectorScalarReward
from reelrl.rewards.adaptive import adaptive_parts
from reelrl.rewards.base import RewardWarning

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Transition:
    """One step of the batch, episodes that ended not yet begun anew.

    Attributes:
        obs: of all N, terminal ones included.
        rewards: (N,) float32.
        vectors: (N, K) float32, ``nan`` where a component could not be scored.
        terminated: (N,) bool.
        truncated: (N,) bool.
        prompt_id: (N,) int64.
        infos: one dict per sub-environment.
    """

    obs: Any
    rewards: Float[NDArray[np.float32], " N"]
    vectors: Float[NDArray[np.float32], "N K"]
    terminated: Bool[NDArray[np.bool_], " N"]
    truncated: Bool[NDArray[np.bool_], " N"]
    prompt_id: Int[NDArray[np.int64], " N"]
    infos: list[dict[str, Any]]


class NativeBatch:
    """The native batch with one number as its reward, for an adapter that resets it itself.

    Args:
        env: the native batch, wrapped or not, of ``autoreset_mode="Disabled"`` and
            ``output="numpy"``.
        weights: K weights of the reward components; None means 1 / K each,
            negative for a penalty. An environment that weighs for itself keeps its own number.

    Attributes:
        env: as given.
        base: the environment of ours at the bottom.

    Raises:
        TypeError: if the environment is not ours.
        ValueError: for another autoreset mode or output, the wrong number of weights, or weights
            where the environment has its own.
    """

    def __init__(
        self, env: VectorEnv[Any, Any, Any], weights: Sequence[float] | None = None
    ) -> None:
        self.env = env
        self.base: BaseEnv = base_of(env)
        mode = getattr(self.base, "autoreset_mode", None)
        if mode is not AutoresetMode.DISABLED:
            raise ValueError(
                "the adapter begins episodes itself: make the batch with gym.make_vec(..., "
                f'autoreset_mode="Disabled"), got {type(self.base).__name__} with {mode}'
            )
        if self.base.output != "numpy":
            raise ValueError(
                f"the library wants arrays: output must be 'numpy', got {self.base.output!r}"
            )
        if weights is not None and self.base.task.weights is not None:
            raise ValueError(
                f"the reward is a number already: scalar_weights={self.base.task.weights.tolist()}"
            )
        if weights is not None and any(isinstance(e, VectorScalarReward) for e in self.chain()):
            raise ValueError(
                f"the reward is a number already, made by VectorScalarReward: weights={weights}"
            )
        self._warn_of_adaptive()
        self._weights = None if weights is None else read_weights(weights, self.base.reward_names)

    @property
    def num_envs(self) -> int:
        """N."""
        return self.env.num_envs

    @property
    def facts(self) -> RewardFacts:
        """Meaning of the numbers in the reward vector, and the size of a wrapper's groups."""
        sizes = [env.group_size for env in self.chain() if isinstance(env, VectorPromptGroups)]
        return replace(self.base.task.rewards.facts(), group_size=sizes[0] if sizes else 1)

    @property
    def weights(self) -> Float[NDArray[np.float64], " K"]:
        """(K,) weights of the components; asked for anew, because components can be added."""
        if self._weights is not None:
            return self._weights
        signs = np.array(self.facts.signs)
        return signs / len(signs)

    def reset(
        self,
        mask: NDArray[np.bool_] | None = None,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Begin episodes: all observations, and infos, which are empty where an episode goes on."""
        options = dict(options or {})
        if mask is not None:
            options["reset_mask"] = mask
        # Gymnasium types the seed of a batch as one integer; it takes one each, and so do ours.
        obs, infos = self.env.reset(seed=seed, options=options or None)  # type: ignore[arg-type]
        return obs, split_infos(infos, self.num_envs)

    def step(self, actions: Any) -> Transition:
        """Step all N."""
        prompt_id = self.base.state.prompt_id.copy()
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        # Wrappers and scalar weights leave the vector in the infos; without them it is the reward.
        vectors = np.asarray(infos.pop("vector_reward", rewards), dtype=np.float32)
        weighed = rewards if rewards.ndim == 1 else scalarise(rewards, self.weights)
        rows = split_infos(infos, self.num_envs)
        for i, row in enumerate(rows):
            row["vector_reward"] = vectors[i].copy()
            row["prompt_id"] = int(prompt_id[i])
        return Transition(
            obs, weighed.astype(np.float32), vectors, terminated, truncated, prompt_id, rows
        )

    def attribute(self, name: str) -> Any:
        """An attribute of the outermost environment that has it.

        Raises:
            AttributeError: if none has.
        """
        return getattr(self._owner(name), name)

    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute where :meth:`attribute` reads it.

        Raises:
            AttributeError: if no environment has it, or it cannot be set.
        """
        setattr(self._owner(name), name, value)

    def _owner(self, name: str) -> Any:
        for env in self.chain():
            if hasattr(env, name):
                return env
        raise AttributeError(
            f"expected an attribute of {' over '.join(type(env).__name__ for env in self.chain())},"
            f" got {name!r}"
        )

    def chain(self) -> list[Any]:
        """The environment and all it wraps, outermost first."""
        return chain_of(self.env)

    def _warn_of_adaptive(self) -> None:
        parts = [adaptive_parts(reward) for reward in self.base.task.rewards.components]
        names = [name for found in parts for name in found]
        if names:
            warnings.warn(
                f"reward {', '.join(names)} adapts to the policy only under "
                "reelrl.algos.grpo.GRPO; here it stays as it is",
                RewardWarning,
                stacklevel=4,
            )


def split_infos(infos: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Gymnasium's infos of a batch as one dict per sub-environment, masks read and left out."""
    every = np.ones(count, dtype=np.bool_)
    keys = [key for key in infos if not key.startswith("_")]
    masks = {key: infos.get(f"_{key}", every) for key in keys}
    return [{key: row_of(infos[key], i) for key in keys if masks[key][i]} for i in range(count)]
