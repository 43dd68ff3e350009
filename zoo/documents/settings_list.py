"""Every setting of a training run: ``reelrl list settings``, and the end of ``train --help``."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from reelrl.zoo.settings import TrainConfig, build, read_preset

PRESET = "nano-quick"
WIDTH = 92
ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8,}.*|\n(?=\n {8}))*)", re.MULTILINE)
"""A line of an ``Attributes:`` section, with the lines that go on below it."""
ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")


@dataclass(frozen=True)
class Setting:
    """One value that can be set.

    Attributes:
        key: dotted, as ``--set`` takes it.
        kind: its permitted values.
        value: its present value.
        text: its effect, from the docstring of its dataclass.
    """

    key: str
    kind: str
    value: Any
    text: str


def settings_of(config: Any, path: str = "") -> Iterator[Setting]:
    """All settings of a dataclass and of the dataclasses in it, in the order of their fields."""
    hints = get_type_hints(type(config), include_extras=True)
    texts = attribute_texts(type(config))
    for field in dataclasses.fields(config):
        key, value = path + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{key}.")
        elif isinstance(value, dict):
            yield Setting(f"{key}.NAME", "any", value, texts.get(field.name, ""))
        else:
            yield Setting(key, kind_of(hints[field.name]), value, texts.get(field.name, ""))


def attribute_texts(kind: type) -> dict[str, str]:
    """Field -> its text in the ``Attributes:`` of the class, or of the nearest base that has it."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        section = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        # The next section, such as "Raises:", begins at the margin.
        section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
        for name, text in ENTRY.findall(section):
            found[name] = " ".join(ROLE.sub(r"\1", text).replace("``", "").split())
    return found


def kind_of(hint: Any) -> str:
    """A type in words, with the limits that its annotation states."""
    if get_origin(hint) is Annotated:
        inner, *limits = get_args(hint)
        return ", ".join([kind_of(inner), *map(str, limits)])
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(kind_of(member) for member in get_args(hint))
    if get_origin(hint) is tuple:
        members = ["..." if member is ... else kind_of(member) for member in get_args(hint)]
        return f"[{', '.join(members)}]"
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def listing(config: Any) -> str:
    """The settings of a dataclass, one paragraph each."""
    lines = []
    for setting in settings_of(config):
        lines.append(f"{setting.key}={as_yaml(setting.value)}  ({setting.kind})")
        lines += textwrap.wrap(
            setting.text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4
        )
    return "\n".join(lines)


def as_yaml(value: Any) -> str:
    """A value in one line, as ``--set`` reads it."""
    text: str = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, sort_keys=False)
    # A document of a bare value ends with a line of dots.
    return text.removesuffix("...\n").strip()


def _plain(value: Any) -> Any:
    """Tuples as lists, and steps around an estimator as the dicts that they can be made from."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"name": getattr(value, "name", ""), **dataclasses.asdict(value)}
    return value


def help_text(preset: str = PRESET) -> str:
    """All settings of a training run with the values of a preset.

    Raises:
        ValueError: for an unknown preset.
    """
    head = f"settings for --set, with the values of the preset {preset}:"
    return f"{head}\n\n{listing(build(TrainConfig, read_preset(preset)))}"


def main() -> None:
    """Print the settings of a training run."""
    print(help_text())


def detail(name: str) -> None:
    """Print the settings of a training run with the values of a preset."""
    print(help_text(name))
