"""One call for training loops that have a flat list of samples and their group ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.advantages.masked import Array, to_tensor
from reelrl.algos.advantages.registry import estimator_class, make_estimator
from reelrl.algos.advantages.types import AdvantageEstimator, RewardBatch

if TYPE_CHECKING:
    from jaxtyping import Int


def advantages(
    rewards_nk: Array,
    group_ids_n: Array | Sequence[Any],
    estimator: str | AdvantageEstimator = "gdpo",
    *,
    names: Sequence[str] | None = None,
    weights: Array | None = None,
    bounds: Array | None = None,
    **config: Any,
) -> Array:
    """Advantages of N samples in groups of any sizes, in one line.

    Args:
        rewards_nk: (N, K) or (N,) scores; ``nan`` means not scored.
        group_ids_n: N ids, integers or strings; equal ids are one group, in any order.
        estimator: a name for :func:`make_estimator`, or an estimator without state.
        names: K component names; "r0", "r1", ... by default.
        weights: (K,) static weights; of ``fixed_weights`` its own.
        bounds: (K, 2) declared ranges, for ``taros`` and ``sa_mrpo``.
        **config: passed to :func:`make_estimator`, ``preset`` among them.

    Returns:
        (N,) advantages, NumPy or torch like the rewards.

    Raises:
        ValueError: if there are not N ids, if an id is not a single number or string, or if
            settings come with a ready estimator.
    """
    if not isinstance(rewards_nk, (np.ndarray, Tensor)):
        rewards_nk = to_tensor(rewards_nk).numpy()
    rewards = to_tensor(rewards_nk)
    rewards = rewards[:, None] if rewards.ndim == 1 else rewards
    if rewards.ndim != 2 or len(group_ids_n) != rewards.shape[0]:
        raise ValueError(
            f"expected rewards (N, K) and N group ids, got shape {tuple(rewards.shape)} "
            f"and {len(group_ids_n)} ids"
        )
    if config and not isinstance(estimator, str):
        raise ValueError(f"settings {sorted(config)} come with a ready estimator {estimator!r}")
    if isinstance(estimator, str) and weights is not None and _has_weights(estimator):
        config["weights"], weights = tuple(to_tensor(weights).tolist()), None
    call = make_estimator(estimator, **config) if isinstance(estimator, str) else estimator
    group, slot, shape = group_slots(group_ids_n, rewards.device)
    padded = rewards.new_zeros(*shape, rewards.shape[1])
    padded[group, slot] = rewards
    valid = torch.zeros(shape, dtype=torch.bool, device=rewards.device)
    valid[group, slot] = True
    numpy_in = isinstance(rewards_nk, np.ndarray)
    batch = RewardBatch(
        rewards=padded.numpy() if numpy_in else padded,
        names=tuple((f"r{k}" for k in range(rewards.shape[1])) if names is None else names),
        weights=weights,
        valid=None if bool(valid.all()) else valid,
        bounds=bounds,
    )
    output, _ = call(batch)
    flat = to_tensor(output.advantages)[group, slot]
    return flat.numpy() if numpy_in else flat


def _has_weights(name: str) -> bool:
    """True if an estimator takes weights of its own in place of the batch's."""
    settings = fields(estimator_class(name.partition("@")[0]).Config)
    return any(field.name == "weights" for field in settings)


def group_slots(
    ids: Array | Sequence[Any], device: torch.device
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], tuple[int, int]]:
    """Where N samples stand in a padded (P, G) table.

    Args:
        ids: N group ids, integers or strings; rows of the table are in their order.
        device: of the results.

    Returns:
        row (N,) and column (N,) of every sample, and the table's shape.

    Raises:
        ValueError: if an id is not a single number or string.
    """
    if isinstance(ids, Tensor):
        _, group, count = torch.unique(ids.to(device), return_inverse=True, return_counts=True)
    else:
        flat = np.asarray(ids)
        if flat.ndim != 1:
            raise ValueError(f"a group id must be one number or string, got ids of {flat.shape}")
        _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
        group = torch.from_numpy(inverse.reshape(-1)).to(device)
        count = torch.from_numpy(counts).to(device)
    order = torch.argsort(group, stable=True)
    start = count.cumsum(0) - count
    slot = torch.empty_like(group)
    slot[order] = torch.arange(len(group), dtype=torch.int64, device=device) - start[group[order]]
    return group, slot, (len(count), int(count.max()) if len(count) else 0)
