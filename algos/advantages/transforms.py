"""Steps in reward space that compose in front of any estimator.

Each is a frozen dataclass called on the opened batch. Formulas and sources are in the docstrings; a
score that cannot be computed because one of its inputs is missing is itself missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Work
from reelrl.algos.advantages.masked import Masked, constant, safe_divide
from reelrl.algos.advantages.names import make_step
from reelrl.checks import Gt, check_fields
from reelrl.naming import Registry

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


class Transform(ABC):
    """A pure function from an opened batch to another one.

    Attributes:
        name: registry name.
        needs: parts that a batch must have: "bounds", "dense", or keys of ``extras``.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def __call__(self, work: Work) -> Work:
        """The transformed batch."""


C = TypeVar("C", bound=type[Transform])
TRANSFORMS: Registry[type[Transform]] = Registry("transform")
"""Name of a transform -> its class."""


def register_transform(name: str) -> Callable[[C], C]:
    """Class decorator that makes ``make_transform(name)`` build the class.

    Raises:
        ValueError: if the name is taken by another class.
    """

    def register(cls: C) -> C:
        TRANSFORMS.register(name)(cls)
        cls.name = name
        return cls

    return register


def make_transform(spec: Any) -> Transform:
    """Build a transform from an instance, a name, or a dict with ``name`` and its settings.

    Raises:
        ValueError: for an unknown name or setting.
    """
    # A base class is abstract, which the checker takes for an attempt to build one.
    return make_step(TRANSFORMS, Transform, spec)  # type: ignore[type-abstract]


def list_transforms() -> list[str]:
    """Names of all transforms, sorted."""
    return list(TRANSFORMS)


@register_transform("rescale")
@dataclass(frozen=True)
class Rescale(Transform):
    """r := (r - low) / (high - low) from the declared bounds; the bounds become (0, 1)."""

    needs: ClassVar[frozenset[str]] = frozenset({"bounds"})

    def __call__(self, work: Work) -> Work:
        """Bring every component to [0, 1]."""
        bounds = finite_bounds(work)
        low, high = bounds.unbind(-1)
        unit = torch.stack([torch.zeros_like(low), torch.ones_like(high)], -1)
        # Bounds are small and mostly on the CPU, where looking is free and saves a full pass.
        if bounds.device.type == "cpu" and torch.equal(bounds, unit):
            return work
        scores = work.scores.map(lambda r: (r - low) / (high - low))
        return work.with_scores(scores, bounds=unit)


@register_transform("par")
@dataclass(frozen=True)
class PAR(Transform):
    """Preference-as-reward: mean_m sigmoid(k (r - r_ref,m)), arXiv 2502.18770.

    In (0, 1), increasing in r, and blind to a shift common to rewards and references.

    Attributes:
        k: slope; the paper's is 1.
    """

    k: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"ref_rewards"})

    def __call__(self, work: Work) -> Work:
        """Compare with the M reference rollouts of the same prompt, ``ref_rewards`` (P, M, K)."""
        prompts, components = work.shape[0], len(work.names)
        refs = work.extra("ref_rewards", prompts, None, components)
        total = torch.zeros_like(work.scores.values)
        count = torch.zeros_like(work.scores.values)
        for m in range(refs.values.shape[1]):
            there = _per_prompt(refs.present[:, m], work.scores.values)
            ref = _per_prompt(refs.values[:, m], work.scores.values)
            total = total + there * torch.sigmoid(self.k * (work.scores.values - ref))
            count = count + there
        present = work.scores.present & (count > 0)
        unit = constant([0.0, 1.0], total).expand(components, 2)
        return work.with_scores(Masked.of(safe_divide(total, count), present), bounds=unit)


@register_transform("ensemble")
@dataclass(frozen=True)
class Ensemble(Transform):
    """Conservative aggregation of M scorers, arXiv 2310.02743.

    ``mean``; ``wco`` min_m r_m; ``uwo`` mean - lam var_m.

    Attributes:
        mode: which of the three.
        lam: weight of the variance.
        ddof: 0 in the paper and its best-of-n script, 1 in its PPO code.
    """

    mode: Literal["mean", "wco", "uwo"] = "mean"
    lam: float = 0.1
    ddof: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"ensemble"})

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, work: Work) -> Work:
        """Replace the rewards by the aggregate of ``ensemble`` (P, G, M, K)."""
        if work.dense:
            raise ValueError("the ensemble transform takes terminal rewards (P, G, K)")
        scores = work.extra("ensemble", *work.shape, None, len(work.names))
        count = scores.present.to(scores.values.dtype).sum(2)
        mean = safe_divide(scores.values.sum(2), count)
        deviation = (scores.values - mean.unsqueeze(2)) * scores.present
        # Fewer scorers than ddof have no variance.
        left = (count - self.ddof).clamp(min=0)
        variance = safe_divide(deviation.square().sum(2), left)
        values = {
            "mean": lambda: mean,
            "wco": lambda: torch.where(scores.present, scores.values, torch.inf).amin(2),
            "uwo": lambda: mean - self.lam * variance,
        }[self.mode]()
        present = count > 0
        if work.scores.mask is not None:
            present = present & work.scores.mask
        work = work.with_scores(Masked.of(values, present))
        return work.noting(ensemble_var=variance.mean((0, 1)))


@register_transform("conditioned")
@dataclass(frozen=True)
class Conditioned(Transform):
    """r_k := r_k if r_l >= t else 0, GDPO eq. 8 (arXiv 2601.05242).

    For rewards of at least 0: of a component in [-1, 0] the gate would give the best.

    Attributes:
        component: the name of k.
        on: the name of l.
        threshold: t; minus infinity makes this the identity wherever l is scored.
    """

    component: str
    on: str
    threshold: float

    def __call__(self, work: Work) -> Work:
        """Gate one component by another; where the other is not scored, so is this one."""
        k, other = component_index(work, self.component), component_index(work, self.on)
        gate = work.scores.values[..., other] >= self.threshold
        values = work.scores.values.clone()
        values[..., k] = torch.where(gate, values[..., k], 0.0)
        if work.scores.mask is None:
            return work.with_scores(Masked(values))
        mask = work.scores.mask.clone()
        # Without the other score the gate is unknown, and 0 would be a verdict.
        mask[..., k] &= mask[..., other]
        return work.with_scores(Masked.of(values, mask))


@register_transform("softmin_time")
@dataclass(frozen=True)
class SoftminTime(Transform):
    """r*_t = softmax_t(-r / T)_t r_t, PURE (arXiv 2504.15275): the return is about the worst step.

    Attributes:
        temperature: T; towards 0 the sum is the minimum, towards infinity the mean.
    """

    temperature: Annotated[float, Gt(0)] = 0.1
    needs: ClassVar[frozenset[str]] = frozenset({"dense"})

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, work: Work) -> Work:
        """Weight the steps of (P, G, T, K); masked steps get weight zero."""
        logits = -work.scores.values / self.temperature
        if work.scores.mask is not None:
            logits = logits.masked_fill(~work.scores.mask, -torch.inf)
            # A sample without any step would be softmax over nothing.
            logits = torch.where(work.scores.mask.any(2, keepdim=True), logits, 0.0)
        weight = torch.softmax(logits, 2) if logits.shape[2] else logits
        return work.with_scores(Masked.of(weight * work.scores.values, work.scores.mask))


@register_transform("win_rate")
@dataclass(frozen=True)
class WinRate(Transform):
    """(wins + ties / 2) / comparisons within the group, Pref-GRPO (arXiv 2508.20751).

    Attributes:
        append: keep the rewards and add the win rates as further components; else replace them.
        weight: static weight of an appended component.
        decimals: round to so many places, 3 in the released code; None for not.
    """

    append: bool = False
    weight: float = 1.0
    decimals: int | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"pairwise"})

    def __call__(self, work: Work) -> Work:
        """Count points of ``pairwise`` (P, G, G[, K])."""
        if work.dense:
            raise ValueError("the win_rate transform takes terminal rewards (P, G, K)")
        rates = win_rate(pairwise_points(work))
        if self.decimals is not None:
            rates = rates.map(lambda r: torch.round(r, decimals=self.decimals or 0))
        present = rates.present
        if work.scores.mask is not None:
            present = present & work.scores.mask.any(-1, keepdim=True)
        rates = Masked.of(rates.values, present)
        count = rates.values.shape[-1]
        names = ("win_rate",) if count == 1 else tuple(f"win_rate_{n}" for n in work.names)
        unit = constant([0.0, 1.0], rates.values).expand(count, 2)
        weights = work.weights.new_full((*work.weights.shape[:-1], count), self.weight)
        if not self.append:
            # One rate per component is weighted as the component; one in all has nothing to weigh.
            own = work.weights if count == len(work.names) > 1 else torch.ones_like(weights)
            return work.with_scores(rates, names=names, weights=own, bounds=unit)
        scores = Masked.of(
            torch.cat([work.scores.values, rates.values], -1),
            torch.cat([work.scores.present, rates.present], -1),
        )
        bounds = None if work.bounds is None else torch.cat([work.bounds, unit])
        return work.with_scores(
            scores,
            names=work.names + names,
            weights=torch.cat([work.weights, weights], -1),
            bounds=bounds,
        )


@register_transform("harmonic")
@dataclass(frozen=True)
class Harmonic(Transform):
    """1 / sum_k (lam_k / r_k), the lambda-harmonic mean of RPO, of two components or more.

    A component at or below zero makes the result 0, its limit from above.

    Attributes:
        lam: K weights; None means 1 / K each.
    """

    lam: tuple[float, ...] | None = None

    def __call__(self, work: Work) -> Work:
        """Merge all components into one named "harmonic"; missing if any of them is."""
        components = len(work.names)
        if self.lam is not None and len(self.lam) != components:
            raise ValueError(f"lam must have {components} weights, got {self.lam}")
        lam = constant(self.lam or [1 / components] * components, work.scores.values)
        present = work.scores.present.all(-1, keepdim=True)
        positive = (work.scores.values > 0).all(-1, keepdim=True)
        safe = torch.where(positive, work.scores.values, 1.0)
        merged = torch.where(positive, 1 / (lam / safe).sum(-1, keepdim=True), 0.0)
        return work.with_scores(
            Masked.of(merged, None if work.scores.mask is None else present),
            names=("harmonic",),
            weights=torch.ones_like(work.weights[..., :1]),
            bounds=None,
        )


@register_transform("median_map")
@dataclass(frozen=True)
class MedianMap(Transform):
    """sigmoid((r - m_k) / s_k): every component's reference median maps to the common value 1/2.

    After MedGRPO's cross-dataset reward normalisation, of which only the abstract was read; the
    sigmoid is this library's choice of the monotone map.

    Attributes:
        medians: K reference medians.
        scales: K positive scales.
    """

    medians: tuple[float, ...]
    scales: tuple[float, ...]

    def __call__(self, work: Work) -> Work:
        """Map each component with its own median and scale."""
        components = len(work.names)
        entries = len(self.medians) == len(self.scales) == components
        if not entries or not all(scale > 0 for scale in self.scales):
            raise ValueError(
                f"medians and scales must have {components} entries, scales above 0; got "
                f"{self.medians} and {self.scales}"
            )
        median = constant(self.medians, work.scores.values)
        scale = constant(self.scales, work.scores.values)
        scores = work.scores.map(lambda r: torch.sigmoid((r - median) / scale))
        unit = constant([0.0, 1.0], median).expand(components, 2)
        return work.with_scores(scores, bounds=unit)


@register_transform("tiered")
@dataclass(frozen=True)
class Tiered(Transform):
    """A component counts only where every earlier one reaches its threshold; 0 elsewhere.

    The tiered success signal read of in secondary text only; the order of components is the order
    of tiers, and rewards are at least 0, or a closed tier would be the best one.

    Attributes:
        thresholds: K - 1 thresholds, of all components but the last.
    """

    thresholds: tuple[float, ...]

    def __call__(self, work: Work) -> Work:
        """Close each tier where one before it is not passed (or not scored)."""
        components = len(work.names)
        if len(self.thresholds) != components - 1:
            raise ValueError(f"need {components - 1} thresholds, got {self.thresholds}")
        limit = constant(self.thresholds, work.scores.values)
        passed = (work.scores.values[..., :-1] >= limit) & work.scores.present[..., :-1]
        first = torch.ones_like(passed[..., :1]) if components > 1 else work.scores.present
        # A product over the earlier tiers, because one closed tier closes all later ones.
        gates = torch.cat([first, passed.cumprod(-1).to(torch.bool)], -1)[..., :components]
        return work.with_scores(
            Masked(torch.where(gates, work.scores.values, 0.0), work.scores.mask)
        )


def win_rate(points: Masked) -> Masked:
    """Points per comparison: (P, G, G, K) -> (P, G, K); missing where never compared."""
    count = points.present.to(points.values.dtype).sum(2)
    return Masked.of(safe_divide(points.values.sum(2), count), count > 0)


def pairwise_points(work: Work) -> Masked:
    """Open ``extras["pairwise"]`` as (P, G, G, K) points of the row against the column.

    ``nan`` means not compared; where only one of (i, j) and (j, i) is given the other is its
    complement. A member against itself never counts, nor one without a reward: being better than
    a clip that failed says nothing.

    Raises:
        ValueError: for a wrong shape.
    """
    prompts, members = work.shape
    raw = work.batch.extras["pairwise"]
    deep = len(raw.shape) == 4
    shape = (prompts, members, members, *([len(work.batch.names)] if deep else []))
    points = work.extra("pairwise", *shape)
    values = points.values if deep else points.values.unsqueeze(-1)
    present = points.present if deep else points.present.unsqueeze(-1)
    # A comparison given in one direction decides the other one.
    mirrored = present.transpose(1, 2) & ~present
    values = torch.where(mirrored, 1 - values.transpose(1, 2), values)
    others = ~torch.eye(members, dtype=torch.bool, device=values.device)[None, :, :, None]
    if work.scores.mask is not None:
        there = work.scores.mask.flatten(2).any(-1)
        others = others & (there[:, :, None] & there[:, None])[..., None]
    return Masked.of(values, (present | mirrored) & others)


def score_comparisons(scores: Float[Tensor, "P G"]) -> Float[Tensor, "P G G"]:
    """Pairwise points implied by scores: 1 for the higher, 1/2 for a tie; (P, G) -> (P, G, G)."""
    difference = scores.unsqueeze(2) - scores.unsqueeze(1)
    return (difference.sign() + 1) / 2


def finite_bounds(work: Work) -> Float[Tensor, "K 2"]:
    """The declared bounds (K, 2).

    Raises:
        ValueError: if there are none, or (checked on the CPU) one is infinite.
    """
    bounds = work.bounds
    if bounds is None:
        raise ValueError(f"declared bounds are needed for {work.names}, got none")
    if bounds.device.type == "cpu" and not bool(torch.isfinite(bounds).all()):
        bad = [n for n, b in zip(work.names, bounds, strict=True) if not torch.isfinite(b).all()]
        raise ValueError(f"finite bounds are needed; the bounds of {bad} are infinite")
    return bounds


def component_index(work: Work, name: str) -> int:
    """Position of a component.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in work.names:
        raise ValueError(f"unknown component {name!r}; the batch has {work.names}")
    return work.names.index(name)


def _per_prompt(
    values: Shaped[Tensor, "P K"], scores: Float[Tensor, "P ... K"]
) -> Shaped[Tensor, "P *ones K"]:
    """(P, K) -> (P, 1, [1,] K), ready to meet (P, G, [T,] K)."""
    return values.reshape(values.shape[0], *[1] * (scores.ndim - 2), values.shape[-1])
