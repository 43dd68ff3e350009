"""A reward component as a wrapper."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper

from reelrl.envs.base_env import BaseEnv
from reelrl.rewards import Reward, make_reward


class AddReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Appends one component to the reward vector; its twin is :class:`VectorAddReward`.

    The component is registered with the base environment, which decodes once, scores all components
    on the same batch and keeps ``reward_space`` true for the libraries that read it there. A
    wrapper that merely lengthened the vector would break them.

    Example:
        >>> import gymnasium as gym
        >>> from reelrl.envs.wrappers import AddReward
        >>> env = AddReward(gym.make("reelrl:reelrl/MovingShapes-v0"), "gold")
        >>> env.unwrapped.reward_names
        ['proxy_vq', 'proxy_mq', 'proxy_ta', 'gold']

    Args:
        env: the environment.
        reward: a registered name, or a :class:`~reelrl.rewards.Reward`.
        **config: keyword arguments of the named component.

    Raises:
        ValueError: for an unknown name, one that is taken, or config for a finished component.
        TypeError: if the base environment is not ours.
    """

    def __init__(self, env: gym.Env[Any, Any], reward: str | Reward, **config: Any) -> None:
        RecordConstructorArgs.__init__(self, reward=reward, _disable_deepcopy=True, **config)
        gym.Wrapper.__init__(self, env)
        base_of(env).add_reward(build(reward, config))


class VectorAddReward(VectorWrapper):
    """:class:`AddReward` for the batch."""

    def __init__(self, env: VectorEnv[Any, Any, Any], reward: str | Reward, **config: Any) -> None:
        super().__init__(env)
        base_of(env).add_reward(build(reward, config))


def build(reward: str | Reward, config: dict[str, Any]) -> Reward:
    """The component of that name and config, or the finished one.

    Raises:
        ValueError: for config for a finished component.
    """
    if isinstance(reward, str):
        return make_reward(reward, **config)
    if config:
        raise ValueError(f"{reward!r} is built already; it takes no {', '.join(config)}")
    return reward


def base_of(env: Any) -> BaseEnv:
    """The environment of ours at the bottom of the wrappers.

    Raises:
        TypeError: if there is another one.
    """
    base = env.unwrapped
    if not isinstance(base, BaseEnv):
        raise TypeError(
            "expected wrappers over a TextToVideoEnv or TextToVideoVectorEnv, got "
            f"{type(base).__name__}"
        )
    return base


def chain_of(env: Any) -> list[Any]:
    """The environment and all it wraps, outermost first."""
    envs = [env]
    while envs[-1] is not envs[-1].unwrapped:
        envs.append(envs[-1].env)
    return envs
