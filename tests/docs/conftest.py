"""Registries as the library has them, whatever pages and other tests have registered."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from reelrl.algos.advantages.registry import ESTIMATORS
from reelrl.algos.learners.base import LEARNERS
from reelrl.envs.kernels import KERNELS
from reelrl.envs.models.base import PIPELINES
from reelrl.rewards.base import REWARDS

# The code of the site is in no package: it does not ship.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "build"))


def own(entry):
    return entry.__module__.startswith("reelrl.")


@pytest.fixture(autouse=True)
def library_registries():
    with ExitStack() as stack:
        for registry in (REWARDS, ESTIMATORS, PIPELINES, KERNELS, LEARNERS):
            stack.enter_context(registry.isolated(own))
        yield
