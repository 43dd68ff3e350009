"""Input and output of an estimator.

Dimension letters: P prompts, G group members, T denoising steps, K reward components, M references,
ensemble or auxiliary scorers, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.advantages.masked import Array, check_magnitude, to_tensor

State = dict[str, Tensor]
"""Everything an estimator remembers: plain tensors by name, with a ``version`` entry."""

Gather = Callable[[Tensor], Tensor]
"""Concatenates a tensor over all ranks along axis 0, in rank order, the same on every rank."""

WEIGHT_LIMIT = 1e50


@dataclass(frozen=True)
class RewardBatch:
    """Scores of P groups of G clips.

    Attributes:
        rewards: (P, G, K), or (P, G, T, K) with one score per denoising step. NumPy or torch, any
            real dtype; ``nan`` means "not scored", infinity is an error.
        names: K component names. The order is meaningful to TaRoS.
        weights: (K,) or (P, K) static weights; None means all ones.
        valid: (P, G) or (P, G, T) bool; False marks padding and failed rollouts.
        bounds: (K, 2) declared (low, high) per component; ``taros`` and ``sa_mrpo`` need it.
        prompt_ids: (P,) integers naming prompts across batches.
        extras: further arrays by the names in :data:`EXTRAS`.
        step: iteration counter, for schedules and random signs.

    Raises:
        ValueError: if a shape disagrees; the message carries the expected and the actual shape.
        TypeError: if an array is not numeric.
    """

    rewards: Array
    names: tuple[str, ...]
    weights: Array | None = None
    valid: Array | None = None
    bounds: Array | None = None
    prompt_ids: Array | None = None
    extras: Mapping[str, Array] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        tensor = to_tensor(self.rewards)
        if not isinstance(self.rewards, (np.ndarray, Tensor)):
            object.__setattr__(self, "rewards", tensor.numpy())
        object.__setattr__(self, "names", tuple(self.names))
        shape = tuple(self.rewards.shape)
        if len(shape) not in (3, 4):
            raise ValueError(f"rewards must be (P, G, K) or (P, G, T, K), got shape {shape}")
        if shape[-1] < 1:
            raise ValueError(f"rewards need at least one component, got shape {shape}")
        if len(self.names) != shape[-1] or len(set(self.names)) != shape[-1]:
            raise ValueError(
                f"rewards of shape {shape} need {shape[-1]} different names, got {self.names}"
            )
        prompts, components = shape[0], shape[-1]
        self._expect("weights", [(components,), (prompts, components)])
        self._expect("valid", [shape[:2], *([shape[:3]] if len(shape) == 4 else [])])
        self._expect("bounds", [(components, 2)])
        self._expect("prompt_ids", [(prompts,)])
        self._check_small_arrays()
        unknown = set(self.extras) - set(EXTRAS)
        if unknown:
            raise ValueError(f"unknown extras {sorted(unknown)}; known: {sorted(EXTRAS)}")

    def _expect(self, name: str, shapes: list[tuple[int, ...]]) -> None:
        array = getattr(self, name)
        if array is None:
            return
        got = tuple(to_tensor(array).shape)
        if got not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"{name} must have shape {wanted}, got {got}")

    def _check_small_arrays(self) -> None:
        """Values of weights and bounds, where looking costs no wait for a device."""
        weights = None if self.weights is None else to_tensor(self.weights)
        if weights is not None and weights.device.type == "cpu":
            bad = ~(weights.to(torch.float64).abs() <= WEIGHT_LIMIT)
            if bool(bad.any()):
                raise ValueError(
                    f"weights must be finite and at most {WEIGHT_LIMIT:g} in magnitude, got "
                    f"{weights.tolist()}"
                )
        bounds = None if self.bounds is None else to_tensor(self.bounds)
        on_cpu = bounds is not None and bounds.device.type == "cpu"
        if bounds is not None and on_cpu and not bool((bounds[:, 0] < bounds[:, 1]).all()):
            raise ValueError(f"bounds must be (low, high) with low < high, got {bounds.tolist()}")

    def validate(self) -> RewardBatch:
        """Check the values of rewards and extras, waiting for the device once per array.

        On the CPU every call does this already; on an accelerator it is worth one call when a
        training loop is new.

        Returns:
            This batch.

        Raises:
            ValueError: for an infinite value or one above 1e100 in magnitude.
        """
        for name, array in {"rewards": self.rewards, **self.extras}.items():
            tensor = to_tensor(array)
            if tensor.is_floating_point():
                check_magnitude(tensor.to(torch.float64), name)
        return self


EXTRAS: dict[str, str] = {
    "pairwise": "(P, G, G[, K]) points of the row member against the column member in [0, 1]",
    "rank": "(P, G) rank of each member, 0 the best",
    "features": "(P, G, D) embedding of each clip",
    "aux_rewards": "(P, G, M) auxiliary scores of each clip",
    "ref_rewards": "(P, M, K) rewards of M reference rollouts per prompt",
    "ensemble": "(P, G, M, K) scores of M ensemble members",
    "ode_rewards": "(P, G, T+1[, K]) rewards of deterministic completions, from noise to clip",
    "tree_parent": "(P, N) parent of each node, -1 for a root; the last G nodes are the leaves",
    "edge_logp": "(P, N) log-probability of the edge into each tree node",
    "step_mask": "(P, G, T) True where a step counts",
    "tokens": "(P, G) number of equal steps each sample stands for in a batch statistic",
}
"""Keys of :attr:`RewardBatch.extras` and the content of each."""


@dataclass(frozen=True)
class AdvantageOutput:
    """One learning signal, and the numbers it was made of.

    Attributes:
        advantages: (P, G) for terminal rewards, (P, G, T) for per-step ones; finite, 0 where the
            sample is invalid, unscored or dropped. dtype of the rewards, at least float32.
        component_advantages: (P, G[, T], K), ``nan`` where a component does not apply; None for
            estimators that sum before they normalise.
        component_weights: (K,), (P, K) or (P, T, K) weights the estimator used.
        aggregated_reward: (P, G[, T]) the scalar that went into the last normalisation.
        sample_weight: (P, G[, T]) 1 for kept and 0 for dropped samples, already applied to
            ``advantages``: the number that a loss should divide by.
        kl_gate: (P, G) bool, True where the KL penalty is on.
        diagnostics: a read-only mapping; each entry is computed when it is first read.
    """

    advantages: Array
    component_advantages: Array | None = None
    component_weights: Array | None = None
    aggregated_reward: Array | None = None
    sample_weight: Array | None = None
    kl_gate: Array | None = None
    diagnostics: Mapping[str, Array] = field(default_factory=dict)


@runtime_checkable
class AdvantageEstimator(Protocol):
    """A pure function from a batch and a state to advantages and the next state.

    Attributes:
        name: registry name.
        requires: keys of ``extras``, or "bounds", "dense", that a batch must have.
        needs_component_gradients: True if the trainer must give gradients back by
            ``feedback(state, gram=..., weights=...)``, which returns the state that follows.
        loss_mode: "summed" (one loss on ``advantages``) or "per_component" (one loss per column of
            ``component_advantages``, weighted by ``component_weights``).
        config: a frozen dataclass.
    """

    name: ClassVar[str]
    needs_component_gradients: ClassVar[bool]
    loss_mode: ClassVar[str]
    config: Any

    @property
    def requires(self) -> frozenset[str]:
        """Read only; an attribute does as well."""

    def init_state(self, names: Sequence[str]) -> State:
        """The state before the first batch."""

    def reset(self, state: State, names: Sequence[str], components: Sequence[str]) -> State:
        """The state without its knowledge of the scale of some components."""

    def __call__(
        self, batch: RewardBatch, state: State | None = None, *, gather: Gather | None = None
    ) -> tuple[AdvantageOutput, State]:
        """Advantages of one batch, and the state for the next."""
