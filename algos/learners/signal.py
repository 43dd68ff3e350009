"""From the estimator's answer, per clip or per step, to one signal per stored transition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reelrl.algos.advantages import AdvantageOutput
from reelrl.algos.collect.rollout import Rollout, Transitions

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ItemSignal:
    """The learning signal of every transition of a rollout, on the policy's device.

    Attributes:
        advantages: (M,) float64.
        components: (M, K) float64 with ``nan`` where one does not apply, or None.
        component_weights: (M, K) float64, or None.
        kl_gate: (M,) float64, 0 or 1.
        weight: (M,) float64, the transition's weight in the average; 0 leaves it out.
    """

    advantages: Float[Tensor, " M"]
    components: Float[Tensor, "M K"] | None
    component_weights: Float[Tensor, "M K"] | None
    kl_gate: Float[Tensor, " M"]
    weight: Float[Tensor, " M"]

    def at(self, index: Int[Tensor, " N"]) -> ItemSignal:
        """The transitions ``index``."""
        picked: dict[str, Any] = {k: None if v is None else v[index] for k, v in vars(self).items()}
        return ItemSignal(**picked)


def signal_per_transition(output: AdvantageOutput, rollout: Rollout) -> ItemSignal:
    """Advantages (P, G) or (P, G, T), and all beside them, as one value per stored transition.

    A transition that clips share has the signal of the first of them that counts.

    Raises:
        ValueError: if the estimator's steps are neither all steps nor the stochastic ones, or the
            rollout has no transitions.
    """
    transitions = rollout.stochastic()
    device = transitions.device
    weights_ns = _clip_weights(output, rollout, transitions)
    row, column = clip_of_transition(weights_ns, transitions), transitions.rows()[1]
    group, member = row // rollout.group_size, row % rollout.group_size

    def pick(values: Any, *places: Tensor, trailing: int = 0) -> Float[Tensor, "M ..."]:
        """(M, ...) of values per ``places``, and per step if they have one axis more."""
        tensor = torch.as_tensor(values).to(device, torch.float64)
        stepwise = tensor.ndim - trailing > len(places)
        step = (_columns(tensor.shape[len(places)], transitions)[column],) if stepwise else ()
        return tensor[tuple(i.to(device) for i in (*places, *step))]

    advantages = pick(output.advantages, group, member)
    components = weights = None
    if output.component_advantages is not None:
        components = pick(output.component_advantages, group, member, trailing=1)
        weights = torch.ones_like(components)
        if output.component_weights is not None:
            given = torch.as_tensor(output.component_weights)
            # Weights are one row for all groups, or one row per group.
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


def clip_of_transition(
    weights_ns: Float[Tensor, "N S"], transitions: Transitions
) -> Int[Tensor, " num_items"]:
    """(num_items,) index of the clip whose advantage trains each stored transition.

    Of the clips that share a transition it is the first with a weight above 0.

    Args:
        weights_ns: (N, S) weight of each clip at each kept step.
        transitions: the stored ones.
    """
    first = []
    for column, step in enumerate(transitions.steps):
        sharing = weights_ns[:, column].view(len(step.row), -1) > 0
        # The largest of zeros and ones is found at its first place.
        first.append(step.row + sharing.int().argmax(dim=1))
    return torch.cat(first)


def _columns(count: int, transitions: Transitions) -> Int[Tensor, " S"]:
    """(S,) which of an estimator's ``count`` steps each kept one is.

    Dense estimators have one per denoising step; estimators of trees have one per edge, and thus
    per stochastic step.
    """
    steps = torch.tensor(
        [kept.index for kept in transitions.steps], dtype=torch.int64, device="cpu"
    )
    if count == transitions.num_steps:
        return steps
    if count != len(steps):
        raise ValueError(
            f"a signal per step must be of all {transitions.num_steps} denoising steps or of the "
            f"{len(steps)} stochastic ones, got {count}"
        )
    return torch.arange(count, dtype=torch.int64, device="cpu")


def _clip_weights(
    output: AdvantageOutput, rollout: Rollout, transitions: Transitions
) -> Float[Tensor, "N S"]:
    """(N, S) float64 on the host, weight of each clip at each kept step; 0 if not scored."""
    steps = len(transitions.steps)
    # A clip without any score has no advantage and must not dilute the average.
    scored = rollout.valid.any(dim=1).cpu().double()[:, None].expand(-1, steps)
    if output.sample_weight is None:
        return scored
    given = torch.as_tensor(output.sample_weight).cpu().double().flatten(0, 1)
    if given.ndim == 1:
        return scored * given[:, None]
    return scored * given[:, _columns(given.shape[1], transitions)]
