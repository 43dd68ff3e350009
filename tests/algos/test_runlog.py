from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reelrl.algos.runlog import METRICS, RunLog, read_metrics


def test_a_resumed_run_is_one_curve(tmp_path):
    log = RunLog(tmp_path)
    for iteration in range(4):
        log.scalars(iteration, {"reward/a": float(iteration), "train/kl": math.nan})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"iteration": 4, "rew')
    assert read_metrics(tmp_path)[3] == {"iteration": 3, "reward/a": 3.0, "train/kl": None}
    again = RunLog(tmp_path, start=2)
    again.scalars(2, {"reward/a": 9.0})
    assert [row["reward/a"] for row in read_metrics(tmp_path)] == [0.0, 1.0, 9.0]


def test_tensorboard_gets_scalars_histograms_and_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path)
    log.scalars(0, {"reward/a": 0.5})
    log.histogram(0, "advantage/values", torch.tensor([1.0, torch.nan]))
    log.histogram(0, "reward/values/a", torch.tensor([torch.nan]))
    log.picture(0, "rollout/clips", np.zeros((4, 4, 3), np.uint8))
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = events.Tags()
    assert tags["scalars"] == ["reward/a"] and tags["images"] == ["rollout/clips"]
    assert tags["histograms"] == ["advantage/values"]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = RunLog(None)
    log.scalars(0, {"reward/a": 0.5})
    log.close()
    assert list(tmp_path.iterdir()) == [] and read_metrics(tmp_path) == []
