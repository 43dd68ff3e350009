"""The one reader of yaml: plain values as yaml has them, and one line for everything else."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reelrl.zoo import plain_yaml
from reelrl.zoo.plain_yaml import parse_yaml, read_yaml
from reelrl.zoo.settings import PRESETS, TrainConfig, build, override, read_preset

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc1.-e:# "),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcd"), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("path", sorted(PRESETS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_files_that_ship_are_read_as_yaml_reads_them(path):
    assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@given(PLAIN)
def test_plain_values_come_back(value):
    assert parse_yaml(yaml.safe_dump(value), "x") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("a: 1e-4", {"a": "1e-4"}), ("a: 0x10", {"a": 16}), ("a: on", {"a": True}),
        # A caption may be a date, which is no plain value.
        ("[2024-01-01]", ["2024-01-01"]), ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
    ],
)  # fmt: skip
def test_what_is_read(text, value):
    assert parse_yaml(text, "x") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x, line 3, column 1: expected every key once, got 'a' again"),
        ("a: {b: 1, b: 2}", "x, line 1, column 11: expected every key once, got 'b' again"),
        ("a: 1\n---\nb: 2", "x, line 2, column 1: expected one document"),
        ("!!python/name:os.system x", "x, line 1, column 1: expected plain values, got the tag"),
        ("a: !!timestamp 1", "x, line 1, column 4: expected plain values, got the tag"),
        ("a: !mine 1", "got the tag '!mine'"),
        ("[a]: 1", "x, line 1, column 1: expected a text as key"),
        ("yes: 1", "expected a text as key, got True: put it in quotes"),
        ("1: 1", "expected a text as key, got 1: put it in quotes"),
        ("&a [*a]", "expected an anchor above the alias 'a'"),
        ("[" * 500, "x, line 1, column 41: expected at most 40 levels of nesting"),
        ("{a: " * 500, "expected at most 40 levels of nesting"),
        ("\n".join(" " * i + "- - - -" for i in range(500)), "x"),
        ("a: b: c", "x is no yaml: mapping values are not allowed"),
        ("\ta: 1", "x is no yaml: while scanning"),
        ("a\0b", "x is no yaml: unacceptable character"),
        ("9" * 5000, "x, line 1, column 1: expected a number"),
        ("\ud800", "must be text"),
        ("a" * 1_000_001, "x must have at most 1000000 characters, got 1000001"),
        ("a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]"
                                     for i in range(1, 20)), "expected at most 200000 values"),
    ],
    ids=lambda value: value[:12].encode("unicode_escape").decode(),
)  # fmt: skip
def test_the_rest_is_one_line_at_once(text, message):
    started = time.monotonic()
    with pytest.raises(ValueError) as error:
        parse_yaml(text, "x")
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("loader", [yaml.SafeLoader, plain_yaml._Loader])
@given(text=st.text("ab:-[]{},&*!|>'\"#%@ \n\t?\0é1.", max_size=40))
def test_whatever_the_text_it_is_a_value_or_a_line(loader, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_yaml, "_Loader", loader)
        try:
            parse_yaml(text, "x")
        except ValueError as error:
            assert len(str(error).splitlines()) == 1


def test_another_encoding_is_told_with_file_and_byte(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("env_args: {prompts: ['ein Mädchen läuft']}".encode("cp1252"))
    with pytest.raises(ValueError) as error:
        read_preset(str(path))
    assert str(error.value) == f"{path} must be text in UTF-8, got byte 0xe4 at 27"
    path.write_text("env_args: {prompts: ['ein Mädchen läuft']}", encoding="utf-8-sig")
    assert read_preset(str(path)) == {"env_args": {"prompts": ["ein Mädchen läuft"]}}


def test_a_block_that_comes_twice_in_a_preset_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("learner: {learning_rate: 1e-2}\nlearner: {group_size: 2}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2, column 1: .* got 'learner' again"):
        read_preset(str(path))


@pytest.mark.parametrize(
    "setting", ["iterations=" + "[" * 500, "iterations=!!timestamp 1", "iterations={a: 1, a: 2}"]
)
def test_a_setting_is_read_by_the_same_reader(setting):
    with pytest.raises(ValueError, match=r"^iterations"):
        override({}, [setting])


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("learning_rate=1e-4", "did you mean 'learner.learning_rate'?"),
        ("lora_rank=4", "did you mean 'policy.lora_rank'?"),
        ("last_step=1", "did you mean 'learner.rollout.last_step'?"),
    ],
)
def test_a_key_of_an_inner_block_is_found_by_its_last_part(setting, hint):
    with pytest.raises(ValueError) as error:
        build(TrainConfig, override({}, [setting]))
    assert str(error.value).endswith(hint)
