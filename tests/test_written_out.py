"""Dtype, device, encoding and trust are written out, so that no ambient setting decides them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("reelrl", "rewards", "envs", "algos", "zoo")
SOURCES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
NUMBERS = [p for p in SOURCES if p.relative_to(ROOT).parts[0] in ("rewards", "envs", "algos")]
MAKERS = {
    *("tensor", "zeros", "ones", "full", "empty", "arange", "linspace", "rand", "randn", "randint"),
    *("randperm", "eye", "hann_window"),
}


def calls(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def keywords(call):
    return {keyword.arg for keyword in call.keywords}


def without_dtype_or_device(source):
    return [
        f"line {call.lineno}: torch.{call.func.attr}"
        for call in calls(source)
        if isinstance(call.func, ast.Attribute)
        and getattr(call.func.value, "id", "") == "torch"
        and call.func.attr in MAKERS
        and not {"dtype", "device"} <= keywords(call)
    ]


def running_foreign_code(source):
    return [
        f"line {call.lineno}"
        for call in calls(source)
        if getattr(call.func, "attr", "") == "from_pretrained"
        and "local_files_only" in keywords(call)
        and "trust_remote_code" not in keywords(call)
    ]


def without_encoding(source):
    return [
        f"line {call.lineno}: {call.func.attr}"
        for call in calls(source)
        if getattr(call.func, "attr", "") in ("read_text", "write_text")
        and "encoding" not in keywords(call)
    ]


@pytest.mark.parametrize(
    "check, files",
    [
        (without_dtype_or_device, NUMBERS),
        (running_foreign_code, SOURCES),
        (without_encoding, SOURCES),
    ],
)
def test_nothing_is_left_to_ambient_settings(check, files):
    found = {str(path.relative_to(ROOT)): check(path.read_text("utf-8")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_checks_see_what_they_look_for():
    assert without_dtype_or_device("x = torch.zeros(3, dtype=d)") == ["line 1: torch.zeros"]
    assert without_dtype_or_device("x = torch.zeros(3, dtype=d, device=e)") == []
    assert running_foreign_code("A.from_pretrained(f, local_files_only=True)") == ["line 1"]
    assert without_encoding("p.read_text()") == ["line 1: read_text"]
