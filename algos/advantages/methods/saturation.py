"""Estimators whose component weights follow saturation or spread: SA-MRPO, SAW, DVAO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.masked import Masked, safe_divide
from reelrl.algos.advantages.methods.gdpo import VectorConfig
from reelrl.algos.advantages.norm import GroupStats, Moments, NormSpec
from reelrl.algos.advantages.pipeline import Estimator, normalise_first, sum_first
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.transforms import finite_bounds
from reelrl.algos.advantages.types import State
from reelrl.checks import Ge, Within

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@register_estimator("sa_mrpo")
class SAMRPO(Estimator):
    """s_k = (mean_B r_k - low) / (high - low); A = z_B(sum_k w_k (1 - s_k)^gamma z_g(r_k))."""

    @dataclass(frozen=True, kw_only=True)
    class Config(VectorConfig):
        """Settings of SA-MRPO.

        Attributes:
            gamma: exponent; 0 is GDPO with ddof 0, the paper ablates up to 1. It is no discount
                here: "return_to_go" sums the rest undiscounted.
        """

        group: NormSpec = field(default=NormSpec(ddof=0, eps=0.0))
        batch: NormSpec | None = field(default=NormSpec("batch", "batch", ddof=0, eps=0.0))
        gamma: Annotated[float, Ge(0)] = 0.5

    source: ClassVar[str] = "arXiv 2608.16072"
    needs: ClassVar[frozenset[str]] = frozenset({"bounds"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}}

    @property
    def discount(self) -> float:
        """None: the paper has taken the letter."""
        return 1.0

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Batch-wide weights, then GDPO's two normalisations."""
        config = self.config
        low, high = finite_bounds(work).unbind(-1)
        mean = Moments.of(work.scores, per_component=True).merge(work.gather).mean
        saturation = ((mean - low) / (high - low)).clamp(0.0, 1.0)
        weights = work.weights * (1 - saturation) ** config.gamma
        return normalise_first(work, weights, config.group, config.batch, config.tokens), state


@register_estimator("saw")
class SAW(Estimator):
    """w = K cv / sum cv with cv_k = std_B / (|mean_B| + 1e-8), on rewards or on advantages."""

    @dataclass(frozen=True, kw_only=True)
    class Config(VectorConfig):
        """Settings of SAW.

        Attributes:
            on: "rewards": weight the rewards, then GRPO (the paper's GRPO-h); "advantages": weight
                the group-normalised components as in GDPO (GDPO-h).
            ema: weight of the old batch moments; 0 uses this batch alone.
        """

        on: Literal["rewards", "advantages"] = "rewards"
        ema: Annotated[float, Within(0, 1)] = 0.0

    source: ClassVar[str] = "arXiv 2606.07705"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "grpo_h": {"on": "rewards"},
        "gdpo_h": {
            "on": "advantages",
            "group": NormSpec(eps=0.0),
            "batch": NormSpec("batch", "batch", eps=1e-8),
        },
    }

    def init_state(self, names: Sequence[str]) -> State:
        """Moving moments, unknown at first."""
        unknown = torch.full((len(names),), torch.nan, dtype=torch.float64, device="cpu")
        return {**super().init_state(names), "mean": unknown, "std": unknown.clone()}

    def reset(self, state: State, names: Sequence[str], components: Sequence[str]) -> State:
        """Moments of the others only."""
        rows = [tuple(names).index(component) for component in components]
        fresh = {key: state[key].clone() for key in ("mean", "std")}
        for moment in fresh.values():
            moment[rows] = torch.nan
        return {**state, **fresh}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Weights from the (moving) coefficient of variation of each component."""
        config = self.config
        moments = Moments.of(_non_negative(work), per_component=True).merge(work.gather)
        seen = moments.count > 0
        mean = _moving(state["mean"], moments.mean, seen, config.ema)
        std = _moving(state["std"], moments.std(1), seen, config.ema)
        # A component that nobody ever scored weighs nothing.
        cv = (std / (mean.abs() + 1e-8)).nan_to_num(0.0)
        share = safe_divide(cv, cv.sum().expand_as(cv))
        weights = work.weights * (len(work.names) * share).to(work.weights.dtype)
        combine = sum_first if config.on == "rewards" else normalise_first
        signal = combine(work, weights, config.group, config.batch, config.tokens)
        return signal, {**state, "mean": mean, "std": std}


@register_estimator("dvao")
class DVAO(Estimator):
    """A = sum_k (w_k sd_k / sum_l w_l sd_l) z_g(r_k).

    Inside a group this is GRPO times sd(sum_k w_k r_k) / sum_k w_k sd_k, a factor of at most one:
    the same ranking, only the scale of the group changes.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(VectorConfig):
        """Like :class:`VectorConfig`, ddof 0 without epsilon."""

        group: NormSpec = field(default=NormSpec(ddof=0, eps=0.0))

    source: ClassVar[str] = "arXiv 2605.25604 (abstract and notes)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Per-group weights proportional to the spread."""
        config = self.config
        stats = GroupStats.of(work.scores)
        ddof = config.group.ddof
        tol = work.tol if config.group.zero_tol is None else config.group.zero_tol
        std = torch.where(stats.dead(ddof, tol), 0.0, stats.std(ddof)).squeeze(1)
        static = work.weights
        if static.ndim == 2 and work.dense:
            static = static.unsqueeze(1)
        push = static * std
        weights = safe_divide(push, push.abs().sum(-1, keepdim=True).expand_as(push))
        return normalise_first(work, weights, config.group, config.batch, config.tokens), state


def _non_negative(work: Work) -> Masked:
    """Shift each component up by its batch minimum where that is negative."""
    scores = work.scores
    high = torch.where(scores.present, scores.values, 0.0)
    lowest = high.reshape(-1, high.shape[-1]).clamp(max=0.0)
    low = lowest.amin(0) if len(lowest) else lowest.sum(0)
    if work.gather is not None:
        low = work.gather(low[None]).amin(0)
    return scores.map(lambda r: r - low)


def _moving(
    old: Float[Tensor, " *shape"],
    new: Float[Tensor, " *shape"],
    seen: Bool[Tensor, " *shape"],
    ema: float,
) -> Float[Tensor, " *shape"]:
    """The moving average; components that this batch has not ``seen`` stay as they were."""
    new = new.to(old.dtype)
    moved = torch.where(torch.isnan(old), new, ema * old + (1 - ema) * new)
    return torch.where(seen, moved, old)
