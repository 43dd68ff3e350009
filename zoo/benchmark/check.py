"""Checks of every name in a suite before the first run, so that a typo fails at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import gymnasium as gym

from reelrl.algos.advantages import make_estimator
from reelrl.naming import nearest
from reelrl.rewards.base import Reward
from reelrl.rewards.spec import build_reward
from reelrl.zoo.arguments import check_arguments
from reelrl.zoo.benchmark.columns import SPLITS
from reelrl.zoo.benchmark.design import Run, Suite
from reelrl.zoo.benchmark.truth import HeldOutJudges, build_truth


def check(suite: Suite, runs: Iterable[Run]) -> None:
    """Build the rewards and estimators of some runs, and look up environments and their arguments.

    Args:
        suite: theirs.
        runs: the runs that are still to be done.

    Raises:
        ValueError: names the run and the unknown name in it.
    """
    for role, name in (("baseline", suite.baseline), ("control", suite.control)):
        if name is not None and name not in suite.methods:
            known = nearest(name, list(suite.methods))
            raise ValueError(f"expected the {role} to be one of the methods, got {name!r}{known}")
    judges = _judges(suite)
    seen: set[str] = set()
    for run in runs:
        rewards = run.config.env_args.get("rewards", [])
        parts: list[tuple[str, Any]] = [
            ("estimator", run.config.estimator),
            ("env", run.config.env),
            *(("reward", reward) for reward in rewards),
            ("env_args", {"env": run.config.env, "args": run.config.env_args}),
        ]
        for kind, value in parts:
            key = json.dumps([kind, value], sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
            try:
                _look_up(kind, value, judges)
            except Exception as error:
                raise ValueError(f"{run.scenario}/{run.method}: {kind}: {error}") from error


def _judges(suite: Suite) -> set[str]:
    """Names of the held-out judges of a suite, which no run may train on."""
    try:
        truth = build_truth(suite.truth)
    except Exception as error:
        raise ValueError(f"truth: {error}") from error
    if not any(truth.prompts(split) for split in SPLITS):
        raise ValueError(f"truth: expected prompts of {' or '.join(SPLITS)}, got none")
    held_out = truth.judges if isinstance(truth, HeldOutJudges) else []
    return {name for judge in held_out for name in _names(judge)}


def _names(reward: Reward) -> set[str]:
    """Name of a component and of all it is made of."""
    return {reward.name}.union(*map(_names, reward.parts))


def _look_up(kind: str, value: Any, judges: set[str]) -> None:
    if kind == "estimator":
        make_estimator(value)
    elif kind == "env":
        gym.spec(value)
    elif kind == "reward":
        trained = _names(build_reward(value)) & judges
        if trained:
            raise ValueError(f"expected no held-out judge among the rewards, got {min(trained)!r}")
    else:
        check_arguments(gym.spec(value["env"]), value["args"])
