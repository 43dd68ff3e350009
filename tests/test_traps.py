"""The page of traps names tests that exist, and all that are named after a trap."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = re.compile(r"test_((?:t\d+_)+)")


def rows():
    """Trap number -> the row's defence and the tests it names."""
    lines = (ROOT / "docs" / "traps.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| T\d+ ", line)]
    return {
        int(number[1:]): (defence, set(re.findall(r"`(tests/[^`]+::\w+)`", tests)))
        for number, _, defence, tests in cells
    }


def existing_tests():
    """``path::name`` of every test function."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(ROOT).as_posix()}::{node.name}"


def test_every_trap_has_tests_that_exist_or_a_reason():
    existing = set(existing_tests())
    assert list(rows()) == list(range(1, 45))
    for number, (defence, named) in rows().items():
        assert named <= existing, f"T{number}"
        assert bool(named) != defence.startswith("Does not apply:"), f"T{number}"


def test_every_test_named_after_a_trap_is_on_the_page():
    for test in existing_tests():
        match = NUMBERS.match(test.partition("::")[2])
        for number in re.findall(r"\d+", match[1]) if match else ():
            assert test in rows()[int(number)][1], test
