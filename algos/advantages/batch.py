"""The opened batch that transforms and estimators work on, and the signal they build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reelrl.algos.advantages.masked import (
    Array,
    Masked,
    group_count,
    group_sum,
    safe_divide,
    scored,
    statistics_dtype,
    to_tensor,
)
from reelrl.algos.advantages.types import EXTRAS, Gather, RewardBatch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

FLOAT_NOISE = {torch.float64: 1e-12}
"""Zero tolerance by reward dtype; integers count as float64, everything else gets 1e-6."""


@dataclass(frozen=True)
class Work:
    """A batch inside an estimator call: torch, float64, masked.

    Attributes:
        scores: (P, G, K) or (P, G, T, K).
        names: K component names.
        weights: (K,) or (P, K) float64.
        bounds: (K, 2) float64, or None.
        batch: the batch as the caller made it.
        tol: zero tolerance of the reward dtype.
        gather: concatenates over ranks, or None for one rank.
        notes: diagnostics that transforms leave behind.
    """

    scores: Masked
    names: tuple[str, ...]
    weights: Float[Tensor, "*P K"]
    bounds: Float[Tensor, "K 2"] | None
    batch: RewardBatch
    tol: float
    gather: Gather | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def dense(self) -> bool:
        """True for (P, G, T, K) rewards."""
        return self.scores.values.ndim == 4

    @property
    def device(self) -> torch.device:
        """Where the rewards live."""
        return self.scores.values.device

    @property
    def shape(self) -> tuple[int, int]:
        """(P, G)."""
        return self.scores.values.shape[0], self.scores.values.shape[1]

    def extra(self, name: str, *shape: int | None) -> Masked:
        """Open one of the extras as float64 scores.

        Args:
            name: key of :data:`EXTRAS`.
            *shape: expected shape; None for a free length.

        Raises:
            ValueError: if its shape is another one.
        """
        opened = scored(self.batch.extras[name], f"extras[{name!r}]", self.device)
        expect_shape(name, tuple(opened.values.shape), shape)
        return opened

    def indices(self, name: str, *shape: int | None) -> Tensor:
        """Open one of the extras as int64, checking its shape like :meth:`extra`."""
        opened = to_tensor(self.batch.extras[name], self.device).to(torch.int64)
        expect_shape(name, tuple(opened.shape), shape)
        return opened

    def tokens(self, default: int) -> Float[Tensor, "P G ..."] | float:
        """Weight of each sample in batch statistics: ``extras["tokens"]``, or the same for all."""
        if "tokens" not in self.batch.extras:
            return float(default)
        tokens = self.extra("tokens", *self.shape).values
        return tokens.unsqueeze(-1) if self.dense else tokens

    def with_scores(self, scores: Masked, **changes: Any) -> Work:
        """A copy with other scores; further fields by keyword."""
        return replace(self, scores=scores, **changes)

    def noting(self, **notes: Tensor) -> Work:
        """A copy with more diagnostics."""
        return replace(self, notes={**self.notes, **notes})


@dataclass(frozen=True)
class Signal:
    """The result of an estimator, before it is cast and handed out.

    Attributes:
        advantages: (P, G) or (P, G, T).
        terms: (P, G[, T], K) the K numbers per sample that were weighted and summed: rewards for
            sum-first estimators, component advantages for normalise-first ones.
        weights: (K,), (P, K) or (P, T, K) the weights they were summed with.
        aggregated: (P, G[, T]) that sum.
        are_components: True if ``terms`` are component advantages.
        sample_weight: (P, G[, T]) 1 kept, 0 dropped, or None.
        kl_gate: (P, G) bool, or None.
        notes: diagnostics of this estimator.
    """

    advantages: Masked
    terms: Masked
    weights: Float[Tensor, "*P K"]
    aggregated: Masked | None = None
    are_components: bool = False
    sample_weight: Float[Tensor, "P G ..."] | None = None
    kl_gate: Bool[Tensor, "P G"] | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict)

    def noting(self, **notes: Tensor) -> Signal:
        """A copy with more diagnostics."""
        return replace(self, notes={**self.notes, **notes})


def open_batch(batch: RewardBatch, gather: Gather | None = None) -> Work:
    """Bring a batch to torch and float64; ``nan``, ``valid`` and ``step_mask`` become one mask.

    Raises:
        ValueError: for infinite rewards, or a wrongly shaped ``step_mask``.
    """
    scores = scored(batch.rewards, "rewards")
    device = scores.values.device
    mask = valid_mask(batch, scores.values)
    scores = scores if mask is None else scores.drop(mask)
    dtype = to_tensor(batch.rewards).dtype
    narrow = dtype.is_floating_point and dtype not in FLOAT_NOISE
    return Work(
        scores=scores,
        names=batch.names,
        weights=_small(batch.weights, device, len(batch.names)),
        bounds=None if batch.bounds is None else _small(batch.bounds, device, 0),
        batch=batch,
        tol=1e-6 if narrow else 1e-12,
        gather=gather,
    )


def valid_mask(
    batch: RewardBatch, values: Float[Tensor, " *shape"]
) -> Bool[Tensor, " *shape"] | None:
    """``valid`` and ``step_mask`` as one mask shaped like ``values``; None if neither is there.

    Raises:
        ValueError: for a wrongly shaped ``step_mask``.
    """
    mask = None
    if batch.valid is not None:
        mask = _over_scores(to_tensor(batch.valid, values.device), values)
    if "step_mask" in batch.extras and values.ndim == 4:
        steps = _over_scores(step_mask(batch, values, values.shape[2]), values)
        mask = steps if mask is None else mask & steps
    return mask


def step_mask(
    batch: RewardBatch, like: Float[Tensor, "P G ..."], steps: int | None = None
) -> Bool[Tensor, "P G T"]:
    """``extras["step_mask"]`` as (P, G, T) bool on the device of ``like`` (P, G, ...).

    Raises:
        ValueError: if it has another shape.
    """
    mask = to_tensor(batch.extras["step_mask"], like.device)
    expect_shape("step_mask", tuple(mask.shape), (*like.shape[:2], steps))
    return mask.to(torch.bool)


def total_score(
    scores: Masked, weights: Float[Tensor, "*P K"], gather: Gather | None = None
) -> Masked:
    """sum_k w_k r_k of rewards, where a missing one counts as its group's average.

    So it pulls its clip neither up nor down once the group's mean is subtracted; a sum over what
    is present would score it 0, the worst of some scales and the best of others. A component that
    a whole group lacks counts as the batch's mean. Missing where no component is scored.

    Args:
        scores: (P, G, K) or (P, G, T, K); every step has group means of its own.
        weights: as of :func:`weighted_sum`.
        gather: makes the batch's mean the mean over all ranks.
    """
    if scores.mask is None and gather is None:
        return weighted_sum(scores, weights)
    dtype = scores.values.dtype
    flat = scores.values.reshape(-1, scores.values.shape[-1])
    known = scores.present.reshape(flat.shape).to(dtype)
    sums = torch.stack([flat.sum(0), known.sum(0)])
    # On every rank, holes or not: the others wait.
    sums = sums if gather is None else gather(sums[None]).sum(0)
    if scores.mask is None:
        return weighted_sum(scores, weights)
    count = group_count(scores)
    mean = safe_divide(group_sum(scores.values), count)
    mean = torch.where(count > 0, mean, safe_divide(*sums.unbind(0)))
    filled = torch.where(scores.mask, scores.values, mean)
    return weighted_sum(Masked(filled), weights).drop(scores.mask.any(-1))


def weighted_sum(scores: Masked, weights: Float[Tensor, "*P K"]) -> Masked:
    """sum_k w_k x_k over the components present; missing where none is.

    For what is centred already, such as advantages: there a missing one adds nothing. Rewards are
    summed by :func:`total_score`.

    Args:
        scores: (P, G, K) or (P, G, T, K).
        weights: (K,), (P, K), or (P, T, K) for per-step weights.
    """
    mask = None if scores.mask is None else scores.mask.any(-1)
    # Components may cancel, and only their rounding is left then.
    size = None if weights.shape[-1] == 1 else _dot(scores.values.abs(), weights.abs())
    return Masked(_dot(scores.values, weights), mask, size)


def _dot(values: Float[Tensor, " *shape"], weights: Float[Tensor, "*P K"]) -> Tensor:
    """sum_k w_k x_k; the weights are of all, of a prompt, or of a prompt's step."""
    if weights.ndim == 1:
        return values @ weights
    if weights.ndim == 2:
        # An elementwise product would write K numbers to read them once.
        return torch.bmm(values.flatten(1, -2), weights.unsqueeze(-1)).reshape(values.shape[:-1])
    return (values * weights.unsqueeze(1)).sum(-1)


def expect_shape(name: str, got: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    """Compare a shape with one that may have free lengths.

    Raises:
        ValueError: names both, and the content of the array.
    """
    agrees = len(got) == len(wanted) and all(
        w is None or w == g for g, w in zip(got, wanted, strict=True)
    )
    if not agrees:
        shown = tuple("*" if w is None else w for w in wanted)
        holds = f", {EXTRAS[name]}" if name in EXTRAS else ""
        raise ValueError(f"{name} must have shape {shown}, got {got}{holds}")


def _over_scores(
    mask: Shaped[Tensor, "P G ..."], values: Float[Tensor, " *shape"]
) -> Bool[Tensor, " *shape"]:
    """A (P, G) or (P, G, T) mask, spread over the trailing axes of the scores."""
    extra = values.ndim - mask.ndim
    return mask.to(torch.bool).reshape(*mask.shape, *[1] * extra).expand_as(values)


def _small(array: Array | None, device: torch.device, components: int) -> Tensor:
    dtype = statistics_dtype(device)
    if array is None:
        return torch.ones(components, dtype=dtype, device=device)
    return to_tensor(array, device).to(dtype)
