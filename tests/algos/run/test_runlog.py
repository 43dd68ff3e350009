from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from reelrl.algos.run.runlog import METRICS, RunLog, read_metrics


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


def test_tensorboard_gets_scalars_histograms_and_moving_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path)
    log.scalars(0, {"reward/a": 0.5})
    log.histogram(0, "advantage/values", torch.tensor([1.0, torch.nan]))
    log.histogram(0, "reward/values/a", torch.tensor([torch.nan]))
    # Two clips of five frames, one grey level per clip and frame.
    levels = torch.arange(10, dtype=torch.uint8).mul(20).view(2, 5, 1, 1, 1)
    log.video(0, "rollout/clips", levels.expand(2, 5, 4, 6, 3))
    log.video(0, "rollout/none", levels[:0].expand(0, 5, 4, 6, 3))
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = events.Tags()
    assert tags["scalars"] == ["reward/a"] and tags["images"] == ["rollout/clips"]
    assert tags["histograms"] == ["advantage/values"]
    (event,) = events.Images("rollout/clips")
    animation = Image.open(io.BytesIO(event.encoded_image_string))
    assert (event.width, event.height) == animation.size == (12, 4)
    assert animation.format == "GIF" and animation.n_frames == 5 and animation.info["loop"] == 0
    for frame in range(5):
        animation.seek(frame)
        shown = np.asarray(animation.convert("RGB"))
        assert (shown[:, :6] == 20 * frame).all() and (shown[:, 6:] == 20 * (5 + frame)).all()


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = RunLog(None)
    log.scalars(0, {"reward/a": 0.5})
    log.close()
    assert list(tmp_path.iterdir()) == [] and read_metrics(tmp_path) == []
