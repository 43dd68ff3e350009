"""The scripts that measure speed still find what they time; their numbers are nobody's claim."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

SCRIPTS = {
    # The share of rewards is of calls that the script wraps by name: 0 if it wraps the wrong one.
    "environment": ("--sub-envs 2 --repeats 1", r"\| 2 \| torch \|(?: [\d.]+ %? ?\|){4} [1-9.]"),
    "judge": ("--clips 8 --sub-envs 4 --latency 0.01 --repeats 1", "same scores: True"),
    "learner": ("--prompts 1 --group-size 2 --num-steps 3 --repeats 1", r"reward +0\.00[1-9]"),
}
"""Module -> the smallest run of it, and a pattern that its output must show."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_and_finds_what_it_times(name):
    arguments, shown = SCRIPTS[name]
    done = subprocess.run(
        [sys.executable, "-m", f"reelrl.zoo.speed.{name}", *arguments.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(shown, done.stdout), done.stdout
