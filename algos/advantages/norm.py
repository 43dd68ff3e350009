"""Baselines and scales: the seven choices on which implementations of "GRPO" disagree.

``NormSpec`` names them and ``normalise`` is their only implementation. All statistics are two-pass
in float64; a group or batch without real spread gives exact zeros whatever the epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.masked import (
    Masked,
    blocks,
    group_count,
    group_sum,
    group_sum_of,
    group_top,
)
from reelrl.algos.advantages.types import Gather
from reelrl.checks import Ge, Gt, check_fields
from reelrl.naming import nearest
from reelrl.rewards.arguments import build_with

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Baseline = Literal["mean", "loo", "batch", "none"]
Scale = Literal["group", "loo", "batch", "none"]
EpsMode = Literal["add", "floor", "insqrt", "clampvar", "where"]


@dataclass(frozen=True)
class NormSpec:
    """How one number per sample is centred and scaled.

    Attributes:
        baseline: the subtracted number: the group mean, the mean of the *other* members (RLOO), the
            batch mean, or nothing.
        scale: the divisor: the std of the group, of the other members (NeMo), of the
            batch's values before centring ("global std"), or nothing.
        ddof: delta degrees of freedom of the std; 1 for most language trainers, 0 for most
            diffusion trainers.
        eps: the epsilon.
        eps_mode: "add" std + eps; "floor" max(std, eps); "insqrt" sqrt(var + eps); "clampvar"
            sqrt(max(var, eps)); "where" std + eps where std > 0, undivided elsewhere.
        zero_tol: a std of at most ``zero_tol`` times the largest magnitude among the numbers it is
            of is float noise and counts as zero, whatever the units; None means 1e-12 for float64
            and integer rewards, 1e-6 for narrower ones.
        clip: bound on the magnitude of the result; None for none.
        singleton: the advantage in a group with one valid member: "zero", or its "raw" score
            (verl).

    Raises:
        ValueError: for a negative eps or ddof, a clip of 0 or less, or an unknown choice.
    """

    baseline: Baseline = "mean"
    scale: Scale = "group"
    ddof: Annotated[int, Ge(0)] = 1
    eps: Annotated[float, Ge(0)] = 1e-8
    eps_mode: EpsMode = "add"
    zero_tol: float | None = None
    clip: Annotated[float, Gt(0)] | None = None
    singleton: Literal["zero", "raw"] = "zero"

    def __post_init__(self) -> None:
        check_fields(self)


def make_norm(spec: Any, start: NormSpec | None = None) -> NormSpec:
    """A ``NormSpec`` from itself or from a mapping of its fields, as a config file has it.

    Args:
        spec: a mapping names only the differences from ``start``.
        start: None means ``NormSpec()``.

    Raises:
        ValueError: for an unknown field, the message naming the nearest known one, or a value that
            it cannot have.
        TypeError: for anything else.
    """
    if isinstance(spec, NormSpec):
        return spec
    if not isinstance(spec, Mapping):
        raise TypeError(f"a normalisation is a NormSpec or a mapping of its fields, got {spec!r}")
    known = [field.name for field in fields(NormSpec)]
    for key in spec:
        if key not in known:
            raise ValueError(f"a normalisation has no field {key!r}{nearest(key, known)}")
    return build_with(NormSpec, {**vars(start or NormSpec()), **spec}, "a normalisation")


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations, mergeable over ranks.

    Attributes:
        count: (K,) samples, weighted by tokens.
        mean: (K,).
        m2: (K,) sum of squared deviations from the mean.
        top: (K,) largest magnitude, see :attr:`Masked.sizes`.
    """

    count: Float[Tensor, " K"]
    mean: Float[Tensor, " K"]
    m2: Float[Tensor, " K"]
    top: Float[Tensor, " K"]

    @classmethod
    def of(cls, x: Masked, *, per_component: bool = False, tokens: Tensor | float = 1.0) -> Moments:
        """Two-pass moments of everything present.

        Args:
            x: (..., K) if ``per_component``, else any shape (then K is 1).
            per_component: keep the last axis apart.
            tokens: how many equal tokens a sample stands for; a number, or shaped like ``x``.
        """
        columns = x.values.shape[-1] if per_component else 1
        values = x.values.reshape(-1, columns)
        weight = _token_weight(x, tokens, columns)
        top = group_top(x.sizes.reshape(1, -1, columns))[0, 0]
        if weight is None:
            count = values.new_full((columns,), float(values.shape[0]))
            mean = values.sum(0) / count.clamp(min=1)
            m2 = (values - mean).square_().sum(0)
            return cls(count * tokens, mean, m2 * tokens, top)
        count = weight.sum(0)
        mean = (weight * values).sum(0) / torch.where(count == 0, 1.0, count)
        return cls(count, mean, (weight * (values - mean).square_()).sum(0), top)

    def merge(self, gather: Gather | None) -> Moments:
        """The moments of all ranks together (Chan et al. 1979), or these if there is one rank."""
        if gather is None:
            return self
        own = torch.stack([self.count, self.mean, self.m2, self.top])
        count, mean, m2, top = gather(own[None]).unbind(1)
        total = count.sum(0)
        grand = (count * mean).sum(0) / torch.where(total == 0, 1.0, total)
        # Within the ranks, plus between them: no difference of large squares that would cancel.
        m2 = m2.sum(0) + (count * (mean - grand) ** 2).sum(0)
        return Moments(total, grand, m2, top.amax(0))

    def std(self, ddof: int) -> Float[Tensor, " K"]:
        """(K,) standard deviation; 0 where there are at most ``ddof`` samples."""
        return _std(self.m2, self.count, ddof)

    def baseline(self) -> Float[Tensor, " K"]:
        """(K,) the mean, or exactly 0 where it is the rounding left over from centred values.

        Without this a group without spread would leave the batch norm with 1e-17 instead of 0.
        """
        return torch.where(self.mean.abs() <= 1e-12 * self.std(0), 0.0, self.mean)


@dataclass(frozen=True)
class GroupStats:
    """Per-group count, mean, spread and top, all (P, 1, ...), and centred values (P, G, ...).

    The top is the largest magnitude, see :attr:`Masked.sizes`.
    """

    count: Float[Tensor, " P 1 *rest"]
    mean: Float[Tensor, " P 1 *rest"]
    m2: Float[Tensor, " P 1 *rest"]
    top: Float[Tensor, " P 1 *rest"]
    centred: Float[Tensor, " P G *rest"]

    @classmethod
    def of(cls, x: Masked) -> GroupStats:
        """Two-pass statistics over axis 1."""
        count = group_count(x)
        mean = group_sum(x.values) / count.clamp(min=1)
        centred = x.values - mean
        if x.mask is not None:
            # A missing score is stored as 0, and centring has moved it.
            centred.masked_fill_(~x.mask, 0.0)
        top = group_top(x.sizes)
        return cls(count, mean, group_sum_of(torch.square, centred), top, centred)

    def std(self, ddof: int) -> Float[Tensor, "P 1 ..."]:
        """(P, 1, ...) standard deviation; 0 for groups of at most ``ddof``."""
        return _std(self.m2, self.count, ddof)

    def dead(self, ddof: int, tol: float) -> Bool[Tensor, "P 1 ..."]:
        """(P, 1, ...) True where fewer than two members are valid or the spread is float noise."""
        return (self.count < 2) | is_noise(self.std(ddof), self.top, tol)


@dataclass(frozen=True)
class Normalised:
    """Result of :func:`normalise`.

    Attributes:
        out: the requested result.
        scale: the std divided by, before epsilon; None for scale "none".
        clipped: (P, G, ...) True where the clip was at work; None without a clip.
    """

    out: Masked
    scale: Tensor | None = None
    clipped: Bool[Tensor, "P G ..."] | None = None


def is_noise(
    std: Float[Tensor, " *shape"], top: Float[Tensor, " *shape"], tol: float
) -> Bool[Tensor, " *shape"]:
    """True where a std is no more than rounding: (0.1, 0.1, 0.1) has std 1.7e-17 in float64.

    Judged beside the largest magnitude ``top`` of the numbers alone: rewards have any units.
    """
    return std <= tol * top


def normalise(
    x: Masked,
    spec: NormSpec,
    *,
    tol: float = 1e-12,
    tokens: Tensor | float = 1.0,
    gather: Gather | None = None,
    per_component: bool = False,
) -> Normalised:
    """Centre and scale ``x`` as ``spec`` says.

    Args:
        x: (P, G, ...); the group is axis 1 and every trailing index has statistics of its own.
        spec: the choices.
        tol: zero tolerance where ``spec.zero_tol`` is None.
        tokens: weight of a sample in batch statistics, see :meth:`Moments.of`.
        gather: merges batch statistics over ranks.
        per_component: batch statistics keep the last axis apart.

    Returns:
        Values of the shape of ``x``: exact zeros for groups without spread, and for a single valid
        member unless ``spec.singleton`` is "raw".
    """
    tol = tol if spec.zero_tol is None else spec.zero_tol
    if (spec.baseline, spec.scale) == ("none", "none"):
        return _clip(x, spec, None)
    batch = None
    if "batch" in (spec.baseline, spec.scale):
        batch = Moments.of(x, per_component=per_component, tokens=tokens).merge(gather)
    if spec.baseline in ("batch", "none") and spec.scale in ("batch", "none"):
        assert batch is not None
        centred = x.values - batch.baseline() if spec.baseline == "batch" else x.values
        return _finish(x, centred, *_batch_factor(batch, spec, tol), spec)
    return _blockwise(x, spec, batch, tol)


def _normalise_groups(x: Masked, spec: NormSpec, batch: Moments | None, tol: float) -> Normalised:
    """Everything that needs the group's own statistics."""
    stats = GroupStats.of(x)
    factor, scale = _group_factor(x, stats, batch, spec, tol)
    values = _finish(x, _centre(x, stats, batch, spec), factor, scale, spec)
    return _keep_singletons(x, stats, values, spec) if spec.singleton == "raw" else values


def _blockwise(x: Masked, spec: NormSpec, batch: Moments | None, tol: float) -> Normalised:
    """Normalise block by block into one result, so that temporaries stay in the cache."""
    out = torch.empty_like(x.values) if len(x.values) else x.values
    scales, clips, start = [], [], 0
    for block in blocks(x):
        part = _normalise_groups(block, spec, batch, tol)
        if block is x:
            return part
        stop = start + len(block.values)
        out[start:stop] = part.out.values
        scales.append(part.scale)
        clips.append(part.clipped)
        start = stop
    scale = scales[0]
    # A batch's scale is the same in every block; a group's is a row each.
    if scale is not None and scale.ndim == x.values.ndim:
        scale = torch.cat([s for s in scales if s is not None])
    clipped = None if spec.clip is None else torch.cat([c for c in clips if c is not None])
    return Normalised(Masked(out, x.mask), scale, clipped)


def _centre(
    x: Masked, stats: GroupStats, batch: Moments | None, spec: NormSpec
) -> Float[Tensor, "P G ..."]:
    if spec.baseline == "none":
        return x.values
    if spec.baseline == "batch":
        assert batch is not None
        return x.values - batch.baseline()
    if spec.baseline == "loo":
        # x_i - mean_{j != i} x_j = n / (n - 1) (x_i - mean x).
        return stats.centred * (stats.count / (stats.count - 1).clamp(min=1))
    return stats.centred


def _group_factor(
    x: Masked, stats: GroupStats, batch: Moments | None, spec: NormSpec, tol: float
) -> tuple[Tensor, Tensor | None]:
    """The factor on the centred values, and the std it came from."""
    dead = stats.dead(spec.ddof, tol)
    if spec.scale == "batch":
        assert batch is not None
        factor, std = _batch_factor(batch, spec, tol)
        return torch.where(dead, 0.0, factor), std
    if spec.scale == "none":
        return torch.where(dead, 0.0, torch.ones_like(stats.mean)), None
    if spec.scale == "loo":
        std, noise = _others_std(x, spec.ddof, tol)
        return torch.where(dead, 0.0, _inverse(std, noise, spec)), std
    std = stats.std(spec.ddof)
    return torch.where(dead, 0.0, _inverse(std, dead, spec)), std


def _batch_factor(
    batch: Moments, spec: NormSpec, tol: float
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"] | None]:
    if spec.scale == "none":
        return torch.ones_like(batch.mean), None
    std = batch.std(spec.ddof)
    # One sample has no spread, whatever ddof says.
    noise = (batch.count <= max(spec.ddof, 1)) | is_noise(std, batch.top, tol)
    return torch.where(noise, 0.0, _inverse(std, noise, spec)), std


def _inverse(
    std: Float[Tensor, " *shape"], noise: Bool[Tensor, " *shape"], spec: NormSpec
) -> Float[Tensor, " *shape"]:
    """One over the guarded std; where there is none, 0, or 1 in mode "where"."""
    safe = torch.where(noise, 1.0, std)
    if spec.eps_mode == "floor":
        inverse = 1 / safe.clamp(min=spec.eps)
    elif spec.eps_mode == "insqrt":
        inverse = (safe.square() + spec.eps).rsqrt()
    elif spec.eps_mode == "clampvar":
        inverse = safe.square().clamp(min=spec.eps).rsqrt()
    else:
        inverse = 1 / (safe + spec.eps)
    return torch.where(noise, 1.0 if spec.eps_mode == "where" else 0.0, inverse)


def _others_std(
    x: Masked, ddof: int, tol: float
) -> tuple[Float[Tensor, "P G ..."], Bool[Tensor, "P G ..."]]:
    """(P, G, ...) std of the other members, and where it is noise or undefined.

    Built from all pairs: taking one square out of the group's sum would cancel.
    """
    members = x.values.shape[1]
    eye = torch.eye(members, dtype=torch.bool, device=x.values.device)
    others = (~eye).reshape(1, members, members, *[1] * (x.values.ndim - 2))
    mask = others & x.present.unsqueeze(1)
    weight = mask.to(x.values.dtype)
    count = weight.sum(2)
    mean = (weight * x.values.unsqueeze(1)).sum(2) / count.clamp(min=1)
    deviation = weight * (x.values.unsqueeze(1) - mean.unsqueeze(2))
    std = _std(deviation.square().sum(2), count, ddof)
    top = group_top((mask * x.sizes.unsqueeze(1)).transpose(1, 2)).squeeze(1)
    return std, is_noise(std, top, tol)


def _std(
    m2: Float[Tensor, " *shape"], count: Float[Tensor, " *shape"], ddof: int
) -> Float[Tensor, " *shape"]:
    left = count - ddof
    return torch.where(left > 0, m2 / torch.where(left > 0, left, 1.0), 0.0).sqrt()


def _finish(
    x: Masked, centred: Tensor, factor: Tensor, scale: Tensor | None, spec: NormSpec
) -> Normalised:
    # In place only where `centred` is a fresh tensor: the caller keeps its scores.
    values = centred * factor if centred is x.values else centred.mul_(factor)
    if x.mask is not None:
        values = values.masked_fill_(~x.mask, 0.0)
    return _clip(Masked(values, x.mask), spec, scale)


def _clip(x: Masked, spec: NormSpec, scale: Tensor | None) -> Normalised:
    if spec.clip is None:
        return Normalised(x, scale)
    clipped = x.values.abs() > spec.clip
    return Normalised(Masked(x.values.clamp(-spec.clip, spec.clip), x.mask), scale, clipped)


def _keep_singletons(x: Masked, stats: GroupStats, done: Normalised, spec: NormSpec) -> Normalised:
    # verl takes 1 as the std of a single member and adds epsilon to it.
    raw = x.values / (1 + spec.eps) if spec.scale == "group" else x.values
    values = torch.where(stats.count == 1, raw, done.out.values)
    return Normalised(Masked(values, x.mask), done.scale, done.clipped)


def _token_weight(
    x: Masked, tokens: Tensor | float, columns: int
) -> Float[Tensor, "N columns"] | None:
    """(N, columns) weights, or None if every sample counts the same."""
    if isinstance(tokens, Tensor):
        weight = tokens.to(x.values.dtype).expand_as(x.values)
        return (weight if x.mask is None else weight * x.mask).reshape(-1, columns)
    if x.mask is None:
        return None
    return tokens * x.mask.to(x.values.dtype).reshape(-1, columns)
