"""Diagnostics that a call reports besides the advantages.

Every entry is a function of tensors the estimator had at hand anyway, run when it is first read: a
training loop that logs three numbers pays for three, and nothing here ever waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.hoyer import hoyer
from reelrl.algos.advantages.masked import Array, Masked, group_sum, group_top, safe_divide
from reelrl.algos.advantages.norm import GroupStats, Moments, NormSpec, normalise

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Thunk = Callable[[], Tensor]


class Diagnostics(Mapping[str, Array]):
    """A read-only mapping whose values are computed on first access and kept."""

    def __init__(self, thunks: Mapping[str, Thunk], close: Callable[[Tensor], Array]) -> None:
        self._thunks = dict(thunks)
        self._close = close
        self._done: dict[str, Array] = {}

    def __getitem__(self, key: str) -> Array:
        if key not in self._done:
            self._done[key] = self._close(self._thunks[key]())
        return self._done[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._thunks)

    def __len__(self) -> int:
        return len(self._thunks)


def diagnose(work: Work, signal: Signal) -> dict[str, Thunk]:
    """All diagnostics of one call, as functions to be run when asked for.

    Per component, (K,): ``reward_mean``, ``reward_std_within`` (mean group std, ddof 1),
    ``reward_std_between`` (std of group means), ``hoyer`` and ``cv`` (group means), ``saturation``
    (position of the mean within bounds), ``zero_std_frac``, ``nan_frac``, ``weight``,
    ``influence`` (w_k std_k / sum over the components: which one drives the update),
    ``advantage_corr`` (with the final advantage), ``conflict_rate`` (share of samples where the
    component's sign is against another's), and ``agreement``, the (K, K) mean Kendall tau-b.

    Scalars: ``effective_group_count``, ``small_group_count`` (fewer than two valid members),
    ``distinct_adv_per_group``, ``adv_abs_mean``, ``adv_std``, ``kept_frac``, ``kl_gate_frac``, and
    the estimator's own notes (``batch_norm_scale``, ``frac_clipped``, ``tau``, ``utility``, ...).
    """
    view = _View(work, signal)
    thunks: dict[str, Thunk] = {
        "reward_mean": lambda: Moments.of(work.scores, per_component=True).mean,
        "reward_std_within": lambda: view.over_groups(view.stats.std(1)),
        "reward_std_between": lambda: view.between,
        "hoyer": lambda: view.over_groups(hoyer(work.scores)),
        "cv": lambda: view.over_groups(safe_divide(view.stats.std(0), view.stats.mean.abs())),
        "zero_std_frac": lambda: view.over_groups(view.flat.to(view.stats.mean.dtype)),
        "nan_frac": lambda: 1 - view.columns(work.scores.present.to(view.stats.mean.dtype)),
        "weight": lambda: signal.weights.reshape(-1, signal.weights.shape[-1]).mean(0),
        "influence": lambda: view.influence,
        "advantage_corr": lambda: view.correlation,
        "conflict_rate": lambda: view.conflict,
        "agreement": lambda: view.agreement,
        "effective_group_count": lambda: view.alive.sum().to(view.dtype),
        "small_group_count": lambda: view.small.sum().to(view.dtype),
        "distinct_adv_per_group": lambda: view.distinct,
        "adv_abs_mean": lambda: Moments.of(signal.advantages.map(torch.abs)).mean[0],
        "adv_std": lambda: Moments.of(signal.advantages).std(0)[0],
    }
    if work.bounds is not None:
        thunks["saturation"] = lambda: view.saturation
    if signal.sample_weight is not None:
        kept = signal.sample_weight
        thunks["kept_frac"] = lambda: signal.advantages.share(kept > 0)
    if signal.kl_gate is not None:
        gate = signal.kl_gate
        thunks["kl_gate_frac"] = lambda: signal.advantages.share(gate)
    for name, value in {**work.notes, **signal.notes}.items():
        thunks[name] = partial(_same, value)
    return thunks


def _same(value: Tensor) -> Tensor:
    return value


class _View:
    """Intermediate quantities shared by several diagnostics."""

    def __init__(self, work: Work, signal: Signal) -> None:
        self.work, self.signal = work, signal
        self.dtype = work.scores.values.dtype

    @cached_property
    def stats(self) -> GroupStats:
        return GroupStats.of(self.work.scores)

    @cached_property
    def flat(self) -> Bool[Tensor, "P 1 ..."]:
        return self.stats.dead(1, self.work.tol) & (self.stats.count >= 2)

    def over_groups(self, values: Float[Tensor, "P 1 ... K"]) -> Float[Tensor, " K"]:
        """Mean over groups (and steps) with at least two scored members: (P, 1, [T,] K) -> (K,)."""
        weight = (self.stats.count >= 2).to(self.dtype).expand_as(values)
        return safe_divide(_columns(values * weight).sum(0), _columns(weight).sum(0))

    def columns(self, values: Float[Tensor, "... K"]) -> Float[Tensor, " K"]:
        """Mean over everything but the component."""
        flat = _columns(values)
        return flat.sum(0) / max(1, flat.shape[0])

    @property
    def between(self) -> Float[Tensor, " K"]:
        means = Masked.of(self.stats.mean, self.stats.count.expand_as(self.stats.mean) > 0)
        return Moments.of(means, per_component=True).std(1)

    @property
    def influence(self) -> Float[Tensor, " K"]:
        std = GroupStats.of(self.signal.terms).std(1)
        weights = self.signal.weights
        if weights.ndim > 1:
            weights = weights.reshape(
                weights.shape[0], *[1] * (std.ndim - weights.ndim), *weights.shape[1:]
            )
        push = _columns((weights.abs() * std).expand_as(std))
        share = safe_divide(push, push.sum(1, keepdim=True).expand_as(push))
        moved = (push.sum(1, keepdim=True) > 0).to(self.dtype)
        return safe_divide(share.sum(0), moved.sum(0).expand(share.shape[1]))

    @property
    def saturation(self) -> Float[Tensor, " K"]:
        assert self.work.bounds is not None
        low, high = self.work.bounds.unbind(-1)
        return self.over_groups((self.stats.mean - low) / (high - low))

    @cached_property
    def z(self) -> Masked:
        return normalise(self.work.scores, NormSpec(eps=0.0), tol=self.work.tol).out

    @property
    def correlation(self) -> Float[Tensor, " K"]:
        z, present = self.z.values, self.z.present
        advantage = self.signal.advantages.values.unsqueeze(-1)
        if z.ndim < advantage.ndim:  # advantages per step from rewards of the whole clip
            z, present = (x.unsqueeze(2).expand(*advantage.shape[:3], -1) for x in (z, present))
        advantage = advantage * present
        cross = _columns(advantage * z).sum(0)
        norms = _columns(advantage.square()).sum(0) * _columns(z.square()).sum(0)
        return safe_divide(cross, norms.sqrt())

    @property
    def conflict(self) -> Float[Tensor, " K"]:
        sign = _columns(self.z.values).sign()
        up, down = (sign > 0).any(1, keepdim=True), (sign < 0).any(1, keepdim=True)
        against = ((sign > 0) & down) | ((sign < 0) & up)
        return against.to(self.dtype).sum(0) / max(1, sign.shape[0])

    @property
    def agreement(self) -> Float[Tensor, "K K"]:
        scores = self.work.scores.with_nan()
        pairs = (scores.unsqueeze(1) - scores.unsqueeze(2)).sign().nan_to_num(0.0)
        flat = pairs.flatten(1, 2).movedim(1, -2)  # (P, [T,] G*G, K)
        together = flat.transpose(-1, -2) @ flat
        own = together.diagonal(dim1=-2, dim2=-1)
        tau = safe_divide(together, (own.unsqueeze(-1) * own.unsqueeze(-2)).sqrt())
        both = ((own.unsqueeze(-1) > 0) & (own.unsqueeze(-2) > 0)).to(self.dtype)
        size = (-1, *tau.shape[-2:])
        return safe_divide(tau.reshape(size).sum(0), both.reshape(size).sum(0))

    @cached_property
    def alive(self) -> Bool[Tensor, " P"]:
        """(P,) groups with a nonzero advantage."""
        return (self.signal.advantages.values != 0).flatten(1).any(1)

    @property
    def small(self) -> Bool[Tensor, " P"]:
        """(P,) groups in which no step has two members to compare."""
        present = self.signal.advantages.present
        count = group_sum(present.to(self.dtype)).flatten(1)
        return ~(count >= 2).any(1)

    @property
    def distinct(self) -> Float[Tensor, ""]:
        """Mean number of different advantages per group that has any."""
        values = self.signal.advantages.with_nan().movedim(1, -1)
        ordered = values.sort(-1).values  # nan sorts last, and nan != nan never counts below
        first = (~torch.isnan(ordered[..., :1])).to(self.dtype).sum(-1)
        top = group_top(self.signal.advantages.values.abs()).movedim(1, -1)
        steps = (ordered[..., 1:] - ordered[..., :-1] > 1e-9 * top).to(self.dtype).sum(-1)
        return safe_divide((first + steps).sum(), (first > 0).to(self.dtype).sum())


def _columns(values: Float[Tensor, "... K"]) -> Float[Tensor, "N K"]:
    """(..., K) -> (N, K)."""
    return values.reshape(-1, values.shape[-1])
