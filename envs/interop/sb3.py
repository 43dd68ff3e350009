"""Stable-Baselines3's ``VecEnv`` over the native batch.

SB3's expectations that differ from Gymnasium's ``VectorEnv``: ``reset`` gives observations
only; ``step`` gives ``(obs, rewards, dones, infos)`` with one info dict per sub-environment; an
episode that ended is begun anew within the same step, and its last observation is in
``infos[i]["terminal_observation"]``; seeds and options are set beforehand and used once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnv,
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from reelrl.envs.interop.batch import NativeBatch, Transition
from reelrl.envs.scoring import RewardFacts
from reelrl.envs.task import row_of

SINGLE = {
    "action_space": "single_action_space",
    "observation_space": "single_observation_space",
}
"""Name on the batch for each attribute of one sub-environment."""
ONE_EACH = ("np_random", "np_random_seed", "render")
"""Attributes and methods of the batch that give one value per sub-environment."""


class RewardArray(np.ndarray):
    """Rewards (N,) float32 that carry the vectors they were made of.

    SB3 hands this one array from environment to rollout buffer and nothing else, through whatever
    ``VecEnvWrapper`` lies between; arithmetic on it keeps the vectors.

    Attributes:
        vectors: (N, K) float32 reward vectors, ``nan`` where a component could not be scored.
        prompt_id: (N,) int64, which group an episode belongs to.
        facts: meaning of the K numbers.
        num_steps: T, steps of an episode.
    """

    vectors: NDArray[np.float32] | None
    prompt_id: NDArray[np.int64] | None
    facts: RewardFacts | None
    num_steps: int | None

    @classmethod
    def of(cls, step: Transition, facts: RewardFacts, num_steps: int) -> RewardArray:
        """The rewards of a step."""
        array = step.rewards.view(cls)
        array.vectors, array.prompt_id = step.vectors, step.prompt_id
        array.facts, array.num_steps = facts, num_steps
        return array

    def __array_finalize__(self, source: Any) -> None:
        for name in ("vectors", "prompt_id", "facts", "num_steps"):
            setattr(self, name, getattr(source, name, None))


class SB3VecEnv(VecEnv):
    """The native batch as SB3 wants it; ``VecMonitor`` and the other wrappers go on top.

    ```python
    envs = gym.make_vec("reelrl:reelrl/MovingShapes-v0", num_envs=8, autoreset_mode="Disabled")
    venv = VecMonitor(SB3VecEnv(envs))
    ```

    The reward is a number, and the vector is in ``infos[i]["vector_reward"]``. A component that
    could not be scored makes the number ``nan``, unless its weight is zero.

    All sub-environments are one object: ``get_attr`` repeats what the batch has (but gives each its
    own ``np_random``), ``env_method`` calls once and repeats the result (but gives each its own
    picture from ``render``), and ``set_attr`` takes no indices.

    Args:
        env: the native batch, wrapped or not, with ``autoreset_mode="Disabled"``.
        weights: K weights of the reward components; None means 1 / K each,
            negative for a penalty.

    Attributes:
        native: the batch as given.

    Raises:
        TypeError: if the environment is not ours.
        ValueError: for another autoreset mode, tensors as output, or weights that do not fit.
    """

    def __init__(
        self, env: VectorEnv[Any, Any, Any], weights: Sequence[float] | None = None
    ) -> None:
        self.native = env
        self.batch = NativeBatch(env, weights)
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin all episodes, with the seeds and options set since the last reset."""
        seed = None if self._seeds[0] is None else list(self._seeds)
        options = _batched(self._options)
        obs: VecEnvObs
        obs, self.reset_infos = self.batch.reset(seed=seed, options=options)
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions (N, ...) for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step, and begin the ended episodes anew."""
        step = self.batch.step(self._actions)
        dones = step.terminated | step.truncated
        for i, info in enumerate(step.infos):
            info["TimeLimit.truncated"] = bool(step.truncated[i] and not step.terminated[i])
            if dones[i]:
                info["terminal_observation"] = row_of(step.obs, i)
        obs = step.obs
        if dones.any():
            obs, fresh = self.batch.reset(mask=dones)
            for i in np.flatnonzero(dones).tolist():
                self.reset_infos[i] = fresh[i]
        rewards = RewardArray.of(step, self.batch.facts, self.batch.base.num_steps)
        return obs, rewards, dones, step.infos

    def close(self) -> None:
        """Close the batch."""
        self.native.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture per sub-environment."""
        pictures: Any = self.native.render()
        return [None] * self.num_envs if pictures is None else list(pictures)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the outermost environment of the batch that has it."""
        value = self.batch.attribute(SINGLE.get(attr_name, attr_name))
        rows = self._get_indices(indices)
        return [value[i] if attr_name in ONE_EACH[:2] else value for i in rows]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the outermost environment that has it, for all sub-environments.

        Raises:
            ValueError: for indices.
            AttributeError: if no environment of the batch has it.
        """
        if indices is not None:
            raise ValueError(f"sub-environments share one state: set {attr_name!r} without indices")
        self.batch.set_attribute(SINGLE.get(attr_name, attr_name), value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the batch once.

        Raises:
            ValueError: for ``reset`` and ``step``, which would leave this object behind.
        """
        if method_name in ("reset", "step"):
            raise ValueError(f"call {method_name}() of the vectorised environment itself")
        result = self.batch.attribute(method_name)(*method_args, **method_kwargs)
        each = method_name in ONE_EACH and result is not None
        return [result[i] if each else result for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """Whether a wrapper of the batch is of that class."""
        wrapped = any(isinstance(env, wrapper_class) for env in self.batch.chain()[:-1])
        return [wrapped for _ in self._get_indices(indices)]


def _batched(options: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The options of N sub-environments as the batch takes them.

    Raises:
        ValueError: if not all have the same keys, or one of them is ``reset_mask``.
    """
    keys = {frozenset(option) for option in options}
    if len(keys) > 1:
        raise ValueError(
            f"every sub-environment needs the same reset options, got {sorted(map(sorted, keys))}"
        )
    if "reset_mask" in keys.copy().pop():
        raise ValueError("reset() begins all episodes: there is no option reset_mask here")
    return {key: np.array([option[key] for option in options]) for key in keys.pop()}
