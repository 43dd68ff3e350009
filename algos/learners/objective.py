"""The loss of an iteration as a sum over its transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reelrl.algos.advantages import AdvantageOutput
from reelrl.algos.collect.rollout import Items, Rollout
from reelrl.algos.config import LossConfig
from reelrl.algos.learners import losses
from reelrl.algos.policies.flow import FlowOutput, FlowPolicy
from reelrl.envs.steps import Step, gaussian_kl


@dataclass(frozen=True)
class ItemSignal:
    """The learning signal of every transition of a rollout, on the policy's device.

    Attributes:
        advantages: (M,) float64.
        components: (M, K) float64 with ``nan`` where one does not apply, or None.
        component_weights: (M, K) float64, or None.
        kl_gate: (M,) float64, 0 or 1.
        weight: (M,) float64, what the transition counts in the average; 0 leaves it out.
    """

    advantages: Tensor
    components: Tensor | None
    component_weights: Tensor | None
    kl_gate: Tensor
    weight: Tensor

    def at(self, index: Tensor) -> ItemSignal:
        """The transitions ``index``."""
        picked: dict[str, Any] = {k: None if v is None else v[index] for k, v in vars(self).items()}
        return ItemSignal(**picked)


def spread(output: AdvantageOutput, rollout: Rollout) -> ItemSignal:
    """Hand the estimator's signal, per clip or per step, to the transitions of the rollout.

    A transition that clips share has the signal of the first of them that counts.

    Raises:
        ValueError: if the estimator's steps are neither all steps nor the stochastic ones.
    """
    device = rollout.kept[0].latent.device
    weights_ns = _clip_weights(output, rollout)
    row, column = _speakers(weights_ns, rollout), rollout.rows()[1]
    group, member = row // rollout.group_size, row % rollout.group_size

    def pick(values: Any, *places: Tensor, trailing: int = 0) -> Tensor:
        """(M, ...) of values per ``places``, and per step if they have one axis more."""
        tensor = torch.as_tensor(values).to(device, torch.float64)
        stepwise = tensor.ndim - trailing > len(places)
        step = (_columns(tensor.shape[len(places)], rollout)[column],) if stepwise else ()
        return tensor[tuple(i.to(device) for i in (*places, *step))]

    advantages = pick(output.advantages, group, member)
    components = weights = None
    if output.component_advantages is not None:
        components = pick(output.component_advantages, group, member, trailing=1)
        weights = torch.ones_like(components)
        if output.component_weights is not None:
            given = torch.as_tensor(output.component_weights)
            where = () if given.ndim == 1 else (group,)
            weights = pick(given, *where, trailing=1).expand_as(components)
    gate = output.kl_gate
    return ItemSignal(
        advantages,
        components,
        weights,
        torch.ones_like(advantages) if gate is None else pick(gate, group, member),
        weights_ns[row, column].to(device),
    )


def _columns(count: int, rollout: Rollout) -> Tensor:
    """(S,) which of an estimator's ``count`` steps each kept one is.

    Dense estimators have all denoising steps, those of trees the edges, one per stochastic step.
    """
    steps = torch.tensor([kept.index for kept in rollout.kept])
    if count == len(rollout.sigmas) - 1:
        return steps
    if count != len(steps):
        raise ValueError(
            f"a signal per step must be of all {len(rollout.sigmas) - 1} denoising steps or of the "
            f"{len(steps)} stochastic ones, got {count}"
        )
    return torch.arange(count)


def _clip_weights(output: AdvantageOutput, rollout: Rollout) -> Tensor:
    """(N, S) float64 on the host, what each clip counts at each kept step; 0 if not scored."""
    scored = rollout.valid.any(dim=1).cpu().double()[:, None].expand(-1, len(rollout.kept))
    if output.sample_weight is None:
        return scored
    given = torch.as_tensor(output.sample_weight).cpu().double().flatten(0, 1)
    if given.ndim == 1:
        return scored * given[:, None]
    return scored * given[:, _columns(given.shape[1], rollout)]


def _speakers(weights_ns: Tensor, rollout: Rollout) -> Tensor:
    """(num_items,) the clip whose signal each transition has: the first that counts."""
    first = []
    for column, step in enumerate(rollout.kept):
        sharing = weights_ns[:, column].view(len(step.row), -1) > 0
        # The largest of zeros and ones is found at its first place.
        first.append(step.row + sharing.int().argmax(dim=1))
    return torch.cat(first)


@dataclass(frozen=True)
class Objective:
    """The loss of an iteration as a sum over transitions.

    Attributes:
        policy: whose forward pass it is.
        rollout: the transitions.
        signal: what each of them is worth.
        config: the loss.
        per_component: one clipped loss per reward component.
        clip: clip range of the ratio as it is.
        step_weight: (S,) float64.
    """

    policy: FlowPolicy
    rollout: Rollout
    signal: ItemSignal
    config: LossConfig
    per_component: bool
    clip: float
    step_weight: Tensor

    @classmethod
    def of(
        cls,
        policy: FlowPolicy,
        rollout: Rollout,
        output: AdvantageOutput,
        config: LossConfig,
        per_component: bool,
    ) -> Objective:
        """The objective of a rollout and the estimator's answer to it."""
        device = rollout.kept[0].latent.device
        dimensions = rollout.kept[0].latent[0].numel()
        clip = losses.clip_range_of(config.clip_range, dimensions, policy.config.reduction)
        steps = [kept.index for kept in rollout.kept]
        weight = losses.step_weights(
            rollout.sigmas, policy.table.step_std, steps, config.step_weight
        ).to(device)
        signal = spread(output, rollout)
        return cls(policy, rollout, signal, config, per_component, clip, weight)

    def active(self) -> Tensor:
        """Transitions (on the host) that have a gradient."""
        signal = self.signal
        moving = signal.advantages != 0
        if self.per_component and signal.components is not None:
            moving = (signal.components.nan_to_num(nan=0.0) != 0).any(dim=1)
        if self.config.kl_weight > 0:
            moving = moving | (signal.kl_gate > 0)
        return (moving & (signal.weight > 0)).nonzero().flatten().cpu()

    def __call__(
        self, index: Tensor, total: float | Tensor, only: int | None = None, kl: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of some transitions, to be summed over all parts of an update.

        Args:
            index: (M,) transitions, sorted, on the host.
            total: what the sum over the update is divided by.
            only: the plain loss of this component alone; -1 is no component at all.
            kl: add the penalty.

        Returns:
            The loss, and detached numbers per transition.
        """
        items = self.rollout.items(index)
        signal = self.signal.at(index.to(self.signal.weight.device))
        output = self.policy.forward(items.obs)
        log_ratio = self.policy.log_density(output.step, items.action) - items.log_prob
        value, stopped = self._policy_loss(items, signal, output, log_ratio, only)
        numbers = {"log_ratio": log_ratio.detach(), "clipped": stopped.double()}
        if kl and self.config.kl_weight > 0:
            divergence = self._divergence(items, output)
            numbers["kl"] = divergence.detach()
            value = value + self.config.kl_weight * signal.kl_gate * divergence
        column = items.column.to(value.device)
        loss = (self.step_weight[column] * signal.weight * value).sum() / total
        numbers["column"] = column
        return loss, numbers

    def _policy_loss(
        self,
        items: Items,
        signal: ItemSignal,
        output: FlowOutput,
        log_ratio: Tensor,
        only: int | None,
    ) -> tuple[Tensor, Tensor]:
        """(M,) losses, and (M,) which of them, or what share of one, clip or mask has stopped."""
        old = None
        if items.mean is not None:
            old = Step(items.mean.to(output.step.mean.dtype), output.step.step_std)
        if self.config.kind == "guard":
            assert old is not None  # the learner keeps means for this loss
            log_ratio = losses.guard_log_ratio(
                log_ratio, output.step, old, self.policy.config.reduction
            )
        advantages = signal.advantages
        if only is not None:
            if only < 0:
                return torch.zeros_like(log_ratio), torch.zeros_like(log_ratio)
            assert signal.components is not None
            advantages = signal.components[:, only].nan_to_num(nan=0.0)
        elif self.per_component:
            assert signal.components is not None and signal.component_weights is not None
            known, weights = signal.components.nan_to_num(nan=0.0), signal.component_weights
            counted = known * weights != 0
            stopped = counted & losses.is_clipped(log_ratio[:, None], known, self.clip)
            share = stopped.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
            return losses.component_loss(log_ratio, known, weights, self.clip), share
        if self.config.kind == "dppo":
            assert old is not None
            how = (log_ratio, advantages, output.step, old, self.config.dppo_threshold)
            return losses.divergence_masked_loss(*how), losses.is_masked(*how)
        clipped = losses.is_clipped(log_ratio, advantages, self.clip)
        return losses.clipped_loss(log_ratio, advantages, self.clip), clipped

    def _divergence(self, items: Items, output: FlowOutput) -> Tensor:
        """(M,) of the policy from its reference; the gradient is the policy's alone."""
        with torch.no_grad(), self.policy.reference():
            reference = self.policy.forward(items.obs)
        if self.config.kl_kind == "gaussian":
            reduction = self.policy.config.reduction
            return gaussian_kl(output.step, reference.step, reduction)
        if self.config.kl_kind == "latent_mse":
            return losses.latent_mse(output.step, reference.step).double()
        return losses.velocity_mse(output.velocity, reference.velocity).double()
