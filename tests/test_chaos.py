"""A few trials of chaos; `python tests/chaos.py` makes as many as are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks trainings and kills them"),
]


@pytest.mark.parametrize(
    ("kind", "trials"),
    [
        ("kill", 3),
        ("stop", 3),
        ("checkpoint", 150),
        ("results", 60),
        ("settings", 100),
    ],
)
def test_nothing_wrong_is_believed(kind, trials):
    script = Path(__file__).with_name("chaos.py")
    command = [sys.executable, str(script), "--trials", str(trials), "--only", kind]
    made = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
