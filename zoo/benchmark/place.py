"""The machine and the software that run a benchmark."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import reelrl


def facts_of(command: str) -> dict[str, Any]:
    """Command, versions, and :func:`place`."""
    return {
        "command": command,
        **place(),
        "versions": {
            "reelrl": reelrl.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


@cache
def place() -> dict[str, str | None]:
    """Commit of the code and the machine: numbers of others may round differently."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "machine": f"{os.cpu_count()} cores ({_processor()}, "
        f"{torch.backends.cpu.get_cpu_capability()}), {platform.system()}, "
        f"torch {torch.__version__}",
    }


def _git(*words: str) -> str | None:
    here = Path(__file__).resolve().parent
    answer = subprocess.run(
        ["git", "-C", str(here), *words], capture_output=True, text=True, encoding="utf-8"
    )
    return answer.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text(encoding="utf-8").splitlines() if info.is_file() else ())
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()
