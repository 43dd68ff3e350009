"""The record of a finished run: settings, minutes, machine; ships beside the weights."""

from __future__ import annotations

import json
import os
import platform
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RECORD = "training.json"
STAGES = {stage: f"{stage}/loss" for stage in ("vae", "decoder", "generator")}
"""Stage -> a TensorBoard scalar it logs throughout."""
LONGEST_PAUSE = 600.0
"""Seconds between two logged points beyond which the run is taken to have been stopped."""


def stage_seconds(log: Path, tag: str) -> float:
    """Seconds that a stage ran, from its logged points, without pauses between kill and resume.

    A lower bound: the time before the first logged point is not in the log.
    """
    events = EventAccumulator(str(log), size_guidance={"scalars": 0})
    events.Reload()
    times: list[float] = sorted(point.wall_time for point in events.Scalars(tag))
    gaps = [after - before for before, after in pairwise(times)]
    return sum(gap for gap in gaps if gap <= LONGEST_PAUSE)


def training_record(run: Path) -> dict[str, Any]:
    """Settings, minutes per stage and machine of a finished run folder."""
    return {
        "command": "python -m reelrl.zoo.shipped.nano.train_nano",
        "config": {
            name: value
            for name, value in json.loads((run / "config.json").read_text(encoding="utf-8")).items()
            if name != "out"
        },
        "minutes": {stage: round(stage_seconds(run, tag) / 60, 1) for stage, tag in STAGES.items()},
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "device": "cpu",
            "torch": torch.__version__,
        },
    }


def write_record(run: Path, folder: Path) -> None:
    """Put the record of ``run`` into a model folder."""
    (folder / RECORD).write_text(
        json.dumps(training_record(run), indent=1) + "\n", encoding="utf-8"
    )
