"""Registries for the steps that compose around an estimator: one helper, used twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T", bound=type)


def nearest(name: str, known: Any) -> str:
    """``"; did you mean 'x'?"`` for an unknown name, with the list of known ones."""
    near = get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} known: {', '.join(sorted(known))}"


class StepRegistry(Generic[S]):
    """Names for frozen dataclasses of one kind.

    Args:
        kind: what the steps are called in error messages.
        base: the class all of them derive from.
    """

    def __init__(self, kind: str, base: type[S]) -> None:
        self.kind, self.base = kind, base
        self.known: dict[str, type[S]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator that gives a step its name.

        Raises:
            ValueError: if the name is taken by another class.
        """

        def decorate(cls: T) -> T:
            # __qualname__, so that re-running a notebook cell may replace its own class.
            if name in self.known and self.known[name].__qualname__ != cls.__qualname__:
                raise ValueError(f"{self.kind} name {name!r} is taken by {self.known[name]!r}")
            # T is any class; that it has a name is what this line makes true.
            cls.name = name  # type: ignore[attr-defined]
            self.known[name] = cls
            return cls

        return decorate

    def make(self, spec: Any) -> S:
        """Build a step from itself, its name, or a dict with ``name`` and settings.

        Raises:
            ValueError: for an unknown name or setting; the message names the nearest known one.
            TypeError: for anything else.
        """
        if isinstance(spec, self.base):
            return spec
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping) or "name" not in spec:
            raise TypeError(
                f"a {self.kind} is an instance, a name or a dict with 'name', got {spec!r}"
            )
        settings = {key: value for key, value in spec.items() if key != "name"}
        if spec["name"] not in self.known:
            raise ValueError(
                f"unknown {self.kind} {spec['name']!r}{nearest(spec['name'], self.known)}"
            )
        cls = self.known[spec["name"]]
        # Steps are dataclasses, which a type variable cannot say.
        fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in settings:
            if key not in fields:
                raise ValueError(
                    f"{self.kind} {spec['name']!r} has no setting {key!r}{nearest(key, fields)}"
                )
        return cls(**settings)
