"""Every setting is listed in the form in which it is set."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from reelrl.algos.advantages import estimator_class, list_estimators
from reelrl.algos.learners.policy_gradient import LossConfig
from reelrl.checks import Ge
from reelrl.zoo.cli import main
from reelrl.zoo.documents.settings_list import attribute_texts, listing, settings_of
from reelrl.zoo.settings import TrainConfig, build, override, read_preset


def leaves(config, path=""):
    """Dotted key -> class whose docstring should tell of it."""
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{path}{entry.name}.")
        else:
            yield path + entry.name, type(config)


def first_sentence(kind, name):
    """Read off the docstrings as running text, in another way than the list does."""
    for cls in kind.__mro__:
        text = " ".join((cls.__doc__ or "").split()).replace("``", "")
        found = re.search(rf" {name}: (.+?)(?=\.(?: |$)|; | \w+: )", text.partition("Attrib")[2])
        if found:
            return re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"\1", found[1])
    raise AssertionError(f"{kind} does not tell of {name}")


def words(text):
    return " ".join(text.split())


def test_help_of_train_lists_every_setting_with_its_first_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    options, _, printed = words(capsys.readouterr().out).partition("settings for --set")
    assert stop.value.code == 0 and "--iterations" in options
    found = dict(leaves(TrainConfig()))
    assert len(found) > 50
    for key, kind in found.items():
        shown = f"{key}.NAME=" if key == "env_args" else f"{key}="
        assert f" {shown}" in printed, key
        said = printed.split(f" {shown}", 1)[1]
        assert first_sentence(kind, key.rpartition(".")[2]) in said[:600], key


def test_what_is_listed_can_be_given_back():
    values = read_preset("nano-full")
    config = build(TrainConfig, values)
    lines = [line for line in listing(config).split("\n") if not line.startswith(" ")]
    given = [line.rsplit("  (", 1)[0] for line in lines]
    settings = [setting for setting in given if not setting.startswith("env_args.NAME=")]
    assert len(settings) > 50
    assert build(TrainConfig, override({"env_args": config.env_args}, settings)) == config
    (arguments,) = set(given) - set(settings)
    named = override({}, [arguments])["env_args"]["NAME"]
    assert named == config.env_args
    assert override({}, ["env_args.num_steps=3"])["env_args"] == {"num_steps": 3}


def test_a_new_setting_is_listed_by_itself():
    @dataclass(frozen=True)
    class Wider(LossConfig):
        """Settings with one more.

        Attributes:
            warmth: how warm the loss is
                to the touch; see :func:`~a.module.name` and ``x``.
        """

        warmth: Annotated[int, Ge(3)] = 4

    text = listing(Wider())
    assert (
        "warmth=4  (int, at least 3)\n    how warm the loss is to the touch; see name and" in text
    )
    assert "clip_range=0.025  (float, positive)" in text and "in units of" in text


@dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
        a: of the base.
        b: of the base.

    Raises:
        ValueError: never.
    """

    a: Literal["x", "y"] = "x"
    b: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Derived(Base):
    """Derived.

    Attributes:
        b: of the derived class.
    """

    c: dict = field(default_factory=dict)


def test_texts_come_from_the_nearest_class_that_has_one():
    assert attribute_texts(Derived) == {"a": "of the base.", "b": "of the derived class."}
    kinds = {setting.key: setting.kind for setting in settings_of(Derived())}
    assert kinds == {"a": "x | y", "b": "[float, ...] or null", "c.NAME": "any"}


def test_list_settings_prints_the_values_of_a_preset(capsys):
    main(["list", "settings"])
    quick = capsys.readouterr().out
    assert "values of the preset nano-quick" in quick and "\niterations=30  (int" in quick
    main(["list", "settings", "nano-full"])
    full = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--preset=nano-full", "--help"])
    assert capsys.readouterr().out.endswith(full) and full != quick


@pytest.mark.parametrize("name", list_estimators())
def test_list_estimators_prints_the_settings_of_each(name, capsys):
    for preset in ("", *estimator_class(name).presets):
        main(["list", "estimators", f"{name}@{preset}" if preset else name])
        printed = capsys.readouterr().out
        assert printed.startswith(f"settings of {name}")
        for key, kind in leaves(estimator_class(name).Config()):
            assert f"\n{key.partition('.')[0]}" in printed, (kind, key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "rewards", "gold"], "list rewards takes no name, got 'gold'"),
        (["list", "estimators", "gropo"], "unknown estimator 'gropo'; did you mean 'grpo'? Known"),
        (["list", "settings", "nano"], "unknown preset 'nano'"),
        (["train", "--preset", "nano", "--help"], "unknown preset 'nano'"),
    ],
)
def test_a_wrong_name_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and len(error.splitlines()) == 1
