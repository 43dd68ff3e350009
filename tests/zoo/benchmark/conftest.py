"""A benchmark of seconds: two steps, four clips, two methods."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from reelrl.zoo.benchmark import runner, worker
from reelrl.zoo.benchmark.design import read_suite

TINY = {
    "title": "tiny",
    "seeds": [0],
    "scenarios": ["goodhart"],
    "methods": ["grpo", "gdpo"],
    "control": None,
    "examined": {"clips": 4, "every": 2, "seed": 7},
    "base": {
        "env": "reelrl/MovingShapesEarly-v0",
        "iterations": 3,
        "env_args": {"num_steps": 2},
        "learner": {
            "prompts_per_iteration": 2,
            "group_size": 2,
            "learning_rate": 1e-3,
            "save_every": 1,
            "rollout": {"last_step": 0, "keep_videos": 4},
        },
    },
}


@pytest.fixture
def tiny_suite(tmp_path):
    """``tiny_suite(methods=[...])``: a suite with these keys changed."""

    def make(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(TINY | changes))
        return read_suite(str(path))

    return make


@pytest.fixture
def in_this_process(monkeypatch):
    """The runner's processes are one thread of this one, so that what is patched stays so."""

    class Pool(ThreadPoolExecutor):
        def __init__(self, jobs, *, mp_context, initializer, initargs):
            super().__init__(1)

    monkeypatch.setattr(worker, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(runner, "POLL", 0.01)
