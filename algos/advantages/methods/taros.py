"""TaRoS: weights of the components from how far and how sharply each group has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.hoyer import hoyer
from reelrl.algos.advantages.masked import (
    Masked,
    blocks,
    constant,
    group_count,
    group_sum,
    safe_divide,
)
from reelrl.algos.advantages.norm import GroupStats, NormSpec
from reelrl.algos.advantages.pipeline import Estimator, EstimatorConfig, sum_first
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.thresholds import Calibration
from reelrl.algos.advantages.transforms import Rescale
from reelrl.algos.advantages.types import State
from reelrl.checks import Gt
from reelrl.rewards.arguments import build_with

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@register_estimator("taros")
class TaRoS(Estimator):
    r"""Sum first, with per-group weights from eqs 4 to 9 of arXiv 2511.19356 v4.

    .. math::
        \bar r_j = \mathrm{mean}_g r_j, \quad
        g_j = h(\bar r_j - \tau_j) + \beta (S_j - S_{j+1}), \quad
        w = \mathrm{softmax}(g), \quad \tilde r = \sum_j w_j r_j, \quad
        A = (\tilde r - \mathrm{mean}_g) / \mathrm{std}_g

    S is the Hoyer sparsity and S_{K+1} = 0. The order of the components is part of the method. Each
    choice that the paper leaves open (epsilon, ddof, slope, temperature, the K-th threshold) is a
    setting here.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(EstimatorConfig):
        """Settings of TaRoS; the defaults are the published ones.

        Attributes:
            tau: threshold for all components, or one each; None in a sequence drops that h term,
                and K - 1 entries repeat the last.
            beta: weight of the sparsity difference.
            slope: k in h(x) = sigmoid(k x).
            temperature: of the softmax.
            h: "sigmoid" as published, or "headroom" sigmoid(-k x), which falls as rewards rise.
            direction: "printed" uses h as above; "self_paced" multiplies gates: a component opens
                when all before it have passed their thresholds and closes when it passes its own.
            sparsity_ref: the difference is with the "next" component (printed eq. 6) or from the
                "previous" one, S_{j-1} - S_j (a third-party version of v1).
            spread: choice of S: "hoyer" as published, "cv" std / |mean|, or "std".
            scope: statistics of each "group" as published, or of the whole "batch".
            rescale: bring rewards to [0, 1] by their declared bounds first, for the thresholds and
                for the sum alike.
            group: normalisation of the weighted sum.
            calibration: learn thresholds from history; None keeps ``tau``.
        """

        tau: float | tuple[float | None, ...] = 0.75
        beta: float = 0.3
        slope: Annotated[float, Gt(0)] = 1.0
        temperature: Annotated[float, Gt(0)] = 1.0
        h: Literal["sigmoid", "headroom"] = "sigmoid"
        direction: Literal["printed", "self_paced"] = "printed"
        sparsity_ref: Literal["next", "previous"] = "next"
        spread: Literal["hoyer", "cv", "std"] = "hoyer"
        scope: Literal["group", "batch"] = "group"
        rescale: bool = True
        group: NormSpec = field(default=NormSpec(eps=1e-8, clip=5.0))
        calibration: Calibration | None = None

        def __post_init__(self) -> None:
            super().__post_init__()
            if isinstance(self.calibration, Mapping):
                made = build_with(Calibration, self.calibration, "calibration")
                object.__setattr__(self, "calibration", made)

    source: ClassVar[str] = "arXiv 2511.19356 v4"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "wan_1.3b": {"tau": (0.75, 0.75)},
        "wan_14b": {"tau": (0.75, 0.73)},
        "hunyuan": {"tau": (0.70, 0.68)},
        "two_thresholds": {"tau": (0.75, 0.75, None)},
        "headroom": {"h": "headroom", "slope": 10.0},
        "self_paced": {"direction": "self_paced", "slope": 10.0},
        "third_party_v1": {
            "slope": 8.0,
            "temperature": 0.2,
            "beta": 0.5,
            "sparsity_ref": "previous",
            "scope": "batch",
        },
        "calibrated": {"calibration": Calibration()},
    }

    @property
    def requires(self) -> frozenset[str]:
        """The bounds, unless rescaling is off."""
        return super().requires | ({"bounds"} if self.config.rescale else set())

    def init_state(self, names: Sequence[str]) -> State:
        """The version, and the calibration's history if there is one."""
        state = super().init_state(names)
        calibration = self.config.calibration
        return state if calibration is None else {**state, **calibration.init(len(names))}

    def reset(self, state: State, names: Sequence[str], components: Sequence[str]) -> State:
        """Forget the history of some components, as when their reward model was retrained."""
        calibration: Calibration | None = self.config.calibration
        if calibration is None:
            return state
        return calibration.reset(state, [tuple(names).index(c) for c in components])

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Weights from this batch and the thresholds so far; then the history takes it in."""
        config = self.config
        work = Rescale()(work) if config.rescale else work
        tau, gated = self._thresholds(state, len(work.names), work.weights)
        parts = [self._utility(block, tau, gated) for block in blocks(self._scope(work))]
        utility, seen = (torch.cat(column) for column in zip(*parts, strict=True))
        weights = self._weights(work, utility, seen)
        signal = sum_first(work, weights, config.group)
        signal = signal.noting(tau=tau, utility=utility.reshape(-1, len(work.names)).mean(0))
        if config.calibration is not None:
            state = config.calibration.update(state, _history_rows(work), work.gather)
        return signal, state

    def _scope(self, work: Work) -> Masked:
        """Scores whose axis 1 the statistics are taken over: the group, or the whole batch."""
        if self.config.scope == "group":
            return work.scores
        values = work.scores.with_nan()
        values = values if work.gather is None else work.gather(values)
        values = values.flatten(0, 1).unsqueeze(0)
        return Masked.of(values, ~torch.isnan(values))

    def _utility(
        self, scores: Masked, tau: Float[Tensor, " K"], gated: Bool[Tensor, " K"]
    ) -> tuple[Float[Tensor, "Q 1 ... K"], Bool[Tensor, "Q 1 ... K"]]:
        """The utility g of eq. 6, and whether anybody was scored; (P or 1, 1, [T,] K) both."""
        count, mean, spread = self._statistics(scores)
        utility = self._activation(mean - tau, gated)
        return utility + self.config.beta * self._difference(spread), (count > 0).expand_as(mean)

    def _statistics(
        self, scores: Masked
    ) -> tuple[Float[Tensor, "Q 1 ... K"], Float[Tensor, "Q 1 ... K"], Float[Tensor, "Q 1 ... K"]]:
        """Count, mean and spread over axis 1."""
        count = group_count(scores)
        mean = group_sum(scores.values) / count.clamp(min=1)
        if self.config.spread == "hoyer":
            return count, mean, hoyer(scores)
        std = GroupStats.of(scores).std(0)
        return count, mean, std if self.config.spread == "std" else safe_divide(std, mean.abs())

    def _thresholds(
        self, state: State, components: int, like: Tensor
    ) -> tuple[Float[Tensor, " K"], Bool[Tensor, " K"]]:
        """(K,) thresholds, and (K,) bool for which component has one."""
        tau = expand_tau(self.config.tau, components)
        gated = constant([float(t is not None) for t in tau], like) > 0
        static = constant([0.0 if t is None else t for t in tau], like)
        if self.config.calibration is None:
            return static, gated
        learned = self.config.calibration.thresholds(state).to(like.dtype)
        return torch.where(torch.isnan(learned), static, learned), gated

    def _activation(
        self, distance: Float[Tensor, "*rest K"], gated: Bool[Tensor, " K"]
    ) -> Float[Tensor, "*rest K"]:
        """The term h of eq. 6 for every component."""
        sign = -1.0 if self.config.h == "headroom" else 1.0
        passed = torch.sigmoid(sign * self.config.slope * distance)
        if self.config.direction == "printed":
            return torch.where(gated, passed, 0.0)
        passed = torch.where(gated, passed, 1.0)
        before = torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], -1).cumprod(-1)
        # The last component has nothing to hand over to, so it never closes.
        closing = torch.cat([1 - passed[..., :-1], torch.ones_like(passed[..., :1])], -1)
        return before * closing

    def _difference(self, spread: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        none = torch.zeros_like(spread[..., :1])
        if self.config.sparsity_ref == "next":
            return spread - torch.cat([spread[..., 1:], none], -1)
        return torch.cat([none, spread[..., :-1] - spread[..., 1:]], -1)

    def _weights(
        self, work: Work, utility: Float[Tensor, "Q 1 ... K"], seen: Bool[Tensor, "Q 1 ... K"]
    ) -> Float[Tensor, "P ... K"]:
        """Softmax of eq. 7 with the static weights as prior; (P, K) or (P, T, K)."""
        prior = work.weights
        if prior.device.type == "cpu" and bool((prior < 0).any()):
            raise ValueError(f"taros takes weights >= 0, got {prior.tolist()}")
        prior = prior.reshape(*prior.shape[:-1], *[1] * (utility.ndim - 2), prior.shape[-1])
        logits = utility / self.config.temperature + prior.log()
        logits = torch.where(seen, logits, -torch.inf)
        anything = torch.isfinite(logits).any(-1, keepdim=True)
        weights = torch.softmax(torch.where(anything, logits, 0.0), -1) * anything
        full = weights.expand(work.shape[0], *weights.shape[1:])
        return full.squeeze(1)


def expand_tau(
    tau: float | Sequence[float | None] | None, components: int
) -> tuple[float | None, ...]:
    """Thresholds for K components: the paper gives K - 1 for K, and the last is repeated.

    Raises:
        ValueError: for neither a number nor K - 1 or K entries.
    """
    if tau is None or isinstance(tau, (int, float)):
        return (tau,) * components
    if len(tau) == components:
        return tuple(tau)
    if len(tau) == components - 1 and tau:
        return (*tau, tau[-1])
    raise ValueError(
        f"tau must be a number or have {components - 1} or {components} entries for {components} "
        f"components, got {tuple(tau)}"
    )


def _history_rows(work: Work) -> Float[Tensor, "P K"]:
    """(P, K) group means for the calibration, ``nan`` for a component nobody scored."""
    scores = work.scores
    if work.dense:
        # All steps of a group are one observation.
        scores = Masked(
            scores.values.flatten(1, 2), None if scores.mask is None else scores.mask.flatten(1, 2)
        )
    count = group_count(scores).squeeze(1)
    mean = group_sum(scores.values).squeeze(1) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.nan)
