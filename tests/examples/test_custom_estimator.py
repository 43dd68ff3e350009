"""A new estimator takes one file: the example registers itself and works everywhere by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_example_runs_in_a_fresh_interpreter() -> None:
    # A process of its own, so that the registry of the other tests stays as shipped.
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "custom_estimator.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 4 and lines[-1] == "one line: (64,)"
    assert lines[0].startswith("failure_weighted") and lines[2].startswith("gdpo")


def test_example_formula_against_a_loop() -> None:
    code = """
import sys; sys.path.insert(0, "examples")
import numpy as np
from custom_estimator import FailureWeighted, make_estimator, RewardBatch
r = np.random.default_rng(1).random((2, 5, 2))
out, _ = make_estimator("failure_weighted", power=2.0)(RewardBatch(r, ("a", "b")))
for g in range(2):
    expected = np.zeros(5)
    for k in range(2):
        x = r[g, :, k]
        expected += (1 - x.mean()) ** 2 * (x - x.mean()) / (x.std(ddof=1) + 1e-8)
    np.testing.assert_allclose(out.advantages[g], expected)
try:
    make_estimator("failure_weighted", powr=2.0)
except ValueError as error:
    assert "did you mean 'power'" in str(error)
else:
    raise AssertionError("unknown setting taken")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
