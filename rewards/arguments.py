"""Checks of constructor arguments: a wrong one ends in one line that names values that fit."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from reelrl.naming import nearest

T = TypeVar("T")
PASSED_ON = "passes_settings_to"
"""Attribute of a class whose ``**settings`` go to the constructor of other classes."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def build_with(make: Callable[..., T], arguments: Mapping[str, Any], what: str) -> T:
    """``make(**arguments)``, where arguments that do not fit are told in one line.

    Args:
        make: a class or function.
        arguments: by name.
        what: name of the object, for the message, for example ``"reward 'gold'"``.

    Raises:
        ValueError: for an unknown name, with the nearest known one, a missing argument, or a value
            that is not of the type its annotation says.
    """
    known, hints = settings_of(make)
    _check_names(arguments, known, what)
    for name, value in arguments.items():
        if name in hints and not fits(value, hints[name]):
            raise ValueError(f"{what}: {name} must be {_written(hints[name])}, got {value!r}")
    try:
        return make(**arguments)
    except (TypeError, AttributeError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ValueError(
            f"{what} cannot be made with ({given}): {error}; it takes "
            f"{', '.join(known) or 'no settings'}"
        ) from error


def settings_of(
    make: Callable[..., Any],
) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Arguments by name and their annotations, with the arguments that ``**config`` passes on."""
    known: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for number, function in enumerate(_constructors(make)):
        parameters = list(inspect.signature(function).parameters.values())
        found = _hints(make if dataclasses.is_dataclass(make) else function)
        for parameter in parameters[1:] if inspect.isclass(make) else parameters:
            if parameter.kind in _NAMED and parameter.name not in known:
                known[parameter.name] = parameter
                if parameter.name in found:
                    hints[parameter.name] = found[parameter.name]
        if not number and all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return known, hints


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a simple type: a number, text, flag, None, or a list of those.

    Of anything else the constructor itself is to judge. A whole number is a number, True is none. A
    list stands for a tuple, and a mapping of fields for a dataclass.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        return fits(value, get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in get_args(hint))
    if origin is Literal:
        return True  # the choices are for the constructor to name
    if origin is tuple:
        members = get_args(hint)
        listed = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
        each = len(members) == 2 and members[1] is Ellipsis and isinstance(value, list | tuple)
        return listed and not (each and not all(fits(item, members[0]) for item in value))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return isinstance(value, hint | Mapping)
    kinds: dict[Any, tuple[type, ...]] = {
        float: (Real,),
        int: (Integral,),
        str: (str,),
        bool: (bool,),
        type(None): (type(None),),
        Path: (Path, str),
    }
    if hint is bool or hint not in kinds:
        return hint is not bool or isinstance(value, bool)
    return isinstance(value, kinds[hint]) and not isinstance(value, bool)


def _check_names(
    arguments: Mapping[str, Any], known: Mapping[str, inspect.Parameter], what: str
) -> None:
    for name in arguments:
        if name not in known:
            raise ValueError(f"{what} has no setting {name!r}{nearest(name, known)}")
    empty = inspect.Parameter.empty
    missing = [n for n, p in known.items() if p.default is empty and n not in arguments]
    if missing:
        raise ValueError(
            f"{what} needs {', '.join(missing)}, got {', '.join(arguments) or 'no settings'}; its "
            f"settings: {', '.join(known)}"
        )


def _constructors(make: Any) -> list[Any]:
    """The function itself, or the function that a class's ``__init__`` hands ``**config`` on to."""
    if not inspect.isclass(make):
        return [make]
    own = [k.__dict__["__init__"] for k in make.__mro__[:-1] if "__init__" in k.__dict__]
    passed = [f for kind in getattr(make, PASSED_ON, ()) for f in _constructors(kind)]
    # Behind the first class that takes ``**settings`` for others stand those others.
    return own[:1] + passed if passed else own


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # a name that is imported for type checkers alone
        return {}


def _written(hint: Any) -> str:
    """An annotation as a reader writes it."""
    if get_origin(hint) is tuple:
        member = get_args(hint)[0]
        return "a list" if member is Any else f"a list of {_written(member)}"
    origin = get_origin(hint)
    if origin is Annotated:
        return _written(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_written(member) for member in get_args(hint))
    if origin is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if hint is type(None):
        return "None"
    return getattr(hint, "__name__", str(hint))
