"""Estimators for per-step rewards: DenseGRPO, TP-GRPO, MAPO (MICA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import (
    Signal,
    Work,
    expect_shape,
    step_mask,
    total_score,
    valid_mask,
)
from reelrl.algos.advantages.masked import Masked
from reelrl.algos.advantages.norm import NormSpec, normalise
from reelrl.algos.advantages.pipeline import Estimator, EstimatorConfig, return_to_go
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.types import Gather, State

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class StepConfig(EstimatorConfig):
    """Settings of estimators on ``ode_rewards``.

    Attributes:
        group: normalisation over the group at each step; Flow-GRPO's by default.
    """

    group: NormSpec = field(default=NormSpec(ddof=0, eps=1e-4))


@register_estimator("dense_grpo")
class DenseGRPO(Estimator):
    """Step gain dR_t = R_{t-1} - R_t (eq. 8), then A_t = z_g(dR_t) at each step (eq. 10).

    R_t is the reward of completing the clip from x_t by the deterministic sampler, so the gains
    telescope to R_0 - R_T. Steps that change little get unit variance like any other.
    """

    Config: ClassVar[type] = StepConfig
    source: ClassVar[str] = "arXiv 2601.20218"
    needs: ClassVar[frozenset[str]] = frozenset({"ode_rewards"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"flow_grpo_base": {}}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Gains of ``ode_rewards`` (P, G, T+1[, K]), normalised per step."""
        return _per_step(work, ode_rewards(work).gains, self.config.group), state


@register_estimator("tp_grpo")
class TPGRPO(Estimator):
    """Step gains with a bonus at turning points, where a step turns the trajectory to the better.

    Steps count forward, d_i = R_{i+1} - R_i, with R_0 the completion from noise (R_ode) and R_T the
    clip itself (R_sde). s_i = sign(d_i) sign(R_sde - R_ode); step i turns if s_i > 0 and
    s_{i-1} < 0, the first one if s_0 > 0.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(StepConfig):
        """Settings of TP-GRPO.

        Attributes:
            reading: "paper" uses d_i, and R_sde - R_i at turning points; "code", as the released
                configs set it, R_sde - R_ode everywhere plus d_i at turning points.
            constrained: a turn must also have sign(d_i) = sign(R_sde - R_i).
        """

        reading: Literal["paper", "code"] = "paper"
        constrained: bool = False

    source: ClassVar[str] = "arXiv 2602.06422 (abstract, audit and code)"
    needs: ClassVar[frozenset[str]] = frozenset({"ode_rewards"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "paper_constrained": {"constrained": True},
        "code": {"reading": "code"},
    }

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Rewards of the chosen reading, normalised per step."""
        completion = ode_rewards(work)
        gains, values = completion.gains, completion.total
        start, rest, last = values[..., :1], values[..., :-1], values[..., -1:]
        turn = turning_points(values, gains.mask, constrained=self.config.constrained)
        if self.config.reading == "paper":
            reward = torch.where(turn, last - rest, gains.values)
        else:
            reward = (last - start) + turn * gains.values
        top = completion.size.amax(-1, keepdim=True).expand_as(reward)
        steps = replace(Masked.of(reward, gains.mask), size=top)
        if completion.scored is not None:
            end = completion.scored[..., -1:, :]
            whole = alike(completion.scored[..., :1, :], end)
            steps = steps.drop(whole & (alike(completion.scored[..., :-1, :], end) | ~turn))
        signal = _per_step(work, steps, self.config.group)
        return signal.noting(turn_frac=steps.share(turn)), state


@register_estimator("mapo_mica")
class MAPOMICA(Estimator):
    """A = alpha z_t(R_t) + beta z(r): return-to-go against the same step, reward against all steps.

    R_t = sum_{t' >= t} gamma^(t' - t) r_t' is normalised over the group at each t, the immediate
    reward over all steps of the group (v3, "MICA") or of the batch (v1, "MAPO").
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(EstimatorConfig):
        """Settings of MAPO and MICA.

        Attributes:
            alpha: weight of the per-step part; 0.5 to 0.7 is best in the paper.
            beta: weight of the pooled part.
            scope: the axis over which the immediate reward is pooled besides the steps.
            group: ddof, epsilon and its place, of both parts.
        """

        alpha: float = 0.5
        beta: float = 0.5
        scope: Literal["group", "batch"] = "group"
        group: NormSpec = field(default=NormSpec(ddof=0, eps=1e-8))

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.credit != "instant":
                raise ValueError("mapo_mica assigns credit itself; leave credit at 'instant'")

    source: ClassVar[str] = "arXiv 2603.06194 (abstract and third-party code)"
    needs: ClassVar[frozenset[str]] = frozenset({"dense"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mica": {"scope": "group"},
        "mapo": {"scope": "batch"},
    }

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Both parts of the weighted sum of the components."""
        config = self.config
        reward = total_score(work.scores, work.weights, work.gather)
        to_go = return_to_go(reward.values.unsqueeze(-1), config.gamma).squeeze(-1)
        size = return_to_go(reward.sizes.unsqueeze(-1), abs(config.gamma)).squeeze(-1)
        togo = replace(Masked.of(to_go, reward.mask), size=size)
        turn = normalise(togo, config.group, tol=work.tol, gather=work.gather).out
        pooled = _pooled(reward, config.group, config.scope, work.tol, work.gather)
        total = config.alpha * turn.values + config.beta * pooled
        signal = Signal(Masked(total, reward.mask), work.scores, work.weights, reward)
        return signal, state


@dataclass(frozen=True)
class Completion:
    """Values of completing a clip from each time.

    Attributes:
        total: (P, G, T+1) the weighted sum, from noise to clip.
        size: (P, G, T+1) magnitudes of the summed numbers.
        scored: (P, G, T+1, K) bool, which components of weight were scored; None if all were.
    """

    total: Float[Tensor, "P G levels"]
    size: Float[Tensor, "P G levels"]
    scored: Bool[Tensor, "P G levels K"] | None

    @property
    def gains(self) -> Masked:
        """R_{i+1} - R_i; missing where the two ends are not scored by the same components."""
        known = self.scored
        ends = None if known is None else alike(known[..., 1:, :], known[..., :-1, :])
        size = torch.maximum(self.size[..., 1:], self.size[..., :-1])
        return replace(Masked.of(self.total.diff(dim=-1), ends), size=size)


def alike(
    first: Bool[Tensor, "*first K"], second: Bool[Tensor, "*second K"]
) -> Bool[Tensor, " *times"]:
    """True where the same components, and at least one, are scored; (..., K) that broadcast.

    Between other times a sum differs because a score is missing, and not because of the step.
    """
    return (first == second).all(-1) & first.any(-1)


def ode_rewards(work: Work) -> Completion:
    """The weighted sum of ``extras["ode_rewards"]`` over components.

    Raises:
        ValueError: for a wrong shape.
    """
    scores = work.extra("ode_rewards", *work.shape, *_free(work))
    weights = work.weights
    if scores.values.shape[2] < 1:
        raise ValueError("ode_rewards must have at least one time, got none")
    if scores.values.ndim == 3:
        mask = None if scores.mask is None else scores.mask.unsqueeze(-1)
        scores, weights = Masked(scores.values.unsqueeze(-1), mask), weights.new_ones(1)
    # A rollout that is invalid altogether has no gains either.
    valid = work.scores.present.flatten(2).any(-1)[:, :, None, None]
    if work.scores.mask is not None:
        scores = scores.drop(valid.expand_as(scores.values))
    total = total_score(scores, weights, work.gather)
    heavy = weights.reshape(-1, *[1] * (scores.values.ndim - 2), weights.shape[-1]) != 0
    known = None if scores.mask is None else scores.mask & heavy
    return Completion(total.values, total.sizes, known)


def turning_points(
    completion: Float[Tensor, "P G levels"],
    known: Bool[Tensor, "P G T"] | None = None,
    *,
    constrained: bool = False,
) -> Bool[Tensor, "P G T"]:
    """(P, G, T) True where a step is a turning point of (P, G, T+1) completion rewards.

    Args:
        completion: the rewards.
        known: (P, G, T) bool, whose gains are known; a step after one that is not does not turn.
        constrained: a turn must also have the sign of the remaining gain.
    """
    gains = completion.diff(dim=-1)
    overall = completion[..., -1:] - completion[..., :1]
    side = gains.sign() * overall.sign()
    side = side if known is None else torch.where(known, side, 0.0)
    before = torch.cat([-torch.ones_like(side[..., :1]), side[..., :-1]], -1)
    turn = (side > 0) & (before < 0)
    if constrained:
        turn = turn & (gains.sign() == (completion[..., -1:] - completion[..., :-1]).sign())
    return turn


def _per_step(work: Work, steps: Masked, group: NormSpec) -> Signal:
    """Normalise (P, G, T) step rewards at each step.

    The batch's own rewards stay the terms of the diagnostics; the completion rewards have been
    summed over components already.
    """
    counted = _counted(work, steps.values)
    steps = steps if counted is None else steps.drop(counted)
    done = normalise(steps, group, tol=work.tol, gather=work.gather)
    return Signal(done.out, work.scores, work.weights, steps)


def _counted(work: Work, steps: Float[Tensor, "P G T"]) -> Bool[Tensor, "P G T"] | None:
    """(P, G, T) steps that ``step_mask`` and ``valid`` leave, or None if they leave all."""
    if work.dense:
        got = work.scores.values.shape[2]
        if got != steps.shape[2]:
            raise ValueError(
                f"ode_rewards of {steps.shape[2]} steps (one time more) come with rewards of {got}"
            )
        mask = valid_mask(work.batch, work.scores.values)
        return None if mask is None else mask[..., 0]
    if "step_mask" in work.batch.extras:
        return step_mask(work.batch, steps, steps.shape[2])
    return None


def _pooled(
    reward: Masked, spec: NormSpec, scope: str, tol: float, gather: Gather | None
) -> Float[Tensor, "P G T"]:
    """z-score of (P, G, T) over all members and steps of a group, or of the batch.

    A group of one member has steps to compare, but nobody to compare them with: zeros.
    """
    if scope == "batch":
        batch = replace(spec, baseline="batch", scale="batch")
        return normalise(reward, batch, tol=tol, gather=gather).out.values
    shape = reward.values.shape
    mask = None if reward.mask is None else reward.mask.flatten(1)
    whole = Masked(reward.values.flatten(1), mask, reward.sizes.flatten(1))
    flat = normalise(whole, spec, tol=tol, gather=gather).out
    members = reward.present.any(-1).sum(1)[:, None, None]
    return torch.where(members > 1, flat.values.reshape(shape), 0.0)


def _free(work: Work) -> tuple[int | None, ...]:
    got = tuple(work.batch.extras["ode_rewards"].shape)
    if len(got) not in (3, 4):
        expect_shape("ode_rewards", got, (*work.shape, None))
    return (None, len(work.names)) if len(got) == 4 else (None,)
