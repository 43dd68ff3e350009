"""Estimators on comparisons and ranks: Pref-GRPO and ArenaRL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.masked import Masked, constant, safe_divide
from reelrl.algos.advantages.methods.group_relative import ScalarConfig, sum_as
from reelrl.algos.advantages.norm import NormSpec
from reelrl.algos.advantages.pipeline import Estimator, EstimatorConfig, sum_first
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.transforms import WinRate, pairwise_points
from reelrl.algos.advantages.types import State

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@register_estimator("pref_grpo")
class PrefGRPO(Estimator):
    """Win rate (wins + ties / 2) / comparisons within the group, then GRPO on it."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Settings of Pref-GRPO.

        Attributes:
            append: keep the pointwise rewards beside the win rate (the paper adds CLIP: weights 0.4
                for the preference, 0.6 for CLIP); else the win rate alone counts.
            pref_weight: weight of the appended win rate.
            decimals: round win rates to so many places, 3 in the released code; None for not.
        """

        append: bool = False
        pref_weight: float = 1.0
        decimals: int | None = None

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.pref_weight != 1.0 and not self.append:
                raise ValueError(
                    f"pref_weight {self.pref_weight} weighs an appended win rate: set append=True"
                )

    source: ClassVar[str] = "arXiv 2508.20751"
    needs: ClassVar[frozenset[str]] = frozenset({"pairwise"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "repo": {"decimals": 3}}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Count wins, then normalise."""
        config = self.config
        work = WinRate(config.append, config.pref_weight, config.decimals)(work)
        return sum_as(config, work, work.weights), state


@register_estimator("arena")
class Arena(Estimator):
    """Rank of each member in a tournament, mapped to [0, 1], then z-scored.

    Ranks are a fixed multiset for a given G (but for ties), so advantages say nothing of margins.
    In both tournaments member 0 is special: no invariance to the order of members. Members without
    a reward take no part, and the first who does is member 0.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(EstimatorConfig):
        """Settings of ArenaRL.

        Attributes:
            tournament: "rank" takes ``extras["rank"]``; "anchor" has everyone meet member 0;
                "single_elimination" seeds by that and plays a bracket; both read ``pairwise``.
            group: normalisation of the mapped rank.
        """

        tournament: Literal["rank", "anchor", "single_elimination"] = "single_elimination"
        group: NormSpec = field(default=NormSpec(eps=1e-6))

    source: ClassVar[str] = "arXiv 2601.06487, code Alibaba-NLP/qqr"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "qqr": {},
        "anchor": {"tournament": "anchor"},
        "rank": {"tournament": "rank"},
    }

    @property
    def requires(self) -> frozenset[str]:
        """Ranks, or comparisons to make them from."""
        key = "rank" if self.config.tournament == "rank" else "pairwise"
        return super().requires | {key}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Play, map, normalise."""
        if work.dense:
            raise ValueError("arena takes terminal rewards (P, G, K)")
        scored = self._scores(work)
        score = scored.values.unsqueeze(-1)
        present = None if scored.mask is None else scored.mask.unsqueeze(-1)
        one = torch.ones_like(work.weights[..., :1])
        unit = constant([[0.0, 1.0]], score)
        ranked = work.with_scores(
            Masked.of(score, present), names=("arena",), weights=one, bounds=unit
        )
        return sum_first(ranked, one, self.config.group), state

    def _scores(self, work: Work) -> Masked:
        """(P, G) in [0, 1], 1 the best; missing for members without a reward or a rank."""
        valid = work.scores.present.any(-1)
        known = None if work.scores.mask is None else valid
        if self.config.tournament == "rank":
            rank = work.extra("rank", *work.shape)
            rank = rank if known is None else rank.drop(known)
            return rank.map(lambda r: 1 - r / max(1, work.shape[1] - 1))
        points = pairwise_points(work)
        if points.values.shape[-1] != 1:
            raise ValueError(f"arena takes pairwise (P, G, G), got {tuple(points.values.shape)}")
        table = torch.where(points.present, points.values, 0.5)[..., 0]
        play = anchor_scores if self.config.tournament == "anchor" else single_elimination_scores
        if known is None:
            return Masked(play(table))
        # Those who take part first, in their order: the others have no place in the tournament.
        order = valid.int().argsort(dim=1, descending=True, stable=True)
        rows = order.unsqueeze(2).expand_as(table)
        table = table.gather(1, rows).gather(2, order.unsqueeze(1).expand_as(table))
        scores = play(table, valid.sum(1))
        return Masked.of(torch.empty_like(scores).scatter_(1, order, scores), known)


def anchor_scores(
    points: Float[Tensor, "P G G"], count: Int[Tensor, " P"] | None = None
) -> Float[Tensor, "P G"]:
    """Rank by points against member 0; its own score is the mean of its points.

    r = (maxrank - rank) / (maxrank - 1), ranks from 1, ties sharing the best one; 0 if all tie.

    Args:
        points: (P, G, G) of the row against the column.
        count: (P,) how many of the first take part; None means all. Ignore the results of the
            others.
    """
    part = _taking_part(points, count)
    score = torch.where(part, _anchor_points(points, part), -torch.inf)
    rank = 1 + (score.unsqueeze(1) > score.unsqueeze(2)).sum(2)
    worst = torch.where(part, rank, 1).amax(1, keepdim=True) if rank.shape[1] else rank
    dtype = points.dtype
    return safe_divide((worst - rank).to(dtype), (worst - 1).to(dtype).expand(rank.shape))


def single_elimination_scores(
    points: Float[Tensor, "P G G"], count: Int[Tensor, " P"] | None = None
) -> Float[Tensor, "P G"]:
    """R = 1 - rank / (G - 1) of a bracket seeded by :func:`anchor_scores`' points.

    Seeds meet as in a standard bracket of the next power of two, missing seeds being byes; a tie
    goes to the upper slot. Ranks: the champion, then losers by reverse round, within a round by
    mean points over the matches played.

    Args:
        points: (P, G, G) of the row against the column.
        count: (P,) G of each prompt, the first who take part; None means all. A bracket that is
            larger than it need be has byes in its first rounds and the same matches after them.
    """
    prompts, members = points.shape[:2]
    if members < 2:
        return points.new_zeros(prompts, members)
    part = _taking_part(points, count)
    strength = torch.where(part, _anchor_points(points, part), -torch.inf)
    seeding = strength.argsort(dim=1, descending=True, stable=True)
    size = 1 << (members - 1).bit_length()
    order = constant(bracket(size), seeding)
    slots = torch.where(order < members, order, 0).expand(prompts, size)
    playing = (order < members) & (order < part.sum(1, keepdim=True))
    player = torch.where(playing, seeding.gather(1, slots), -1)
    earned = points.new_zeros(prompts, members)
    played = points.new_zeros(prompts, members)
    survived = points.new_zeros(prompts, members)
    while player.shape[1] > 1:
        upper, lower = player[:, 0::2], player[:, 1::2]
        gain, real = _play(points, upper, lower)
        up_wins = (gain >= 0.5) | (lower < 0)
        up_wins = up_wins & (upper >= 0)
        player = torch.where(up_wins, upper, lower)
        for who, share in ((upper, gain), (lower, 1 - gain)):
            at = who.clamp(min=0)
            earned = earned.scatter_add(1, at, torch.where(real, share, 0.0))
            played = played.scatter_add(1, at, real.to(points.dtype))
        survived = survived.scatter_add(1, player.clamp(min=0), (player >= 0).to(points.dtype))
    mean = safe_divide(earned, played)
    # Mean points are at most 1, so rounds decide first; who takes no part comes last.
    key = torch.where(part, 2 * survived + mean, -1.0)
    rank = torch.empty_like(seeding)
    order = key.argsort(dim=1, descending=True, stable=True)
    rank.scatter_(
        1, order, torch.arange(members, dtype=torch.int64, device=points.device).expand_as(order)
    )
    return 1 - rank.to(points.dtype) / (part.sum(1, keepdim=True) - 1).clamp(min=1)


def bracket(size: int) -> list[int]:
    """Seeds in slot order: the first meets the last, the second meets the first in the final."""
    seeds = [0]
    while len(seeds) < size:
        double = 2 * len(seeds) - 1
        seeds = [seed for pair in ((s, double - s) for s in seeds) for seed in pair]
    return seeds


def _play(
    points: Float[Tensor, "P G G"], upper: Int[Tensor, "P M"], lower: Int[Tensor, "P M"]
) -> tuple[Float[Tensor, "P M"], Bool[Tensor, "P M"]]:
    """Points of the upper slot in each match, and whether both slots are taken."""
    prompt = torch.arange(points.shape[0], dtype=torch.int64, device=points.device)[:, None]
    gain = points[prompt, upper.clamp(min=0), lower.clamp(min=0)]
    return gain, (upper >= 0) & (lower >= 0)


def _anchor_points(
    points: Float[Tensor, "P G G"], part: Bool[Tensor, "P G"]
) -> Float[Tensor, "P G"]:
    """(P, G) points against member 0; member 0 gets the mean of its own."""
    score = points[:, :, :1].sum(2)
    if points.shape[1] > 1:
        others = part[:, 1:].to(points.dtype)
        score[:, 0] = safe_divide((points[:, 0, 1:] * others).sum(1), others.sum(1))
    return score


def _taking_part(
    points: Float[Tensor, "P G G"], count: Int[Tensor, " P"] | None
) -> Bool[Tensor, "P G"]:
    """(P, G) bool: the first ``count`` of each prompt."""
    here = torch.arange(points.shape[1], dtype=torch.int64, device=points.device)
    limit = points.shape[1] if count is None else count[:, None]
    return (here < limit).expand(points.shape[:2])
