"""Names for estimators: each module in ``methods`` is found by itself, yours by the decorator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from reelrl.algos.advantages.norm import NormSpec, make_norm
from reelrl.algos.advantages.pipeline import Estimator
from reelrl.naming import Registry, nearest
from reelrl.rewards.arguments import build_with

C = TypeVar("C", bound=type[Estimator])
ESTIMATORS: Registry[type[Estimator]] = Registry("estimator", "reelrl.algos.advantages.methods")
"""Name of an estimator -> its class."""
_NORM_FIELDS = {field.name for field in dataclasses.fields(NormSpec)}


def register_estimator(name: str) -> Callable[[C], C]:
    """Class decorator that makes ``make_estimator(name)`` build the class.

    Raises:
        ValueError: if the name is taken by another class.
    """

    def register(cls: C) -> C:
        ESTIMATORS.register(name)(cls)
        cls.name = name
        return cls

    return register


def make_estimator(name: str, preset: str | None = None, **config: Any) -> Estimator:
    """Build an estimator.

    Args:
        name: one of :func:`list_estimators`; ``"gdpo@trl"`` is short for ``preset="trl"``.
        preset: one of the estimator's ``presets``; None means the canonical reading.
        **config: fields of the estimator's config, which override the preset. Where the config has
            a ``group`` normalisation, fields of :class:`NormSpec` (``ddof``, ``eps``, ...) are
            taken too and change that. A mapping given for a normalisation likewise names only what
            differs.

    Raises:
        ValueError: for an unknown name, preset or keyword, the message naming the nearest known
            one, or a value of another type.
    """
    if not isinstance(name, str):
        raise ValueError(f"an estimator is made from its name, got {name!r}")
    if "@" in name:
        name, short = name.split("@", 1)
        if preset not in (None, short):
            raise ValueError(f"two presets for {name!r}: {short!r} and {preset!r}")
        preset = short
    cls = estimator_class(name)
    if preset is not None and preset not in cls.presets:
        raise ValueError(
            f"estimator {name!r} has no preset {preset!r}{nearest(preset, cls.presets)}"
        )
    base = dict(cls.presets[preset]) if preset else {}
    for key, spec in base.items():
        # A mapping names differences from the preset's own.
        if isinstance(spec, NormSpec) and isinstance(config.get(key), Mapping):
            config[key] = make_norm(config[key], spec)
    return cls(_build_config(cls, {**base, **config}))


def estimator_class(name: str) -> type[Estimator]:
    """The class registered under a name.

    Raises:
        ValueError: for an unknown name; the message names the nearest known one.
    """
    return ESTIMATORS.find(name)


def list_estimators() -> list[str]:
    """Names of all registered estimators, sorted."""
    return list(ESTIMATORS)


def _build_config(cls: type[Estimator], settings: dict[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls.Config)}
    norm = {}
    if "group" in fields:
        norm = {k: v for k, v in settings.items() if k in _NORM_FIELDS and k not in fields}
    own = {key: value for key, value in settings.items() if key not in norm}
    for key in own:
        if key not in fields:
            known = [*fields, *(_NORM_FIELDS if "group" in fields else [])]
            raise ValueError(f"estimator {cls.name!r} has no setting {key!r}{nearest(key, known)}")
    if norm:
        default: Any = fields["group"].default
        own["group"] = make_norm(norm, make_norm(own.get("group", {}), default))
    return build_with(cls.Config, own, f"estimator {cls.name!r}")
