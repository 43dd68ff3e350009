"""Checks of a dataclass that its annotations state: choices, limits, tuples."""

from __future__ import annotations

import math
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints


class Limit(Protocol):
    """A condition on a value; ``str`` of it ends the sentence "the value must be"."""

    def accepts(self, value: Any) -> bool:
        """Whether the value meets the condition; ``nan``, infinity and a text meet none."""


def is_finite(value: Any) -> bool:
    """True for a number that is neither ``nan`` nor infinite."""
    return isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True)
class Ge:
    """``Annotated[int, Ge(1)]``: a number of at least ``low``."""

    low: float

    def accepts(self, value: Any) -> bool:
        """See :class:`Limit`."""
        return is_finite(value) and bool(value >= self.low)

    def __str__(self) -> str:
        return f"at least {self.low:g}"


@dataclass(frozen=True)
class Gt:
    """``Annotated[float, Gt(0)]``: a number above ``low``."""

    low: float

    def accepts(self, value: Any) -> bool:
        """See :class:`Limit`."""
        return is_finite(value) and bool(value > self.low)

    def __str__(self) -> str:
        return f"above {self.low:g}" if self.low else "positive"


@dataclass(frozen=True)
class Within:
    """``Annotated[float, Within(0, 1)]``: a number in [low, high), or [low, high] if closed."""

    low: float
    high: float
    closed: bool = False

    def accepts(self, value: Any) -> bool:
        """See :class:`Limit`."""
        inside = is_finite(value) and self.low <= value <= self.high
        return bool(inside and (self.closed or value < self.high))

    def __str__(self) -> str:
        return f"in [{self.low:g}, {self.high:g}{']' if self.closed else ')'}"


@dataclass(frozen=True)
class OneOf:
    """``Annotated[str, OneOf(registry)]``: a member of a collection; a ``Literal`` needs none."""

    known: Collection[Any]

    def accepts(self, value: Any) -> bool:
        """See :class:`Limit`."""
        return value in self.known

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.known))}"


@dataclass(frozen=True)
class Stated:
    """The rules that a field's annotation sets for its value.

    Attributes:
        name: of the field.
        optional: True if the field may be None.
        limits: conditions on every other value; none where the annotation is a choice of types.
        is_tuple: True if a list stands for a tuple.
        length: of the tuple; None means any length.
    """

    name: str
    optional: bool
    limits: tuple[Limit, ...]
    is_tuple: bool
    length: int | None


def check_fields(config: Any, path: str = "") -> None:
    """Check a frozen dataclass against its annotations, and turn lists into tuples where asked.

    ``Literal`` and the markers of this module in ``Annotated`` are checked, and every float must be
    finite; types are not checked. Call it in ``__post_init__``, and write by hand only the
    conditions that join several fields.

    Args:
        config: the dataclass.
        path: prefix of a field's name in error messages.

    Raises:
        ValueError: for a value outside of its limits, or a tuple of another length.
    """
    kind: Any = type(config)  # the type checker takes a type variable's class for unhashable
    for stated in _stated(kind):
        value = getattr(config, stated.name)
        if value is None and stated.optional:
            continue
        if stated.is_tuple and isinstance(value, Iterable) and not isinstance(value, str | Mapping):
            value = tuple(value)
            object.__setattr__(config, stated.name, value)
            if stated.length not in (None, len(value)):
                raise ValueError(
                    f"{path}{stated.name} must hold {stated.length} values, got {value}"
                )
        _refuse_infinite(value, path + stated.name)
        for limit in stated.limits:
            if not limit.accepts(value):
                raise ValueError(f"{path}{stated.name} must be {limit}, got {value!r}")


def _refuse_infinite(value: Any, path: str) -> None:
    """Every number of a setting is a finite one; ``.inf`` ends as ``nan`` weights."""
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{path} must be finite, got {value!r}")


@cache
def _stated(kind: type) -> tuple[Stated, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(_read(field.name, hints[field.name]) for field in fields(kind))


def _read(name: str, hint: Any) -> Stated:
    hint, limits = _bare(hint)
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = [_bare(member) for member in members if member is not type(None)]
    if len(kinds) == 1:
        limits += kinds[0][1]
    inner = [get_args(kind) for kind, _ in kinds if get_origin(kind) is tuple]
    fixed = len(kinds) == 1 and inner and Ellipsis not in inner[0]
    return Stated(
        name, type(None) in members, limits, bool(inner), len(inner[0]) if fixed else None
    )


def _bare(hint: Any) -> tuple[Any, tuple[Limit, ...]]:
    """A hint without its markers, and the limits that they and a ``Literal`` are."""
    limits: tuple[Limit, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        limits = tuple(mark for mark in marks if isinstance(mark, Ge | Gt | Within | OneOf))
    if get_origin(hint) is Literal:
        limits += (OneOf(get_args(hint)),)
    return hint, limits
