"""Presets: yaml files read into dataclasses, where an unknown key is an error that helps."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from reelrl.algos.grpo import GRPOConfig
from reelrl.algos.policies import FlowPolicyConfig
from reelrl.checks import Ge, check_fields
from reelrl.naming import nearest

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
    seed: int = 10**6

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
        evaluation: what is watched.

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
    """Values of a shipped preset, or of a yaml file.

    Raises:
        ValueError: if there is no such preset and no such file, or it is no mapping or no yaml.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESETS / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(preset.stem for preset in PRESETS.glob("*.yaml"))
        raise ValueError(
            f"unknown preset {name_or_path!r}{nearest(name_or_path, known)}, or the path of a yaml "
            "file"
        )
    values = _read(path.read_text(), str(path)) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, got a {type(values).__name__}")
    return values


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
        place[last] = _read(text, setting)
    return changed


def _read(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its message is a drawing of several lines.
        raise ValueError(f"{source} is no yaml: {' '.join(str(error).split())}") from error


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
            raise ValueError(f"unknown key {path + str(key)!r}{nearest(str(key), known)}")
    return kind(**{k: _convert(hints[k], v, path + k) for k, v in values.items()})


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
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
