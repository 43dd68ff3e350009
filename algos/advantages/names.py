"""Steps that compose around an estimator, built from a name and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from reelrl.naming import Registry, nearest

S = TypeVar("S")


def make_step(registry: Registry[type[S]], base: type[S], spec: Any) -> S:
    """A step from itself, its name, or a dict with ``name`` and settings.

    Args:
        registry: of frozen dataclasses.
        base: the class all of them derive from.
        spec: one of the three.

    Raises:
        ValueError: for an unknown name or setting; the message names the nearest known one.
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
    cls = registry.find(spec["name"])
    # Steps are dataclasses, which a type variable cannot say.
    fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in settings:
        if key not in fields:
            raise ValueError(
                f"{registry.kind} {spec['name']!r} has no setting {key!r}{nearest(key, fields)}"
            )
    return cls(**settings)
