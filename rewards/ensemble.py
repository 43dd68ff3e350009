r"""Several components in one, whose disagreement lowers the score.

An optimiser finds the clips that a learned reward is wrong about. Rewards trained apart are wrong
about different ones, so a clip that only some of them like is a suspect (Coste et al. 2023).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.base import Reward, RewardOutput, register_reward
from reelrl.rewards.cache import fingerprint_of
from reelrl.rewards.spec import RewardSpec, build_reward

Bounds = tuple[float, float]

COMBINATIONS = ("mean", "wco", "uwo")


def combine(scores: Tensor, how: str, penalty: float) -> Tensor:
    """One score from the M members' scores, (N, M) -> (N,); higher must be better.

    Args:
        scores: of the members; ``nan`` in one is ``nan`` in the result.
        how: "mean", "wco" the lowest, or "uwo" the mean less ``penalty`` times the variance.
        penalty: lambda of "uwo".
    """
    if how == "mean":
        return scores.mean(dim=1)
    if how == "wco":
        return scores.amin(dim=1)
    return scores.mean(dim=1) - penalty * scores.var(dim=1, correction=0)


def combined_bounds(bounds: Sequence[Bounds], how: str, penalty: float) -> Bounds:
    """Bounds of :func:`combine` for scores in these bounds.

    The mean and the lowest of values rise with each of them. The variance is at least 0 and at most
    a quarter of the squared range of all (Popoviciu).
    """
    lows, highs = zip(*bounds, strict=True)
    if how == "wco":
        return min(lows), min(highs)
    low, high = math.fsum(lows) / len(lows), math.fsum(highs) / len(highs)
    if how == "uwo" and penalty:
        low -= penalty * (max(highs) - min(lows)) ** 2 / 4
    return low, high


@register_reward("ensemble")
class Ensemble(Reward):
    r"""Several rewards of the same clips as one: their mean, worst case, or mean less variance.

    With members :math:`r_m` of M, "mean" is :math:`\bar r`, "wco" (worst-case optimisation) is
    :math:`\min_m r_m` and "uwo" (uncertainty-weighted optimisation) is :math:`\bar r - \lambda
    \tfrac1M \sum_m (r_m - \bar r)^2`. Of penalties the worst case is the largest, and the variance
    is added.

    Members must speak of the same thing in the same units: rewards of one kind from different
    seeds or data, or different ones brought to [0, 1] by their ``transforms``.

    A clip that one member cannot score has no score. Leaving the member out would raise the worst
    case and lower the variance, so that a policy could gain by making a member fail; and it would
    hold clips of one group to different standards.

    Members with ``asynchronous`` are all begun before any is waited for. ``fingerprint``, and with
    it :class:`~reelrl.rewards.cache.CachedReward`, needs one of every member.

    Args:
        of: the members, as :func:`~reelrl.rewards.spec.build_reward` takes them; no two of one
            name (``label`` renames).
        how: "mean", "wco" or "uwo".
        penalty: lambda of "uwo"; Coste et al. take 0.1 for PPO and 0.5 for the best of n.

    Raises:
        ValueError: for fewer than two members, two of one name, members of which some are
            penalties and some are not, or a setting out of its range.
    """

    name, bounds = "ensemble", (-math.inf, math.inf)
    formula = "mean_m r_m, min_m r_m or mean_m r_m - λ var_m r_m"
    source = "Coste et al. 2023 (arXiv 2310.02743): mean, WCO, UWO with the variance of ddof 0"
    differentiable = False

    def __init__(self, of: Sequence[RewardSpec], *, how: str = "uwo", penalty: float = 0.1) -> None:
        if how not in COMBINATIONS:
            raise ValueError(f"how must be one of {', '.join(COMBINATIONS)}, got {how!r}")
        if not 0 <= penalty < math.inf:
            raise ValueError(f"penalty must be at least 0, got {penalty}")
        if isinstance(of, str | Mapping | Reward):
            raise ValueError(f"of must be a list of rewards, got {of!r}")
        self.members = tuple(build_reward(spec) for spec in of)
        self.how, self.penalty = how, float(penalty)
        self._check_members()
        self._describe()

    def _check_members(self) -> None:
        names = [member.name for member in self.members]
        if len(set(names)) < len(names) or len(names) < 2:
            raise ValueError(f"an ensemble needs two members of different names, got {names}")
        if len({member.higher_is_better for member in self.members}) > 1:
            raise ValueError(f"members must be all penalties or none, got {names}")

    def _describe(self) -> None:
        """The ensemble's declaration, derived from its members' declarations."""
        members = self.members
        self.higher_is_better = members[0].higher_is_better
        self.sign = 1.0 if self.higher_is_better else -1.0
        signed = [self._signed(member.bounds) for member in members]
        self.bounds = self._signed(combined_bounds(signed, self.how, self.penalty))
        self.deterministic = all(member.deterministic for member in members)
        self.fps_sensitive = any(member.fps_sensitive for member in members)
        self.groupwise = any(member.groupwise for member in members)
        self.license = " AND ".join(dict.fromkeys(member.license for member in members))
        self.weights = ", ".join(dict.fromkeys(m.weights for m in members if m.weights))
        self.memory_gb = math.fsum(member.memory_gb for member in members)

    def _signed(self, bounds: Bounds) -> Bounds:
        low, high = sorted(self.sign * end for end in bounds)
        return low, high

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The members."""
        return self.members

    @property
    def fingerprint(self) -> str | None:
        """Text that changes when a score could change; None if a member's fingerprint is None."""
        prints = [fingerprint_of(member) for member in self.members]
        return None if None in prints else json.dumps([self.how, self.penalty, *prints])

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Combined scores (N,); see :meth:`reelrl.rewards.Reward.score`."""
        # Called, not scored: a member's own way with clips it cannot score is part of it.
        waits: list[Callable[[], RewardOutput]] = [
            member.begin(videos, prompts, infos)
            if isinstance(member, AsyncReward)
            else partial(member, videos, prompts, infos)
            for member in self.members
        ]
        values = [wait().values.to(videos.device) for wait in waits]
        scores = self.sign * torch.stack(values, dim=1)
        return self.sign * combine(scores, self.how, self.penalty)
