"""Shape annotations, checked at run time: ``Float[Tensor, "P G K"]`` in a signature is a test.

The annotations of ``envs`` and ``algos`` are strings, and jaxtyping is imported for type checkers
alone, so that the library runs without it. Here an import hook wraps every function and dataclass
that has such an annotation, after its module has run and before anybody imports from it. A call
binds the letters: N of one argument is N of all of them and of the result.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.abc
import importlib.machinery
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jaxtyping
import torch
from jaxtyping import jaxtyped

PACKAGES = ("reelrl.envs", "reelrl.algos")
SHAPED = re.compile(r"\b(?:Float|Int|Bool|UInt8|Shaped)\[")
NAMES = {name: getattr(jaxtyping, name) for name in ("Float", "Int", "Bool", "UInt8", "Shaped")}
checked: dict[str, int] = {}
"""Module -> how many of its functions and dataclasses are checked."""


class ShapeError(TypeError):
    """A tensor or array has another shape or dtype than the signature says."""


def install() -> None:
    """Check all modules of :data:`PACKAGES` that are imported from now on.

    Raises:
        RuntimeError: if one of them is imported already, and would go unchecked.
    """
    early = [name for name in sys.modules if name.startswith(PACKAGES)]
    if early:
        raise RuntimeError(f"imported before their shapes could be checked: {early[:3]}")
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(PACKAGES):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self.loader.exec_module(module)
        checked[module.__name__] = wrap_module(module)


def wrap_module(module: types.ModuleType) -> int:
    """Wrap what the module defines; returns how many functions and dataclasses it was."""
    count = 0
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            count += _wrap_class(value)
        elif callable(value) and hasattr(value, "__annotations__"):
            wrapped = checking(value)
            if wrapped is not value:
                setattr(module, name, wrapped)
                count += 1
    return count


def _wrap_class(cls: type) -> int:
    count = 0
    for name, value in list(vars(cls).items()):
        made: Any = value
        if isinstance(value, classmethod | staticmethod):
            function = checking(value.__func__)
            made = value if function is value.__func__ else type(value)(function)
        elif isinstance(value, property) and value.fget is not None:
            getter = checking(value.fget)
            made = (
                value if getter is value.fget else property(getter, value.fset, doc=value.__doc__)
            )
        elif isinstance(value, functools.cached_property):
            getter = checking(value.func)
            if getter is not value.func:
                made = functools.cached_property(getter)
                made.__set_name__(cls, name)
        elif inspect.isfunction(value) and name != "__init__":
            made = checking(value)
        if made is not value:
            setattr(cls, name, made)
            count += 1
    return count + _wrap_fields(cls)


def _wrap_fields(cls: type) -> int:
    """Check the fields of a dataclass when it is made."""
    own = vars(cls).get("__annotations__", {})
    shaped = {name: text for name, text in own.items() if _is_shaped(text)}
    if not shaped or not dataclasses.is_dataclass(cls) or "__init__" not in vars(cls):
        return 0
    initial = cls.__init__
    hints = _Hints(sys.modules[cls.__module__], shaped)

    @functools.wraps(initial)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        initial(self, *args, **kwargs)
        with jaxtyped("context"):
            for name, hint in hints.items():
                _check(getattr(self, name), hint, f"{cls.__qualname__}.{name}")

    cls.__init__ = __init__  # type: ignore[misc]
    return 1


def checking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its shaped arguments and results checked, or itself if it has none."""
    annotations = getattr(function, "__annotations__", {})
    shaped = {name: text for name, text in annotations.items() if _is_shaped(text)}
    if not shaped or inspect.isgeneratorfunction(inspect.unwrap(function)):
        return function
    inner = inspect.unwrap(function)
    hints = _Hints(sys.modules[inner.__module__], shaped)
    signature = inspect.signature(inner)
    where = inner.__qualname__

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            # First, so that what the function refuses it refuses in its own words.
            result = function(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            for name, hint in hints.items():
                if name in given:
                    _check(given[name], hint, f"{where}({name})")
            if "return" in hints.texts:
                _check(result, hints["return"], f"{where}() ->")
            return result

    return wrapper


def _is_shaped(annotation: object) -> bool:
    return isinstance(annotation, str) and SHAPED.search(annotation) is not None


class _Hints:
    """Annotations as types, made when they are first asked for: a module may name later ones."""

    def __init__(self, module: types.ModuleType, texts: dict[str, str]) -> None:
        self.module, self.texts = module, texts
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            scope = {**vars(typing), "Tensor": torch.Tensor, **vars(self.module), **NAMES}
            self._made[name] = eval(self.texts[name], scope)  # an annotation of our own sources
        return self._made[name]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, self[name]) for name in self.texts if name != "return"]


def _check(value: Any, hint: Any, where: str) -> None:
    """Raise unless the value fits; of a union one member must."""
    if typing.get_origin(hint) is tuple and isinstance(value, tuple):
        parts = typing.get_args(hint)
        for place, (item, part) in enumerate(zip(value, parts, strict=False)):
            if part is not Ellipsis:
                _check(item, part, f"{where}[{place}]")
        return
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    shaped = [option for option in options if hasattr(option, "dim_str")]
    kinds = (torch.Tensor, *{option.array_type for option in shaped})
    # A number where a tensor or a number may stand is none of our business.
    if not shaped or not isinstance(value, kinds):
        if value is None and type(None) not in options and shaped:
            raise ShapeError(f"{where}: expected {hint}, got None")
        return
    if not any(isinstance(value, option) for option in shaped):
        wanted = " | ".join(f"{option.__name__}" for option in shaped)
        raise ShapeError(
            f"{where}: expected {wanted}, got {value.dtype} of shape {tuple(value.shape)}"
        )
