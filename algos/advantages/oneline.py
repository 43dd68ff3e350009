"""One call for training loops that have a flat list of samples and their group ids."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.advantages.masked import Array, to_tensor
from reelrl.algos.advantages.registry import estimator_class, make_estimator
from reelrl.algos.advantages.types import AdvantageEstimator, RewardBatch
from reelrl.naming import nearest

if TYPE_CHECKING:
    from jaxtyping import Int


def advantages(
    rewards_nk: Array,
    group_ids_n: Array | Sequence[Any],
    estimator: str | AdvantageEstimator = "gdpo",
    *,
    names: Sequence[str] | None = None,
    weights: Array | Mapping[str, float] | None = None,
    bounds: Array | None = None,
    **config: Any,
) -> Array:
    """Advantages of N samples in groups of any sizes, in one line.

    Args:
        rewards_nk: (N, K) or (N,) scores; ``nan`` means not scored.
        group_ids_n: N ids, (N,) or (N, 1), numbers or strings; equal ids are one group, in any
            order, and the number 1 is not the text "1".
        estimator: a name for :func:`make_estimator`, or an estimator without state.
        names: K component names; "r0", "r1", ... by default.
        weights: (K,) static weights, or by name, where a component not named has weight 0; of
            ``fixed_weights`` its own.
        bounds: (K, 2) declared ranges, for ``taros`` and ``sa_mrpo``.
        **config: passed to :func:`make_estimator`, ``preset`` among them.

    Returns:
        (N,) advantages, NumPy or torch like the rewards.

    Raises:
        ValueError: if there are not N ids, if an id is not a single number or string, if weights
            name an unknown component, or if settings come with a ready estimator.

    Warns:
        UserWarning: once, if every sample is alone in its group: nothing is compared then.
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
    labels = tuple((f"r{k}" for k in range(rewards.shape[1])) if names is None else names)
    weights = _by_name(weights, labels) if isinstance(weights, Mapping) else weights
    if isinstance(estimator, str) and weights is not None and _has_weights(estimator):
        config["weights"], weights = tuple(to_tensor(weights).tolist()), None
    call = make_estimator(estimator, **config) if isinstance(estimator, str) else estimator
    group, slot, shape = group_slots(group_ids_n, rewards.device)
    if shape[1] == 1 < shape[0]:
        warnings.warn(ALONE, stacklevel=2)
    padded = rewards.new_zeros(*shape, rewards.shape[1])
    padded[group, slot] = rewards
    valid = torch.zeros(shape, dtype=torch.bool, device=rewards.device)
    valid[group, slot] = True
    numpy_in = isinstance(rewards_nk, np.ndarray)
    batch = RewardBatch(
        rewards=padded.numpy() if numpy_in else padded,
        names=labels,
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


ALONE = (
    "every sample is alone in its group, so nothing is compared: give samples of one prompt one id"
)


def _by_name(weights: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """Weights (K,) float64 from weights of some components by name; the others get 0."""
    for name in weights:
        if name not in names:
            raise ValueError(f"a weight is given for the reward {name!r}{nearest(name, names)}")
    return np.array([float(weights.get(name, 0.0)) for name in names], dtype=np.float64)


def _one_each(ids: Any) -> None:
    if ids.ndim != 1:
        raise ValueError(f"a group id must be one number or string, got ids of {tuple(ids.shape)}")


def _as_codes(ids: Any) -> np.ndarray:
    """Ids (N,) as an array in which equal ids, and no others, are equal."""
    if isinstance(ids, list | tuple) or getattr(ids, "dtype", None) == np.dtype(object):
        kinds = [next((k for k in _KINDS if isinstance(one, k)), None) for one in ids]
        if len(set(kinds)) > 1:
            # As one array the numbers would become texts; kind by kind they stay apart.
            return _mixed(list(ids), kinds)
    flat = np.asarray(ids)
    flat = flat.reshape(-1) if flat.ndim == 2 and flat.shape[1] == 1 else flat
    _one_each(flat)
    if flat.dtype == np.dtype(object):
        flat = np.array(flat.tolist())
    if flat.dtype.kind not in "biufUS":
        raise ValueError(f"a group id must be one number or string, got {flat.tolist()[:4]}")
    return flat


_KINDS = (Real, str, bytes)


def _mixed(ids: list[Any], kinds: Sequence[type | None]) -> np.ndarray:
    """Codes of ids of several kinds, numbers before texts, each kind in its order."""
    pairs = list(zip(ids, kinds, strict=True))
    odd = [one for one, kind in pairs if kind is None]
    if odd:
        raise ValueError(f"a group id must be one number or string, got {odd[0]!r}")
    codes: dict[Any, int] = {}
    for wanted in _KINDS:
        for one in sorted({one for one, kind in pairs if kind is wanted}):
            codes[wanted, one] = len(codes)
    return np.array([codes[kind, one] for one, kind in pairs], dtype=np.int64)


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
        flat = ids.reshape(-1) if ids.ndim == 2 and ids.shape[1] == 1 else ids
        _one_each(flat)
        _, group, count = torch.unique(flat.to(device), return_inverse=True, return_counts=True)
    else:
        _, inverse, counts = np.unique(_as_codes(ids), return_inverse=True, return_counts=True)
        group = torch.from_numpy(inverse.reshape(-1)).to(device)
        count = torch.from_numpy(counts).to(device)
    order = torch.argsort(group, stable=True)
    start = count.cumsum(0) - count
    slot = torch.empty_like(group)
    slot[order] = torch.arange(len(group), dtype=torch.int64, device=device) - start[group[order]]
    return group, slot, (len(count), int(count.max()) if len(count) else 0)
