"""The list of planted faults fits the sources, and its runner can tell the living from the dead."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

# The processes that run tests import the script by its name, too.
sys.path.insert(0, str(Path(__file__).parent))
import faults

ROOT = Path(__file__).resolve().parents[1]
LISTED = faults.read_faults()
SCHEDULE = faults.Fault(
    group="example",
    name="the shift bends the other way",
    path="envs/schedule.py",
    old="return level / (level + (1 - level) / shift)",
    new="return level / (level + (1 - level) * shift)",
    tests=("tests/envs/test_schedule.py",),
)


@pytest.mark.parametrize("fault", LISTED, ids=lambda fault: fault.name)
def test_a_fault_applies_to_the_sources_as_they_are(fault):
    text = (ROOT / fault.path).read_text()
    planted = fault.planted_in(text)
    assert planted != text
    compile(planted, fault.path, "exec")
    for test in fault.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), test
        assert not name or f"def {name}(" in (ROOT / path).read_text(), test


def test_names_are_different():
    assert [name for name, count in Counter(f.name for f in LISTED).items() if count > 1] == []


def test_a_text_that_is_gone_or_there_twice_is_an_error():
    with pytest.raises(ValueError, match=r"text once in envs/schedule\.py, found it 0 times"):
        SCHEDULE.planted_in("")
    with pytest.raises(ValueError, match="found it 2 times"):
        SCHEDULE.planted_in(2 * (ROOT / SCHEDULE.path).read_text())


@pytest.mark.slow
def test_a_harmless_edit_survives_and_a_fatal_one_dies(capsys, monkeypatch):
    harmless = replace(SCHEDULE, name="nothing", new="return level / ((1 - level) / shift + level)")
    before = (ROOT / SCHEDULE.path).read_bytes()
    monkeypatch.setattr(faults, "read_faults", lambda: [harmless, SCHEDULE])
    assert faults.main(["--jobs", "1"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [
        "SURVIVES envs/schedule.py: nothing",
        "killed envs/schedule.py: the shift bends the other way",
    ]
    assert [line.split() for line in told[3:5]] == [
        ["example", "2", "1", "50%"],
        ["all", "2", "1", "50%"],
    ]
    assert told[-1] == "survives: nothing (envs/schedule.py)"
    assert (ROOT / SCHEDULE.path).read_bytes() == before


def test_a_pattern_of_group_name_or_path_picks_faults(capsys, monkeypatch):
    others = [replace(SCHEDULE, name=f"fault {i}", path=f"envs/{i}.py") for i in range(3)]
    monkeypatch.setattr(faults, "read_faults", lambda: [SCHEDULE, *others])
    monkeypatch.setattr(faults, "noticed", lambda picked, jobs: [(f, True) for f in picked])
    for pattern, count in (("bends", 1), (r"envs/[12]\.py", 2), ("^example", 4)):
        assert faults.main(["--only", pattern]) == 0
        assert capsys.readouterr().out.splitlines()[-1].split() == [
            "all",
            *2 * [str(count)],
            "100%",
        ]
    with pytest.raises(SystemExit):
        faults.main(["--only", "nowhere"])


def test_tests_that_fail_by_themselves_tell_nothing(tmp_path):
    bad = tmp_path / "test_bad.py"
    bad.write_text("def test_bad():\n    assert False\n")
    with pytest.raises(RuntimeError, match="the tests fail without any fault"):
        list(faults.noticed([replace(SCHEDULE, tests=(str(bad),))], jobs=1))
    with pytest.raises(RuntimeError, match=r"pytest on .*no_such_file"):
        list(faults.noticed([replace(SCHEDULE, tests=("tests/no_such_file.py",))], jobs=1))


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("REELRL_FAULTS") != "1",
    reason="plants every fault, which takes longer than all other tests: set REELRL_FAULTS=1, or "
    "run `make faults`",
)
def test_every_fault_is_killed():
    dead = {fault.name: found for fault, found in faults.noticed(LISTED)}
    print(faults.table(LISTED, dead))
    assert [name for name, found in dead.items() if not found] == []
