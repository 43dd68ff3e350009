"""Settings of a trainer: all that is the same for every learner, and the learner's own inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.learners.schedule import Schedule
from reelrl.checks import Ge, Gt, Within, check_fields


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of a trainer.

    Attributes:
        prompts_per_iteration: P, in the order of a fresh shuffle of all prompts per pass.
        group_size: G clips per prompt.
        rollout: how clips are drawn.
        loss: settings of the learner, an instance of its ``Config``; None means its defaults.
        updates_per_iteration: optimizer steps that an iteration's items (transitions, for a policy
            gradient) are split into; fewer if fewer items have a signal.
        epochs: passes over the same items.
        micro_batch: items per forward pass; clips and steps are mixed freely.
        learning_rate: of AdamW.
        learning_rate_schedule: ``constant``, or ``linear`` or ``cosine`` towards 0.
        schedule_iterations: iterations until the schedule has reached 0; a schedule needs it.
        warmup_iterations: in which the learning rate rises.
        betas: of AdamW.
        weight_decay: of AdamW.
        max_grad_norm: gradients longer than this are shortened.
        ema_decay: of an average of the weights, which is examined and, by ``reelrl train``, left as
            the result; clips of training never come from it. 0 keeps none.
        reward_weights: K static weights; None means ones. A mapping by name is understood, in which
            a reward that is not named has weight 0. The sign of a penalty is applied besides.
        seed: of prompts, noise, windows and order.
        max_skipped: consecutive updates that may be skipped before the run stops.
        save_every: iterations between checkpoints.
        keep: checkpoints to keep, besides the best.

    Raises:
        ValueError: for a value out of range.
    """

    prompts_per_iteration: Annotated[int, Ge(1)] = 8
    group_size: Annotated[int, Ge(1)] = 16
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    loss: Any = None
    updates_per_iteration: Annotated[int, Ge(1)] = 1
    epochs: Annotated[int, Ge(1)] = 1
    micro_batch: Annotated[int, Ge(1)] = 64
    learning_rate: Annotated[float, Gt(0)] = 5e-5
    learning_rate_schedule: Schedule = "constant"
    schedule_iterations: Annotated[int | None, Ge(1)] = None
    warmup_iterations: Annotated[int, Ge(0)] = 0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: Annotated[float, Ge(0)] = 0.0
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    ema_decay: Annotated[float, Within(0, 1)] = 0.0
    reward_weights: tuple[float, ...] | None = None
    seed: Annotated[int, Ge(0)] = 0
    max_skipped: Annotated[int, Ge(1)] = 10
    save_every: Annotated[int, Ge(1)] = 10
    keep: Annotated[int, Ge(1)] = 2

    def __post_init__(self) -> None:
        check_fields(self)
        if self.learning_rate_schedule != "constant" and self.schedule_iterations is None:
            raise ValueError(
                f"learning_rate_schedule {self.learning_rate_schedule!r} needs "
                "schedule_iterations, the iterations until it has reached 0"
            )
        weights: Any = self.reward_weights
        numbers = list(weights.values()) if isinstance(weights, Mapping) else weights
        if numbers is not None and not any(numbers):
            raise ValueError(
                f"reward_weights must not all be 0, got {list(numbers)}: nothing is left to learn"
            )


def check_weights(weights: Sequence[float] | None, names: Sequence[str]) -> None:
    """Refuse static weights that do not fit the rewards.

    Args:
        weights: of the components; None means ones.
        names: of the K components.

    Raises:
        ValueError: for another number of weights.
    """
    if weights is not None and len(weights) != len(names):
        raise ValueError(
            f"learner.reward_weights: expected {len(names)} weights, one for each of "
            f"{', '.join(names)}, got {list(weights)}"
        )


C = TypeVar("C", bound=TrainerConfig)


def config_from_dict(kind: type[C], values: Mapping[str, Any], loss: type) -> C:
    """A configuration from plain values, as :func:`dataclasses.asdict` and JSON leave them.

    Args:
        kind: class of the configuration.
        values: of all its fields.
        loss: ``Config`` of the learner.
    """
    weights = values["reward_weights"]
    parts = {
        "rollout": RolloutConfig(**values["rollout"]),
        "loss": None if values["loss"] is None else loss(**values["loss"]),
        "reward_weights": None if weights is None else tuple(weights),
    }
    return kind(**{**values, **parts})
