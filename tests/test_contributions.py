"""What each kind of contribution makes its author touch: the tests that enumerate stay green.

A copy of the repository gets the files of the contribution and no other change. Then the tests run
that look at everything there is: registries, generated pages, floors.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ESTIMATOR = '''"""Ranks in place of sizes."""

from __future__ import annotations

from typing import ClassVar

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.norm import NormSpec
from reelrl.algos.advantages.pipeline import Estimator, sum_first
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.types import State


@register_estimator("newest")
class Newest(Estimator):
    """A = z_g(s): the sum of the rewards, normalised within its group with ddof 1."""

    source: ClassVar[str] = "tests/test_contributions.py"

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Sum, then normalise."""
        return sum_first(work, work.weights, NormSpec(ddof=1, eps=0.0)), state
'''
ESTIMATOR_TEST = """import statistics

from reelrl.algos.advantages import RewardBatch, make_estimator


def test_newest_written_out():
    output, _ = make_estimator("newest")(RewardBatch([[[0.1], [0.5], [0.9]]], ("a",)))
    scores = [0.1, 0.5, 0.9]
    expected = [(s - 0.5) / statistics.stdev(scores) for s in scores]
    assert abs(output.advantages - expected).max() < 1e-9
"""
REWARD = '''"""The brightest pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from reelrl.rewards.base import Reward, register_reward


@register_reward("brightest")
class Brightest(Reward):
    """The brightest pixel of a clip."""

    name, bounds = "brightest", (0.0, 1.0)
    formula, source = "max x", "tests/test_contributions.py"

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """(N,) largest value of each clip."""
        return videos.flatten(1).amax(dim=1)
'''
REWARD_TEST = """import torch

from reelrl.rewards import list_rewards, make_reward


def test_the_brightest_pixel():
    videos = torch.zeros(2, 1, 2, 2, 3)
    videos[1, 0, 1, 0, 2] = 0.75
    assert "brightest" in list_rewards()
    assert make_reward("brightest")(videos, ["", ""], [{}, {}]).values.tolist() == [0, 0.75]
"""
LEARNER = '''"""A learner that stands still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reelrl.algos.learners.base import Learner, Objective, register_learner


@dataclass(frozen=True)
class StillConfig:
    """No settings."""


@register_learner("still")
class Still(Learner):
    """Moves nothing."""

    source, Config = "tests/test_contributions.py", StillConfig

    def objective(self, *args: Any, **kwargs: Any) -> Objective:
        """None there is."""
        raise NotImplementedError
'''
LEARNER_TEST = """from reelrl.algos.learners import list_learners, make_learner


def test_it_is_listed():
    assert "still" in list_learners() and make_learner("still").name == "still"
"""
MODEL = '''"""A family of models that opens its folders and draws nothing."""

from __future__ import annotations

from reelrl.envs.models.base import VideoModel, register_model


@register_model("NewestPipeline")
class NewestModel(VideoModel):
    """Opens folders of a NewestPipeline."""
'''
MODEL_TEST = """import json

import pytest

from reelrl.envs.models import VideoModel


def test_folders_of_the_pipeline_reach_the_class(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NewestPipeline"}))
    with pytest.raises(TypeError, match="NewestModel"):
        VideoModel.from_pretrained(tmp_path)
"""
KERNEL = '''

@register_kernel("slower")
@dataclass(frozen=True)
class SlowerSDE(DanceSDE):
    """Half the noise of :class:`DanceSDE`."""

    eta: float | Float[Tensor, " N"] = 0.15
'''
KERNEL_TEST = """from reelrl.envs.kernels import make_kernel
from reelrl.envs.schedule import sigma_schedule


def test_half_the_noise():
    widths = [make_kernel(n).table(sigma_schedule(4)).step_std for n in ("slower", "dance_sde")]
    assert (widths[0] - widths[1] / 2).abs().max() < 1e-12
"""
SCENARIO = """
newest:
  title: Nothing but gold
  about: A scenario of a contributor.
  rewards: [gold]
  prediction: All methods rise.
"""
SCENARIO_TEST = """from pathlib import Path

from reelrl.zoo.benchmark.design import read_suite


def test_a_suite_can_name_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: Mine\\nseeds: [0]\\nscenarios: [newest]\\nmethods: [grpo]\\n"
        "base: {iterations: 1}\\n"
    )
    assert [run.scenario for run in read_suite(str(path)).runs()] == ["newest"]
"""

EVERYWHERE = ("tests/test_layout.py", "tests/test_readme.py")
KINDS = {
    "estimator": (
        {
            "algos/advantages/methods/newest.py": ESTIMATOR,
            "tests/algos/advantages/methods/test_newest.py": ESTIMATOR_TEST,
        },
        (
            "tests/algos/advantages/test_slow_loop.py::test_no_estimator_is_without_a_loop",
            "tests/algos/advantages/test_presets.py::test_no_preset_is_without_a_second_spelling",
            "tests/algos/advantages/test_settings.py",
            "tests/algos/interop/test_episodes.py",
            "tests/zoo/documents/test_estimator_pages.py",
            "tests/zoo/documents/test_distinct_groups.py",
        ),
    ),
    "reward": (
        {"rewards/brightest.py": REWARD, "tests/rewards/test_brightest.py": REWARD_TEST},
        ("tests/rewards/test_base.py", "tests/zoo/documents/test_tables.py"),
    ),
    "learner": (
        {
            "algos/learners/still.py": LEARNER,
            "tests/algos/learners/test_still.py": LEARNER_TEST,
        },
        (),
    ),
    "model": (
        {
            "envs/models/newest.py": MODEL,
            "tests/envs/models/test_newest.py": MODEL_TEST,
        },
        ("tests/envs/models/test_base.py",),
    ),
    "kernel": (
        {"envs/kernels.py": KERNEL, "tests/envs/test_slower.py": KERNEL_TEST},
        ("tests/envs/test_kernels.py", "tests/envs/test_wan_env.py"),
    ),
    "scenario": (
        {
            "zoo/presets/bench/scenarios.yaml": SCENARIO,
            "tests/zoo/benchmark/test_newest.py": SCENARIO_TEST,
        },
        ("tests/zoo/benchmark/test_design.py",),
    ),
}
"""Kind -> the files that its author writes, and the tests that look at everything of the kind."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_contribution_is_its_source_and_its_test(kind: str, tmp_path: Path) -> None:
    files, tests = KINDS[kind]
    assert len(files) == 2
    for folder in ("reelrl", "rewards", "envs", "algos", "zoo", "tests", "docs", "examples", ".ci"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:  # some go into a file there is
            file.write(text)
    link_sources = runpy.run_path(str(tmp_path / ".ci" / "link_sources.py"))["link_sources"]
    # Without the current folder on the path, so that the copy is what is imported.
    environment = {"PYTHONPATH": str(link_sources(tmp_path)), "PYTHONSAFEPATH": "1"}
    written = [name for name in files if name.startswith("tests/")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, *written, *tests, *EVERYWHERE],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
