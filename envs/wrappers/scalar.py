"""The reward vector as one number, for libraries that know no other reward."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from torch import Tensor

from reelrl.envs.scoring import Weights, read_weights, scalarise
from reelrl.envs.wrappers.batch_wrapper import BatchWrapper
from reelrl.envs.wrappers.reward import chain_of, expect_batch, expect_single


class ScalarReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Weighted sum of the reward vector; the vector stays in ``info["vector_reward"]``.

    A component that could not be scored makes the sum ``nan``, unless its weight is zero. The twin
    is :class:`VectorScalarReward`.

    Example:
        >>> import gymnasium as gym
        >>> from reelrl.envs.wrappers import ScalarReward
        >>> env = ScalarReward(gym.make("reelrl:reelrl/MovingShapes-v0"), [1.0, 1.0, 2.0])
        >>> _ = env.reset(seed=0)
        >>> env.step(env.action_space.sample())[1]
        0.0

    Args:
        env: an environment with a ``reward_space`` on ``env.unwrapped``.
        weights: one per component, or by name where a component not named has weight 0. They are
            taken as they are: give a penalty a negative weight. ``None`` is the components'
            signs, 1 where higher is better and -1 for a penalty.

    Raises:
        ValueError: for the wrong number of weights, an unknown name, or a reward that is a number
            already.
        TypeError: for a batched environment, which its twin is for.
    """

    def __init__(self, env: gym.Env[Any, Any], weights: Weights | None = None) -> None:
        expect_single(self, env)
        gym.Wrapper.__init__(self, env)
        self.weights = _weights(env, weights)
        # A spec is JSON, which knows lists and no arrays.
        recorded = None if weights is None else self.weights.tolist()
        RecordConstructorArgs.__init__(self, weights=recorded)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and weigh."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        value = scalarise(reward, self.weights)
        scalar = value if isinstance(value, Tensor) else float(value)
        return observation, scalar, terminated, truncated, {**info, "vector_reward": reward}


class VectorScalarReward(BatchWrapper):
    """:class:`ScalarReward` for the batch; rewards (N,) float64.

    With ``autoreset_mode="SameStep"`` the vectors are in ``infos["final_info"]`` too, which holds
    all that the ended episodes have to say.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], weights: Weights | None = None) -> None:
        expect_batch(self, env)
        super().__init__(env)
        self.weights = _weights(env, weights)
        # TorchRL would read it, but the reward is no vector any longer.
        vars(env.unwrapped).pop("reward_space", None)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step and weigh."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        every: Any = np.ones(self.num_envs, dtype=np.bool_)
        if isinstance(rewards, Tensor):
            every = torch.from_numpy(every).to(rewards.device)
        infos = {**infos, "vector_reward": rewards, "_vector_reward": every}
        if "final_info" in infos:  # autoreset_mode="SameStep" puts ended episodes' infos there
            mask = infos["_final_info"]
            final = {"vector_reward": rewards, "_vector_reward": mask}
            infos["final_info"] = {**infos["final_info"], **final}
        scalars = scalarise(rewards, self.weights)
        return observations, scalars, terminations, truncations, infos


def _weights(env: Any, weights: Weights | None) -> np.ndarray:
    """The weights (K,) given, or the components' signs.

    Raises:
        ValueError: see :class:`ScalarReward`.
    """
    task = getattr(env.unwrapped, "task", None)
    if task is not None and task.weights is not None:
        raise ValueError(f"the reward is a number already: scalar_weights={task.weights.tolist()}")
    for wrapper in chain_of(env):
        if isinstance(wrapper, ScalarReward | VectorScalarReward):
            raise ValueError(
                f"the reward is a number already, made by {type(wrapper).__name__} with "
                f"weights={wrapper.weights.tolist()}"
            )
    dim = env.unwrapped.reward_space.shape[0]
    if weights is None:
        return np.ones(dim) if task is None else np.array(task.rewards.facts().signs)
    names = [f"r{k}" for k in range(dim)] if task is None else task.rewards.names
    return read_weights(weights, names)


def scalar_weights_of(env: Any) -> list[float] | None:
    """Weights that somebody gave an environment or a wrapper around it; None without any.

    A wrapper that takes the components' signs has been given none.
    """
    task = getattr(env.unwrapped, "task", None)
    if task is not None and task.weights is not None:
        return [float(weight) for weight in task.weights]
    for wrapper in chain_of(env):
        if isinstance(wrapper, ScalarReward | VectorScalarReward):
            own = [float(weight) for weight in wrapper.weights]
            signs = [1.0] * len(own) if task is None else list(task.rewards.facts().signs)
            return None if own == signs else own
    return None
