"""Presets: yaml files read into dataclasses, where an unknown key is an error that helps."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from reelrl.algos.grpo import GRPOConfig
from reelrl.algos.policies import FlowPolicyConfig
from reelrl.checks import Ge, check_fields
from reelrl.naming import nearest
from reelrl.zoo.imports import import_all
from reelrl.zoo.plain_yaml import parse_yaml, read_yaml

SHOWN = 100
"""Characters of a setting that an error message repeats."""
PRESETS = Path(__file__).resolve().parent / "presets"
T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationConfig:
    """The examination of a training run.

    Attributes:
        rewards: components, not those trained on.
        prompts: a prompt set by name, or texts.
        clips: number of clips; prompts are taken at equal distances.
        every: iterations between two examinations.
        seed: of the initial noise.

    Raises:
        ValueError: for a number below 1.
    """

    rewards: tuple[str, ...] = ("gold",)
    prompts: str | tuple[str, ...] = "moving_shapes/compositional"
    clips: Annotated[int, Ge(1)] = 32
    every: Annotated[int, Ge(1)] = 10
    seed: Annotated[int, Ge(0)] = 10**6

    def __post_init__(self) -> None:
        check_fields(self, "evaluation.")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        env: id of the environment.
        estimator: name, with a preset after ``@`` if wanted.
        iterations: in all.
        env_args: arguments of the environment that differ from the id's own.
        policy: the policy's settings.
        learner: the learner's settings.
        evaluation: rewards, prompts and clips of the evaluation.

    Raises:
        ValueError: for a negative number of iterations.
    """

    env: str = "reelrl/MovingShapes-v0"
    estimator: str = "grpo"
    iterations: Annotated[int, Ge(0)] = 100
    env_args: dict[str, Any] = field(default_factory=dict)
    policy: FlowPolicyConfig = field(default_factory=FlowPolicyConfig)
    learner: GRPOConfig = field(default_factory=GRPOConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        check_fields(self)


def read_preset(name_or_path: str) -> dict[str, Any]:
    """Values of a shipped preset, or of a yaml file; its ``imports`` are imported.

    Raises:
        ValueError: if there is no such preset and no such file, it is no mapping or no yaml, or an
            import fails.
    """
    path = find_yaml(name_or_path, "preset", PRESETS)
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, got a {type(values).__name__}")
    import_all(values.pop("imports", []), path)
    return values


def find_yaml(name_or_path: str, kind: str, folder: Path, but: Collection[str] = ()) -> Path:
    """The file of a name that ships, or the yaml file itself.

    Args:
        name_or_path: name of a file that ships, or path of a yaml file.
        kind: name of the kind in error messages.
        folder: of the files that ship.
        but: names of files in it that are of another kind.

    Raises:
        ValueError: if there is none.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"there is no file {name_or_path} in {Path.cwd()}")
        return path
    path = folder / f"{name_or_path}.yaml"
    if name_or_path in but or not path.is_file():
        known = {found.stem for found in folder.glob("*.yaml")} - set(but)
        raise ValueError(
            f"unknown {kind} {name_or_path!r}{nearest(name_or_path, known)}, or the path of a yaml "
            "file"
        )
    return path


def override(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Values with ``"learner.learning_rate=1e-4"`` and the like put in.

    Raises:
        ValueError: for a setting without ``=``, a value that is no yaml, or a path through
            something that is no mapping.
    """
    changed: dict[str, Any] = dict(values)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"a setting is key=value, got {setting!r}")
        place = changed
        *parents, last = path.split(".")
        for parent in parents:
            inner = place.get(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path!r}: {parent!r} holds {inner!r} and has no keys")
            place[parent] = place = dict(inner)
        place[last] = parse_yaml(text, setting if len(setting) < SHOWN else path)
    return changed


def build(kind: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """A dataclass from plain values, checked key by key and type by type.

    Raises:
        ValueError: for an unknown key, naming the nearest known one, or a value of another type.
    """
    hints = _hints(kind)
    # Callers pass dataclasses, which a type variable cannot say.
    known = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(
                f"unknown key {path + str(key)!r}{_elsewhere(kind, key) or nearest(key, known)}"
            )
    for entry in dataclasses.fields(kind):  # type: ignore[arg-type]
        if entry.name not in values and not _has_default(entry):
            raise ValueError(f"missing key {path + entry.name!r}: {_name(hints[entry.name])}")
    return kind(**{k: _convert(hints[k], v, path + k) for k, v in values.items()})


def _has_default(entry: dataclasses.Field[Any]) -> bool:
    return (entry.default, entry.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)


def find_setting(kind: Any, name: str, path: str = "") -> str:
    """The dotted key whose last part is ``name`` in a dataclass or one inside; empty if none is."""
    for key, hint in _hints(kind).items():
        if key == name:
            return path + key
        if dataclasses.is_dataclass(hint) and (found := find_setting(hint, name, f"{path}{key}.")):
            return found
    return ""


def _elsewhere(kind: Any, name: str) -> str:
    """A hint at a key of that name in one of the dataclasses inside; empty if there is none."""
    found = find_setting(kind, name)
    return f"; did you mean {found!r}?" if found else ""


# Kept: evaluating annotations is most of the time of reading a suite of thousands of runs.
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """A yaml value as the type that is asked for; yaml reads ``1e-4`` as text."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} must hold keys and values, got {value!r}")
        return build(hint, value, f"{path}.")
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _first_fit(get_args(hint), value, path)
    if origin is tuple and isinstance(value, list | tuple):
        inner = get_args(hint)[0]
        return tuple(_convert(inner, item, path) for item in value)
    if origin is Literal and value in get_args(hint):
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    plain = hint if isinstance(hint, type) else origin
    if hint is Any or (plain in (int, str, bool, dict, type(None)) and type(value) is plain):
        return value
    wanted = ", ".join(map(repr, get_args(hint))) if origin is Literal else _name(hint)
    raise ValueError(f"{path} must be {wanted}, got {value!r}")


def _first_fit(hints: Sequence[Any], value: Any, path: str) -> Any:
    for hint in hints:
        try:
            return _convert(hint, value, path)
        except ValueError:
            continue
    raise ValueError(f"{path} must be {' or '.join(map(_name, hints))}, got {value!r}")


def _name(hint: Any) -> str:
    """A type as yaml calls it."""
    if hint is type(None):
        return "null"
    if get_origin(hint) is tuple:
        return "list"
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
