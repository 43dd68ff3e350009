"""The supply of a rollout to an estimator, and the refusal of an estimator that needs more."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from reelrl.algos.advantages import AdvantageEstimator
from reelrl.algos.collect.plan import RolloutConfig


def supplied(rollout: RolloutConfig | None) -> frozenset[str]:
    """Names of the inputs that an estimator is given beside rewards.

    Args:
        rollout: settings of the trainer's rollouts; None means a batch of episodes that other
            libraries collected, of which nothing but the rewards is known.
    """
    if rollout is None or rollout.window == "none":
        return frozenset({"bounds"})
    # Clips that share any of their way are a tree, with branch_steps or without.
    shared = bool(rollout.branch_steps) or rollout.initial_noise == "shared"
    return frozenset({"bounds", "ode_rewards", *({"tree_parent", "edge_logp"} if shared else ())})


def missing_from(estimator: AdvantageEstimator, given: Set[str]) -> list[str]:
    """The needs of the estimator that are not met, sorted."""
    return sorted(estimator.requires - given)


def check_supply(estimator: AdvantageEstimator, rollout: RolloutConfig) -> None:
    """Refuse an estimator that the trainer cannot serve.

    Raises:
        ValueError: naming the obstacle.
    """
    name = estimator.name
    if wanted := getattr(estimator, "needs_feedback", ""):
        raise ValueError(
            f"{name!r} learns from feedback({wanted}=...), which this learner never gives: it "
            "would be another estimator under this name"
        )
    if "tree_parent" in estimator.requires and not rollout.branch_steps:
        raise ValueError(f"{name!r} needs a tree: set rollout.branch_steps")
    if missing := missing_from(estimator, supplied(rollout)):
        whose = "a rollout of window 'none'" if rollout.window == "none" else "no rollout"
        verb = "lacks" if rollout.window == "none" else "has"
        raise ValueError(f"{name!r} needs {missing}, which {whose} {verb}")


def rollout_for(
    estimator: AdvantageEstimator, rollout: RolloutConfig, *, keep_all: int | None
) -> RolloutConfig:
    """The rollout settings with all switched on that estimator and rewards need.

    Args:
        estimator: may need completions from every step.
        rollout: the settings as given.
        keep_all: number of clips of an iteration, if a reward is retrained on all of them.
    """
    if "ode_rewards" in estimator.requires:
        rollout = replace(rollout, dense=True)
    return rollout if keep_all is None else replace(rollout, keep_videos=keep_all)
