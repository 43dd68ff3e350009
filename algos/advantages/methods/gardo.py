"""GARDO: reward diversity among the good, and pay KL only where the proxy is not to be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.masked import Masked, safe_divide
from reelrl.algos.advantages.methods.group_relative import ScalarConfig, sum_as
from reelrl.algos.advantages.norm import NormSpec
from reelrl.algos.advantages.pipeline import Estimator
from reelrl.algos.advantages.post import Post, register_post
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.types import Gather, State
from reelrl.checks import Ge, check_fields

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@register_estimator("gardo")
class GARDO(Estimator):
    """A = z_g(s), then A_i := A_i d_i where A_i > 0 (eq. 8), and a KL gate from U (eq. 7).

    d_i is the cosine distance to the nearest other member; U_i = winrate(proxy) - mean_n
    winrate(aux_n) over the batch, and the KL penalty is on where U is highest: there the proxy
    likes the clip more than the auxiliary scores do.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Settings of GARDO.

        Attributes:
            diversity: "paper" multiplies by d_i; "code" by d_i / mean_g d, as released.
            gate: "paper" gates the highest U; "code" the lowest, as the released ranks count
                downwards; "none" makes no gate.
            fraction: share of the batch that is gated, and where the adaptive one starts.
            adaptive: let the share follow the mean of U: times 1.1 when it rises above its last
                ``window`` values, times 0.9 when it falls below, within [low, high].
            low: least share.
            high: greatest share.
            window: length of that memory.
        """

        group: NormSpec = field(default=NormSpec(ddof=0, eps=0.0))
        diversity: Literal["paper", "code"] = "paper"
        gate: Literal["paper", "code", "none"] = "paper"
        fraction: float = 0.1
        adaptive: bool = False
        low: float = 0.02
        high: float = 0.2
        window: Annotated[int, Ge(1)] = 20

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.low <= self.fraction <= self.high <= 1:
                raise ValueError(f"need 0 <= low <= fraction <= high <= 1, got {self}")

    source: ClassVar[str] = "arXiv 2512.24138"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "code": {
            "group": NormSpec(scale="none"),
            "diversity": "code",
            "gate": "code",
            "adaptive": True,
        },
        "diversity_only": {"gate": "none"},
    }

    @property
    def requires(self) -> frozenset[str]:
        """Embeddings, and auxiliary rewards if there is a gate."""
        gate = set() if self.config.gate == "none" else {"aux_rewards"}
        return super().requires | {"features"} | gate

    def init_state(self, names: Sequence[str]) -> State:
        """The gated share and the last means of U."""
        share = torch.tensor(self.config.fraction, dtype=torch.float64, device="cpu")
        recent = torch.full((self.config.window,), torch.nan, dtype=torch.float64, device="cpu")
        return {**super().init_state(names), "beta": share, "recent": recent}

    def reset(self, state: State, names: Sequence[str], components: Sequence[str]) -> State:
        """The state itself: the gate is of win rates, which know no scale."""
        return state

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """GRPO, diversity, gate."""
        if work.dense:
            raise ValueError("gardo takes terminal rewards (P, G, K)")
        config = self.config
        signal = sum_as(config, work, work.weights)
        signal = GardoDiversity(config.diversity)(work, signal)
        if config.gate == "none":
            return signal, state
        assert signal.aggregated is not None
        aux = work.extra("aux_rewards", *work.shape, None)
        u = uncertainty(signal.aggregated, aux, work.gather)
        u = u if config.gate == "paper" else u.map(torch.neg)
        everyone = _everyone(u, work.gather)
        state = _adapt(state, everyone, config) if config.adaptive else state
        pool = everyone
        if config.gate == "code":
            pool = torch.where(pool >= 0, pool, torch.nan)
        limit = torch.nanquantile(pool, 1 - state["beta"].to(pool.dtype)) if len(pool) else u.values
        gate = (u.values >= limit) & u.present  # a nan limit gates nobody
        if config.gate == "paper":
            # Where many tie at 0 the proxy agrees with the auxiliary scores.
            gate = gate & (u.values > 0)
        return replace(signal, kl_gate=gate).noting(kl_gate_share=state["beta"]), state


@register_post("gardo_diversity")
@dataclass(frozen=True)
class GardoDiversity(Post):
    """A_i := A_i d_i where A_i > 0, GARDO eq. 8 (arXiv 2512.24138), behind any estimator.

    Attributes:
        mode: "paper" d_i; "code" d_i / mean_g d. Where all embeddings agree both give 0; an
            advantage whose d_i is not known stays as it is.
    """

    mode: Literal["paper", "code"] = "paper"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, work: Work, signal: Signal) -> Signal:
        """Scale the positive advantages."""
        advantages = signal.advantages
        per_step = advantages.values.ndim == 3
        members = advantages.present.flatten(2).any(-1) if per_step else advantages.present
        distance = nearest_distance(work.extra("features", *work.shape, None), members)
        factor = distance.values
        if self.mode == "code":
            count = distance.present.sum(1, keepdim=True)
            mean = factor.sum(1, keepdim=True) / count.clamp(min=1)
            factor = safe_divide(factor, mean.expand_as(factor))
        known = distance.present
        if per_step:  # a clip is as far from the others at each of its steps
            factor, known = factor.unsqueeze(-1), known.unsqueeze(-1)
        scaled = (advantages.values > 0) & known
        values = torch.where(scaled, advantages.values * factor, advantages.values)
        return replace(signal, advantages=Masked(values, advantages.mask))


def nearest_distance(features: Masked, present: Bool[Tensor, "P G"]) -> Masked:
    """d_i = min_{j != i} (1 - cos(e_i, e_j)) within the group: (P, G, D) -> (P, G).

    Missing for missing members, for an embedding that is missing or zero, which has no direction,
    and where there is no other to be far from.
    """
    norm = torch.linalg.vector_norm(features.values, dim=-1, keepdim=True)
    present = present & features.present.all(-1) & (norm.squeeze(-1) > 0)
    unit = safe_divide(features.values, norm.expand_as(features.values))
    distance = 1 - unit @ unit.transpose(1, 2)
    members = distance.shape[1]
    eye = torch.eye(members, dtype=torch.bool, device=distance.device)
    other = present.unsqueeze(1) & ~eye
    if members == 0:
        return Masked(distance.sum(-1))
    nearest = torch.where(other, distance, torch.inf).amin(-1).clamp(min=0.0)
    return Masked.of(nearest, other.any(-1) & present)


def uncertainty(proxy: Masked, aux: Masked, gather: Gather | None = None) -> Masked:
    """U_i = winrate(proxy)_i - mean_n winrate(aux_n)_i over the whole batch, GARDO eq. 7.

    Args:
        proxy: (P, G).
        aux: (P, G, M); missing scores are left out of the mean.
        gather: win rates are against the members of all ranks.
    """
    rates = [
        batch_win_rate(Masked.of(*_column(aux, m)), gather) for m in range(aux.values.shape[2])
    ]
    there = torch.stack([r.present for r in rates], -1).to(proxy.values.dtype)
    mean = safe_divide((torch.stack([r.values for r in rates], -1) * there).sum(-1), there.sum(-1))
    main = batch_win_rate(proxy, gather)
    return Masked.of(main.values - mean, main.present & (there.sum(-1) > 0))


def batch_win_rate(x: Masked, gather: Gather | None = None) -> Masked:
    """Share of the other samples of the batch that each one beats, ties half: (P, G) -> (P, G)."""
    ordered = _everyone(x, gather).sort().values  # nan sorts last
    ordered = torch.nan_to_num(ordered, nan=torch.inf)
    count = torch.isfinite(ordered).sum()
    values = x.values.contiguous()
    below = torch.searchsorted(ordered, values).to(values.dtype)
    up_to = torch.searchsorted(ordered, values, right=True).to(values.dtype)
    # The sample itself is among the up_to - below that tie with it.
    rate = (below + (up_to - below - 1) / 2) / (count - 1).clamp(min=1)
    return Masked.of(rate, x.mask)


def _adapt(state: State, u: Float[Tensor, " N"], config: Any) -> State:
    """Widen or narrow the gate when the mean of the non-negative U leaves its recent range."""
    mean = torch.nanmean(torch.where(u >= 0, u, torch.nan)).to(state["recent"].dtype)
    recent = state["recent"]
    full = ~torch.isnan(recent).any()
    high = torch.nan_to_num(recent, nan=-torch.inf).amax()
    low = torch.nan_to_num(recent, nan=torch.inf).amin()
    factor = torch.where(mean > high, 1.1, torch.where(mean < low, 0.9, 1.0))
    share = torch.where(full, state["beta"] * factor, state["beta"])
    known = ~torch.isnan(mean)
    moved = torch.cat([recent[1:], mean.reshape(1)])
    return {
        **state,
        "beta": torch.where(known, share.clamp(config.low, config.high), state["beta"]),
        "recent": torch.where(known, moved, recent),
    }


def _everyone(x: Masked, gather: Gather | None) -> Float[Tensor, " N"]:
    """(N,) values of all ranks, ``nan`` where missing."""
    flat = x.with_nan().reshape(-1)
    return flat if gather is None else gather(flat)


def _column(x: Masked, index: int) -> tuple[Float[Tensor, "P G"], Bool[Tensor, "P G"] | None]:
    return x.values[..., index], None if x.mask is None else x.mask[..., index]
