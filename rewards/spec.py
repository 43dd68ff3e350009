"""Components from plain values, as presets and environment ids have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.base import Reward, make_reward, reward_of
from reelrl.rewards.transforms import Transform, Transformed, make_transform

RewardSpec = str | Mapping[str, Any] | Reward | Callable[..., Any]
"""A registered name, ``{"name": ..., **config}``, an instance, or a function."""
AROUND = ("transforms", "label", "asynchronous")
"""Keys of a dict that do not go to the component's constructor but wrap the component."""


def build_reward(spec: RewardSpec) -> Reward:
    """A component from an instance, a registered name, ``{"name": ..., **config}``, or a function.

    A function takes (videos, prompts, infos) and returns N scores; its name is the component's.

    Some keys of a dict do not go to the component's constructor; they wrap the component.
    ``transforms`` and ``label`` belong to :class:`~reelrl.rewards.transforms.Transformed`, and
    ``asynchronous`` makes it an :class:`~reelrl.rewards.asynchronous.AsyncReward`.

    Raises:
        ValueError: for anything else, an unknown name or setting, or a class without name or
            bounds.
    """
    if isinstance(spec, Reward):
        return _declared(spec)
    if isinstance(spec, type):
        raise ValueError(f"a reward is an instance, got the class: write {spec.__name__}()")
    if callable(spec):
        return reward_of(spec)
    if not isinstance(spec, str | Mapping) or not isinstance(_named(spec).get("name"), str):
        raise ValueError(
            "a reward is a Reward, a registered name, a dict with a 'name' or a function, "
            f"got {type(spec).__name__}: {spec!r}"
        )
    config = _named(spec)
    around = {key: config.pop(key) for key in AROUND if key in config}
    name = config.pop("name")
    if "weight" in config:
        raise ValueError(
            f"reward {name!r}: a weight is none of its settings; give "
            f"scalar_weights={{{name!r}: {config['weight']!r}, ...}} to the environment, the same "
            "to ScalarReward, or reward_weights to the learner"
        )
    reward = _declared(make_reward(name, **config))
    if "transforms" in around or "label" in around:
        reward = Transformed(reward, _transforms(around.get("transforms", ())), _label(around))
    return AsyncReward(reward) if around.get("asynchronous") else reward


def _named(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": spec} if isinstance(spec, str) else dict(spec)


def _transforms(given: Any) -> list[Transform]:
    """Transforms from instances, names, or dicts with a ``name``.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise ValueError(f"transforms must be a list, got {given!r}")
    made = []
    for one in given:
        if isinstance(one, Transform):
            made.append(one)
        elif isinstance(one, str | Mapping) and isinstance(_named(one).get("name"), str):
            made.append(make_transform(**_named(one)))
        else:
            raise ValueError(f"a transform is a name or a dict with a 'name', got {one!r}")
    return made


def _label(around: Mapping[str, Any]) -> str | None:
    label = around.get("label")
    if label is not None and not isinstance(label, str):
        raise ValueError(f"label must be a text, got {label!r}")
    return label


def _declared(reward: Reward) -> Reward:
    """The component, if its class declares the parts of the reward space."""
    missing = [key for key in ("name", "bounds") if not hasattr(reward, key)]
    if missing:
        raise ValueError(f"reward class {type(reward).__name__} declares no {', '.join(missing)}")
    return reward
