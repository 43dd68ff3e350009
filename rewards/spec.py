"""Components from plain values, as presets and environment ids have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.base import Reward, make_reward
from reelrl.rewards.transforms import Transformed, make_transform

AROUND = ("transforms", "label", "asynchronous")
"""Keys of a dict that are not for the component's constructor but say what goes around it."""
RewardSpec = str | Mapping[str, Any] | Reward
"""A registered name, ``{"name": ..., **config}``, or an instance; see :func:`build_reward`."""


def build_reward(spec: RewardSpec) -> Reward:
    """A component from an instance, a registered name, or ``{"name": ..., **config}``.

    Some keys of a dict are not for the component's constructor but say what goes around it:
    ``transforms`` and ``label`` are those of :class:`~reelrl.rewards.transforms.Transformed`, and
    ``asynchronous`` makes it an :class:`~reelrl.rewards.asynchronous.AsyncReward`.

    Raises:
        ValueError: for anything else, an unknown name, or a class without name or bounds.
    """
    if isinstance(spec, Reward):
        return _declared(spec)
    if not isinstance(spec, str | Mapping) or (isinstance(spec, Mapping) and "name" not in spec):
        raise ValueError(
            "a reward is a Reward, a registered name or a dict with a 'name', "
            f"got {type(spec).__name__}: {spec!r}"
        )
    config: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    around = {k: config.pop(k) for k in AROUND if k in config}
    reward = _declared(make_reward(**config))
    if "transforms" in around or "label" in around:
        transforms = [make_transform(**given) for given in around.get("transforms", ())]
        reward = Transformed(reward, transforms, around.get("label"))
    return AsyncReward(reward) if around.get("asynchronous") else reward


def _declared(reward: Reward) -> Reward:
    """The component, if its class says what the reward space is made of."""
    missing = [key for key in ("name", "bounds") if not hasattr(reward, key)]
    if missing:
        raise ValueError(f"reward class {type(reward).__name__} declares no {', '.join(missing)}")
    return reward
