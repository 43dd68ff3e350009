"""Commands started as processes of their own, to be signalled, killed and left without a reader."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TINY = (
    "env_args.num_steps=2",
    "learner.prompts_per_iteration=1",
    "learner.group_size=2",
    "learner.micro_batch=4",
    "learner.rollout.last_step=0",
    "evaluation.clips=1",
)
PATIENCE = 300.0


def start(arguments, **options):
    """``reelrl`` with these arguments, its output in pipes unless said otherwise."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "reelrl", *arguments], env=environment, **given)


def train(folder, iterations, *settings, **options):
    """A training of a second."""
    out = ["--iterations", str(iterations), "--out", str(folder)]
    return start(["train", "--set", *TINY, *settings, *out], **options)


def wait_until(true, process=None, pause=0.02):
    """Wait for a condition; a process that ends before is a failure."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)


def rows_in(folder):
    """Lines of a run's metrics so far."""
    path = Path(folder) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def descendants(pid):
    """Ids of the processes below one, from the system's table."""
    found, parents = [], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def alive(pid):
    """True for a process that runs; one that waits to be collected does not."""
    try:
        status = (Path("/proc") / str(pid) / "stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
