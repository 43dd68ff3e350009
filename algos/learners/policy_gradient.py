"""The policy gradient of a denoising policy: the clipped ratio through the stored transitions.

Flow-GRPO (Liu et al. 2025), DanceGRPO and later methods differ in the estimator, in the bound on
the ratio and in the penalty; all three are settings here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages import AdvantageEstimator, AdvantageOutput
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.collect.rollout import Items, Rollout, Transitions
from reelrl.algos.learners import losses
from reelrl.algos.learners.base import Learner, Numbers, register_learner
from reelrl.algos.learners.ratio import BOUNDS, RatioBound, Replay
from reelrl.algos.learners.signal import ItemSignal, signal_per_transition
from reelrl.algos.learners.update import LearnerWarning
from reelrl.algos.metrics import to_floats
from reelrl.algos.policies.flow import FlowOutput, FlowPolicy
from reelrl.checks import Ge, Gt, OneOf, check_fields
from reelrl.envs.steps import gaussian_kl

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

KLKind = Literal["gaussian", "velocity_mse", "latent_mse"]
NOISE_FLOOR_FACTOR = 3.0


@dataclass(frozen=True)
class LossConfig:
    """Settings of the policy gradient.

    Attributes:
        kind: bound on the ratio: ``"clip"`` (PPO), ``"guard"`` (GRPO-Guard's ratio in PPO's bound)
            or ``"dppo"`` (Flow-DPPO's mask).
        clip_range: in units of :func:`~reelrl.algos.learners.losses.clip_range_of`; with
            ``"guard"``, of the change of the mean itself and not of the change in step widths.
        dppo_threshold: divergence at which ``"dppo"`` masks.
        step_weight: of :func:`~reelrl.algos.learners.losses.step_weights`.
        kl_weight: of the penalty towards the reference policy; 0 is none and costs nothing.
        kl_kind: the exact Gaussian divergence, or a mean squared difference under its own name.

    Raises:
        ValueError: for a value out of range.
    """

    kind: Annotated[str, OneOf(BOUNDS)] = "clip"
    clip_range: Annotated[float, Gt(0)] = 0.025
    dppo_threshold: float = 1e-5
    step_weight: losses.StepWeight = "uniform"
    kl_weight: Annotated[float, Ge(0)] = 0.0
    kl_kind: KLKind = "gaussian"

    def __post_init__(self) -> None:
        check_fields(self)


@register_learner("policy_gradient")
class PolicyGradient(Learner):
    """Follows the gradient of a bounded ratio through the stochastic steps of a rollout."""

    source = "Flow-GRPO (arXiv 2505.05470), DanceGRPO (arXiv 2505.07818)"
    Config = LossConfig
    signals = frozenset({"clip", "step", "component"})
    config: LossConfig

    @property
    def bound(self) -> type[RatioBound]:
        """The bound on the ratio."""
        return BOUNDS.find(self.config.kind)

    def check(self, estimator: AdvantageEstimator, rollout: RolloutConfig) -> None:
        """Refuse a loss per component without one, and a rollout without stochastic steps."""
        super().check(estimator, rollout)
        if estimator.loss_mode == "per_component" and not self.bound.per_component:
            raise ValueError(
                f"{estimator.name!r} has one clipped loss per component, not {self.config.kind}"
            )
        if rollout.window == "none":
            raise ValueError(
                "learner 'policy_gradient' follows the log-probability of stochastic steps: "
                "rollout.window must be all, random or sliding, got 'none'"
            )

    def rollout(self, config: RolloutConfig) -> RolloutConfig:
        """Means are kept where the bound compares distributions."""
        return replace(config, keep_means=config.keep_means or self.bound.needs_means)

    def begin(self, policy: FlowPolicy) -> None:
        """Keep the weights of this moment as the reference, if there is a penalty."""
        if self.config.kl_weight > 0:
            policy.keep_reference()

    def objective(
        self,
        policy: FlowPolicy,
        rollout: Rollout,
        output: AdvantageOutput,
        estimator: AdvantageEstimator,
        *,
        seed: Sequence[int],
    ) -> TransitionObjective:
        """The bounded ratio of every transition; draws nothing."""
        per_component = estimator.loss_mode == "per_component"
        return TransitionObjective.of(policy, rollout, output, self.config, per_component)


@dataclass(frozen=True)
class TransitionObjective:
    """The loss of an iteration as a sum over transitions.

    Attributes:
        policy: whose forward pass it is.
        transitions: the stored ones.
        signal: the advantage of each of them.
        config: the loss.
        per_component: one clipped loss per reward component.
        bound: on the ratio.
        step_weight: (S,) float64.
    """

    policy: FlowPolicy
    transitions: Transitions
    signal: ItemSignal
    config: LossConfig
    per_component: bool
    bound: RatioBound
    step_weight: Float[Tensor, " S"]

    @classmethod
    def of(
        cls,
        policy: FlowPolicy,
        rollout: Rollout,
        output: AdvantageOutput,
        config: LossConfig,
        per_component: bool,
    ) -> TransitionObjective:
        """The objective of a rollout and the estimator's answer to it.

        Raises:
            ValueError: for a rollout without stochastic steps.
        """
        transitions = rollout.stochastic()
        clip = losses.clip_range_of(
            config.clip_range, transitions.dimensions, policy.config.reduction
        )
        steps = [kept.index for kept in transitions.steps]
        weight = losses.step_weights(
            transitions.sigmas, policy.table.step_std, steps, config.step_weight
        ).to(transitions.device)
        bound = BOUNDS.find(config.kind)(clip, config.dppo_threshold)
        signal = signal_per_transition(output, rollout)
        return cls(policy, transitions, signal, config, per_component, bound, weight)

    @property
    def num_items(self) -> int:
        """Number of different transitions."""
        return self.transitions.num_items

    @property
    def components(self) -> int:
        """K, or 0 if the estimator gives one advantage."""
        return 0 if self.signal.components is None else self.signal.components.shape[1]

    @property
    def has_penalty(self) -> bool:
        """True if the divergence from the reference is part of the loss."""
        return self.config.kl_weight > 0

    def active(self) -> Int[Tensor, " A"]:
        """Transitions (on the host) that have a gradient."""
        signal = self.signal
        # A transition without a gradient would cost a forward pass and change nothing.
        moving = signal.advantages != 0
        if self.per_component and signal.components is not None:
            moving = (signal.components.nan_to_num(nan=0.0) != 0).any(dim=1)
        if self.has_penalty:
            moving = moving | (signal.kl_gate > 0)
        return (moving & (signal.weight > 0)).nonzero().flatten().cpu()

    def own(self, index: Int[Tensor, " M"]) -> Int[Tensor, " own"]:
        """Those of the transitions whose latents this process has."""
        return self.transitions.own(index)

    def weight(self) -> Float[Tensor, ""]:
        """Sum of the weights of all transitions."""
        return self.signal.weight.sum()

    def __call__(
        self,
        index: Int[Tensor, " M"],
        total: float | Float[Tensor, ""],
        only: int | None = None,
        kl: bool = True,
    ) -> tuple[Float[Tensor, ""], Numbers]:
        """Loss of some transitions; see :class:`~reelrl.algos.learners.base.Objective`."""
        items = self.transitions.items(index)
        signal = self.signal.at(index.to(self.signal.weight.device))
        output = self.policy.forward(items.obs)
        log_ratio = self.policy.log_density(output.step, items.action) - items.log_prob
        replay = Replay(log_ratio, output.step, items.mean, self.policy.config.reduction)
        value, stopped = self._ratio_loss(replay, signal, only)
        numbers = {"log_ratio": log_ratio.detach(), "clipped": stopped.double()}
        if kl and self.has_penalty:
            divergence = self._divergence(items, output)
            numbers["kl"] = divergence.detach()
            value = value + self.config.kl_weight * signal.kl_gate * divergence
        column = items.column.to(value.device)
        loss = (self.step_weight[column] * signal.weight * value).sum() / total
        numbers["column"] = column
        return loss, numbers

    def _ratio_loss(
        self, replay: Replay, signal: ItemSignal, only: int | None
    ) -> tuple[Float[Tensor, " M"], Shaped[Tensor, " M"]]:
        """(M,) losses, and (M,) whether the bound has stopped each, or the stopped share of it."""
        if only is not None and only < 0:
            # Only the penalty is asked for, which is no part of this loss.
            return torch.zeros_like(replay.log_ratio), torch.zeros_like(replay.log_ratio)
        if signal.components is None or (only is None and not self.per_component):
            return self.bound.loss(replay, signal.advantages)
        known = signal.components.nan_to_num(nan=0.0)
        if only is not None:
            return self.bound.loss(replay, known[:, only])
        weights = signal.component_weights
        weights = torch.ones_like(known) if weights is None else weights
        return self.bound.component_loss(replay, known, weights)

    def _divergence(self, items: Items, output: FlowOutput) -> Float[Tensor, " M"]:
        """(M,) of the policy from its reference; the gradient is the policy's alone."""
        # The reference is a constant: a gradient through it would pull it towards the policy.
        with torch.no_grad(), self.policy.reference():
            reference = self.policy.forward(items.obs)
        if self.config.kl_kind == "gaussian":
            reduction = self.policy.config.reduction
            return gaussian_kl(output.step, reference.step, reduction)
        if self.config.kl_kind == "latent_mse":
            return losses.latent_mse(output.step, reference.step).double()
        return losses.velocity_mse(output.velocity, reference.velocity).double()

    def metrics(self, parts: Sequence[Numbers], first: Sequence[Numbers]) -> dict[str, float]:
        """Ratios and divergences over the transitions of all updates.

        ``train/approx_kl`` is the divergence per step from the policy that drew the clips, in nats
        whatever the reduction; ``train/kl`` the penalty as it is in the loss, and
        ``train/clip_fraction`` the share of transitions whose gradient the bound has stopped.
        ``health/first_pass_log_ratio`` is the largest log-ratio before anything had moved.
        """
        if not parts:
            return {"health/first_pass_log_ratio": math.nan}
        floor = float(torch.cat([part["log_ratio"] for part in first]).abs().max())
        self._check_first_pass(floor)
        joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        nats = losses.unreduce_factor(self.transitions.dimensions, self.policy.config.reduction)
        ratio = joined["log_ratio"].exp()
        numbers = {
            "train/approx_kl": 0.5 * (nats * joined["log_ratio"]).square().mean(),
            "train/clip_fraction": joined["clipped"].mean(),
        }
        if "kl" in joined:
            numbers["train/kl"] = joined["kl"].mean()
        for s, step in enumerate(self.transitions.steps):
            at_step = joined["column"] == s
            numbers[f"health/ratio_mean/step_{step.index}"] = (
                # A mask keeps the device from waiting, as picking entries would.
                torch.where(at_step, ratio, 0.0).sum() / at_step.sum()
            )
        return to_floats(numbers) | {"health/first_pass_log_ratio": floor}

    def _check_first_pass(self, log_ratio: float) -> None:
        """Before any update the ratio is one, up to the noise of replaying."""
        if log_ratio * NOISE_FLOOR_FACTOR > self.bound.clip:
            warnings.warn(
                f"before any update log-ratios reach {log_ratio:.2g}, too close to the clip range "
                f"{self.bound.clip:.2g}: replaying does not reproduce sampling",
                LearnerWarning,
                stacklevel=3,
            )
