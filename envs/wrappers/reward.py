"""A reward component as a wrapper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from reelrl.envs.base_env import BaseEnv
from reelrl.envs.wrappers.batch_wrapper import BatchWrapper
from reelrl.rewards import Reward
from reelrl.rewards.spec import RewardSpec, build_reward


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
        reward: a registered name, a dict, a :class:`~reelrl.rewards.Reward` or a function; see
            :func:`~reelrl.rewards.spec.build_reward`.
        **config: of the named component: arguments of its constructor, ``label``, ``transforms``
            and ``asynchronous``.

    Raises:
        ValueError: for an unknown name, one that is taken, config for a finished component, or an
            environment whose reward is one number already.
        TypeError: if the base environment is not ours, or batched, which its twin is for.
    """

    def __init__(self, env: gym.Env[Any, Any], reward: RewardSpec, **config: Any) -> None:
        expect_single(self, env)
        refuse_scalar(self, env)
        RecordConstructorArgs.__init__(self, reward=reward, _disable_deepcopy=True, **config)
        gym.Wrapper.__init__(self, env)
        base_of(env).add_reward(build(reward, config))


class VectorAddReward(BatchWrapper):
    """:class:`AddReward` for the batch."""

    def __init__(self, env: VectorEnv[Any, Any, Any], reward: RewardSpec, **config: Any) -> None:
        expect_batch(self, env)
        refuse_scalar(self, env)
        super().__init__(env)
        base_of(env).add_reward(build(reward, config))


def build(reward: RewardSpec, config: Mapping[str, Any]) -> Reward:
    """The component of that name and config, or the finished one.

    Raises:
        ValueError: for config for a finished component.
    """
    if isinstance(reward, str):
        return build_reward({"name": reward, **config})
    if isinstance(reward, Mapping):
        return build_reward({**reward, **config})
    if config:
        raise ValueError(f"{reward!r} is built already; it takes no {', '.join(config)}")
    return build_reward(reward)


def refuse_scalar(wrapper: Any, env: Any) -> None:
    """Refuse a new component over a wrapper that has a weight for each of the old ones.

    Raises:
        ValueError: naming the order that works.
    """
    for inner in chain_of(env)[:-1]:
        weights = getattr(inner, "weights", None)
        if type(inner).__name__ in ("ScalarReward", "VectorScalarReward") and weights is not None:
            kind, outer = type(inner).__name__, type(wrapper).__name__
            names = base_of(env).reward_names
            raise ValueError(
                f"{kind} below has the weights {weights.tolist()} for {', '.join(names)} and none "
                f"for a new component: write {kind}({outer}(env, ...), {{name: weight, ...}})"
            )


def expect_single(wrapper: Any, env: Any) -> None:
    """Refuse a batched environment.

    Raises:
        TypeError: naming the wrapper's twin.
    """
    name = type(wrapper).__name__
    if isinstance(env, VectorEnv):
        raise TypeError(
            f"{name} is for one environment, got a batch of {env.num_envs}: use Vector{name}"
        )
    if not isinstance(env, gym.Env):
        raise TypeError(f"{name} expects an environment, got {type(env).__name__}")


def expect_batch(wrapper: Any, env: Any) -> None:
    """Refuse anything but a batched environment.

    Raises:
        TypeError: naming the wrapper's twin.
    """
    name = type(wrapper).__name__
    if isinstance(env, gym.Env):
        twin = name.removeprefix("Vector")
        raise TypeError(f"{name} is for a batch, got one environment: use {twin}")
    if not isinstance(env, VectorEnv):
        raise TypeError(f"{name} expects a batched environment, got {type(env).__name__}")


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
