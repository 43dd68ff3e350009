"""Steps that compose around an estimator, built from a name and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from reelrl.naming import Registry
from reelrl.rewards.arguments import build_with

S = TypeVar("S")


def make_step(registry: Registry[type[S]], base: type[S], spec: Any) -> S:
    """A step from itself, its name, or a dict with ``name`` and settings.

    Args:
        registry: of frozen dataclasses.
        base: the class all of them derive from.
        spec: one of the three.

    Raises:
        ValueError: for an unknown name or setting, the message naming the nearest known one, a
            setting that is missing, or a value of another type.
        TypeError: for anything else.
    """
    if isinstance(spec, base):
        return spec
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise TypeError(
            f"a {registry.kind} is an instance, a name or a dict with 'name', got {spec!r}"
        )
    settings = {key: value for key, value in spec.items() if key != "name"}
    what = f"{registry.kind} {spec['name']!r}"
    return build_with(registry.find(spec["name"]), settings, what)
