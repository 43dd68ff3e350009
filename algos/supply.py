"""Whether an estimator, the loss and a rollout fit together, and what the rollout must have."""

from __future__ import annotations

from dataclasses import replace

from reelrl.algos.advantages import AdvantageEstimator
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.config import GRPOConfig

SUPPLIED = frozenset({"bounds", "ode_rewards", "tree_parent", "edge_logp"})
"""What a rollout can give an estimator beside rewards."""


def check_fit(estimator: AdvantageEstimator, config: GRPOConfig) -> None:
    """Refuse an estimator that this learner cannot serve.

    Raises:
        ValueError: naming what is in the way.
    """
    name = estimator.name
    if estimator.loss_mode == "per_component" and config.loss.kind == "dppo":
        raise ValueError(f"{name!r} has one clipped loss per component, not dppo")
    if wanted := getattr(estimator, "needs_feedback", ""):
        raise ValueError(
            f"{name!r} learns from feedback({wanted}=...), which this learner never gives: it "
            "would be another estimator under this name"
        )
    if "tree_parent" in estimator.requires and not config.rollout.branch_steps:
        raise ValueError(f"{name!r} needs a tree: set rollout.branch_steps")
    if missing := sorted(estimator.requires - SUPPLIED):
        raise ValueError(f"{name!r} needs {missing}, which no rollout has")


def rollout_for(
    estimator: AdvantageEstimator, config: GRPOConfig, *, retrains: bool
) -> RolloutConfig:
    """The rollout settings with what loss, estimator and rewards need switched on.

    Args:
        estimator: may need completions from every step.
        config: of the learner.
        retrains: a reward is retrained on all clips, so they are kept.
    """
    rollout = config.rollout
    if "ode_rewards" in estimator.requires:
        rollout = replace(rollout, dense=True)
    if retrains:
        rollout = replace(rollout, keep_videos=config.prompts_per_iteration * config.group_size)
    return replace(rollout, keep_means=rollout.keep_means or config.loss.needs_means)
