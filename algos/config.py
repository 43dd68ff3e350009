"""Settings of the learner and of its loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.learners.losses import StepWeight

LossKind = Literal["clip", "guard", "dppo"]
KLKind = Literal["gaussian", "velocity_mse", "latent_mse"]


@dataclass(frozen=True)
class LossConfig:
    """What is minimised.

    Attributes:
        kind: ``"clip"`` (PPO), ``"guard"`` (GRPO-Guard's ratio in PPO's bound) or ``"dppo"``
            (Flow-DPPO's mask).
        clip_range: in units of :func:`~reelrl.algos.learners.losses.clip_range_of`; with
            ``"guard"``, of the change of the mean itself instead of that in step widths.
        dppo_threshold: divergence at which ``"dppo"`` masks.
        step_weight: of :func:`~reelrl.algos.learners.losses.step_weights`.
        kl_weight: of the penalty towards the reference policy; 0 is none and costs nothing.
        kl_kind: the exact Gaussian divergence, or a mean squared difference under its own name.

    Raises:
        ValueError: for a value out of range.
    """

    kind: LossKind = "clip"
    clip_range: float = 0.025
    dppo_threshold: float = 1e-5
    step_weight: StepWeight = "uniform"
    kl_weight: float = 0.0
    kl_kind: KLKind = "gaussian"

    def __post_init__(self) -> None:
        for name, known in (
            ("kind", ("clip", "guard", "dppo")),
            ("step_weight", ("uniform", "inverse_dt", "step_std")),
            ("kl_kind", ("gaussian", "velocity_mse", "latent_mse")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if not self.clip_range > 0 or not self.kl_weight >= 0:
            raise ValueError(
                f"clip_range must be positive and kl_weight at least 0, got {self.clip_range} and "
                f"{self.kl_weight}"
            )

    @property
    def needs_means(self) -> bool:
        """True if the rollout must keep the means of its steps."""
        return self.kind != "clip"


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of the learner.

    Attributes:
        prompts_per_iteration: P, in the order of a fresh shuffle of all prompts per pass.
        group_size: G clips per prompt.
        rollout: how clips are drawn.
        loss: what is minimised.
        updates_per_iteration: optimizer steps an iteration's transitions are split into; fewer if
            fewer transitions have a signal.
        epochs: passes over the same transitions.
        micro_batch: transitions per forward pass; clips and steps are mixed freely.
        learning_rate: of AdamW.
        betas: of AdamW.
        weight_decay: of AdamW.
        max_grad_norm: gradients longer than this are shortened.
        ema_decay: of an average of the weights, which is examined and, by ``reelrl train``, left as
            the result; clips of training never come from it. 0 keeps none.
        reward_weights: K static weights; None is ones. The sign of a penalty is applied besides.
        seed: of prompts, noise, windows and order.
        max_skipped: consecutive updates that may be skipped before the run stops.
        save_every: iterations between checkpoints.
        keep: checkpoints to keep, besides the best.

    Raises:
        ValueError: for a value out of range.
    """

    prompts_per_iteration: int = 8
    group_size: int = 16
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    updates_per_iteration: int = 1
    epochs: int = 1
    micro_batch: int = 64
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    reward_weights: tuple[float, ...] | None = None
    seed: int = 0
    max_skipped: int = 10
    save_every: int = 10
    keep: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in (
            "prompts_per_iteration", "group_size", "updates_per_iteration", "epochs",
            "micro_batch", "max_skipped", "save_every", "keep",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, got {self.betas}")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def config_from_dict(values: dict[str, Any]) -> GRPOConfig:
    """A configuration from plain values, as :func:`dataclasses.asdict` and JSON leave them."""
    parts = {"rollout": RolloutConfig(**values["rollout"]), "loss": LossConfig(**values["loss"])}
    weights = values["reward_weights"]
    return GRPOConfig(
        **{**values, **parts, "reward_weights": None if weights is None else tuple(weights)}
    )
