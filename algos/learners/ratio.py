"""Bounds on the ratio of a policy gradient, by name; each declares its needs on a rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from reelrl.algos.learners import losses
from reelrl.envs.steps import Reduction, Step
from reelrl.naming import Registry

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Replay:
    """M stored transitions, run through the policy as it is now.

    Attributes:
        log_ratio: (M,) new minus old log-probability, reduced as ``reduction`` says.
        step: of the policy now.
        old_mean: (M, C, T', H', W') mean of the step that was drawn from, if the rollout kept it.
        reduction: of the log-probability.
    """

    log_ratio: Float[Tensor, " M"]
    step: Step
    old_mean: Float[Tensor, "M C t h w"] | None
    reduction: Reduction

    @property
    def old_step(self) -> Step:
        """Of the policy that drew the actions.

        Raises:
            ValueError: if the rollout kept no means.
        """
        if self.old_mean is None:
            raise ValueError("expected a rollout with keep_means=True, got one without means")
        return Step(self.old_mean.to(self.step.mean.dtype), self.step.step_std)


@dataclass(frozen=True)
class RatioBound:
    """PPO's clip: one value per transition, and where the bound has stopped the gradient.

    Attributes:
        clip: range of the ratio as it is, of :func:`~reelrl.algos.learners.losses.clip_range_of`.
        threshold: divergence at which a mask leaves a transition out.
        needs_means: True if the rollout must keep the means of its steps.
        per_component: True if the bound can be put on one loss per reward component.
    """

    clip: float
    threshold: float
    needs_means: ClassVar[bool] = False
    per_component: ClassVar[bool] = True

    def log_ratio(self, replay: Replay) -> Float[Tensor, " M"]:
        """(M,) the log-ratio that the bound is put on."""
        return replay.log_ratio

    def loss(
        self, replay: Replay, advantages: Float[Tensor, " M"]
    ) -> tuple[Float[Tensor, " M"], Bool[Tensor, " M"]]:
        """(M,) losses, and (M,) bool where they have no gradient left."""
        log_ratio = self.log_ratio(replay)
        stopped = losses.is_clipped(log_ratio, advantages, self.clip)
        return losses.clipped_loss(log_ratio, advantages, self.clip), stopped

    def component_loss(
        self, replay: Replay, components: Float[Tensor, "M K"], weights: Float[Tensor, "M K"]
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
        """(M,) sums of one loss per component (M, K), and (M,) the share that is stopped."""
        log_ratio = self.log_ratio(replay)
        # A component without a signal is never stopped, and must not lower the share.
        counted = components * weights != 0
        stopped = counted & losses.is_clipped(log_ratio[:, None], components, self.clip)
        share = stopped.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return losses.component_loss(log_ratio, components, weights, self.clip), share


BOUNDS: Registry[type[RatioBound]] = Registry("loss kind")
"""Name of a loss kind -> the bound; ``BOUNDS.register(name)`` adds one."""


@BOUNDS.register("clip")
class Clip(RatioBound):
    """:class:`RatioBound` as it is (Schulman et al. 2017)."""


@BOUNDS.register("guard")
class Guard(RatioBound):
    """PPO's clip on the centred ratio of GRPO-Guard (Wang et al. 2025)."""

    needs_means = True

    def log_ratio(self, replay: Replay) -> Float[Tensor, " M"]:
        """See :func:`~reelrl.algos.learners.losses.guard_log_ratio`."""
        return losses.guard_log_ratio(
            replay.log_ratio, replay.step, replay.old_step, replay.reduction
        )


@BOUNDS.register("dppo")
class DivergenceMask(RatioBound):
    """Flow-DPPO's mask in place of a clip; a mask per component is not defined."""

    needs_means = True
    per_component = False

    def loss(
        self, replay: Replay, advantages: Float[Tensor, " M"]
    ) -> tuple[Float[Tensor, " M"], Bool[Tensor, " M"]]:
        """See :func:`~reelrl.algos.learners.losses.divergence_masked_loss`."""
        moved = (replay.log_ratio, advantages, replay.step, replay.old_step, self.threshold)
        return losses.divergence_masked_loss(*moved), losses.is_masked(*moved)
