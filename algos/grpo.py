"""GRPO by its public name: the trainer with the learner ``policy_gradient``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from reelrl.algos.advantages import AdvantageEstimator
from reelrl.algos.callbacks import Callback
from reelrl.algos.config import TrainerConfig
from reelrl.algos.evaluation import Examination
from reelrl.algos.learners.policy_gradient import LossConfig
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.run.distributed import ALONE, Ranks
from reelrl.algos.trainer import POLICY_GRADIENT, Trainer

__all__ = ["GRPO", "GRPOConfig", "LossConfig"]


@dataclass(frozen=True)
class GRPOConfig(TrainerConfig):
    """Settings of a trainer whose learner is the policy gradient.

    Attributes:
        loss: of the policy gradient.
    """

    loss: LossConfig = field(default_factory=LossConfig)


class GRPO(Trainer):
    """Group-relative policy optimisation (Flow-GRPO, Liu et al. 2025), with any estimator.

    ```python
    learner = GRPO(env, FlowPolicy(env.unwrapped.model), "taros", GRPOConfig(), folder="runs/a")
    learner.learn(100)
    ```

    Args:
        env: see :class:`~reelrl.algos.trainer.Trainer`, as all that follows.
        policy: see there.
        estimator: see there.
        config: settings.
        folder: see there.
        evaluation: see there.
        callbacks: see there.
        ranks: see there.
    """

    Config: ClassVar[type[TrainerConfig]] = GRPOConfig
    config: GRPOConfig

    def __init__(
        self,
        env: Any,
        policy: FlowPolicy,
        estimator: str | AdvantageEstimator = "grpo",
        config: GRPOConfig | None = None,
        *,
        folder: str | Path | None = None,
        evaluation: Examination | None = None,
        callbacks: Sequence[Callback] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(
            env,
            policy,
            estimator,
            POLICY_GRADIENT,
            config,
            folder=folder,
            evaluation=evaluation,
            callbacks=callbacks,
            ranks=ranks,
        )

    @classmethod
    def _with(
        cls,
        learner: str,
        env: Any,
        policy: FlowPolicy,
        estimator: str | AdvantageEstimator,
        **kwargs: Any,
    ) -> Self:
        if learner != POLICY_GRADIENT:
            raise ValueError(
                f"expected a run of the learner {POLICY_GRADIENT!r}, got one of {learner!r}: "
                "load it by Trainer.load"
            )
        return cls(env, policy, estimator, **kwargs)
