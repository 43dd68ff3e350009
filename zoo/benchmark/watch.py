"""Measurements on every rollout before it is learnt from, for the ``watch/`` columns.

The truth is measured beside whatever is trained on, and never given to the learner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reelrl.algos.advantages import AdvantageOutput
from reelrl.algos.callbacks import Callback
from reelrl.algos.collect.rollout import Rollout
from reelrl.algos.metrics import to_floats
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.envs.steps import gaussian_kl
from reelrl.zoo.benchmark.columns import WATCHED
from reelrl.zoo.benchmark.truth import Truth

ZERO_ADVANTAGE = 1e-3
SAME_ADVANTAGE = 1e-6
CHUNK = 64


@dataclass(frozen=True)
class RolloutMeasures(Callback):
    """Measures every rollout before the update; the rollout must keep all of its clips.

    Attributes:
        truth: scores the clips.
        every: iterations between two measurements of the divergence from the base model.
        last: iteration at which it is measured in any case.
    """

    truth: Truth
    every: int
    last: int

    def on_rollout(
        self, trainer: Any, rollout: Rollout, output: AdvantageOutput
    ) -> dict[str, float]:
        """The columns of one iteration, under ``watch/``.

        ``proxy`` is the weighted sum of the trained components. Correlations are pooled over
        groups, each centred on its own mean, because an advantage says nothing across groups.
        """
        assert rollout.videos is not None and len(rollout.videos) == len(rollout.rewards)
        prompts = [trainer.env.unwrapped.prompts[i] for i in rollout.prompt_ids.tolist()]
        scores = self.truth(rollout.videos.float() / 255, prompts)
        score = self.truth.axes[0]
        size = rollout.group_size
        rewards = rollout.rewards.double().cpu()
        proxy = proxy_of(rewards, trainer.facts.signs, trainer.config.reward_weights)
        advantages = torch.as_tensor(output.advantages).double().cpu()
        advantages = advantages.flatten(2).mean(-1) if advantages.ndim > 2 else advantages
        groups = advantages.reshape(-1, size)
        numbers: dict[str, Tensor] = {
            name: axis.double().nanmean() for name, axis in scores.items()
        }
        numbers |= {
            "proxy": proxy.nanmean(),
            "within_std/proxy": within_std(proxy, size),
            "within_std/advantage": within_std(groups.flatten(), size),
            f"corr_{score}": correlation(groups, scores[score].double().reshape(-1, size)),
            "zero_advantage": (groups.abs() < ZERO_ADVANTAGE).double().mean(),
            "zero_std_groups": (groups.abs() < SAME_ADVANTAGE).all(dim=1).double().mean(),
            "collisions": collisions(rewards.reshape(-1, size, rewards.shape[1]), groups),
        }
        for k, name in enumerate(trainer.names):
            column = rewards[:, k]
            numbers[f"within_std/{name}"] = within_std(column, size)
            numbers[f"corr/{name}"] = correlation(groups, column.reshape(-1, size))
        due = trainer.iteration % self.every == 0 or trainer.iteration == self.last
        # Without stochastic steps a path has no divergence.
        if due and rollout.transitions is not None:
            numbers["kl"] = path_kl(trainer.policy, rollout)
        return {f"{WATCHED}{name}": value for name, value in to_floats(numbers).items()}


def proxy_of(
    rewards: Tensor, signs: Sequence[float], weights: Sequence[float] | None = None
) -> Tensor:
    """(N,) weighted sum of the components (N, K), penalties negative; ``nan`` if one failed."""
    factors = torch.tensor([signs, weights or [1.0] * len(signs)], dtype=torch.float64).prod(dim=0)
    return (rewards.double() * factors.to(rewards.device)).sum(dim=1)


def within_std(values: Tensor, group_size: int) -> Tensor:
    """Mean over groups of the standard deviation (ddof 0) of (N,) values in a group."""
    groups = values.double().reshape(-1, group_size)
    mean = groups.nanmean(dim=1, keepdim=True)
    return (groups - mean).square().nanmean(dim=1).sqrt().nanmean()


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of (P, G) values, centred per group; 0 where one does not vary."""
    known = first.isfinite() & second.isfinite()
    a, b = (_centred(torch.where(known, x, torch.nan)) for x in (first, second))
    norm = (a.square().sum() * b.square().sum()).sqrt()
    return torch.where(norm > 0, (a * b).sum() / norm.clamp_min(1e-300), 0.0)


def _centred(groups: Tensor) -> Tensor:
    return (groups - groups.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)


def collisions(rewards: Tensor, advantages: Tensor) -> Tensor:
    """Share of pairs in a group with different reward vectors and the same advantage.

    GDPO's argument against summing first (arXiv 2601.05242, section 3): vectors that mean
    different things are told apart by nothing.

    Args:
        rewards: (P, G, K).
        advantages: (P, G).
    """
    # Compared with NaN as a value of its own: two failures of the same component are alike.
    filled = rewards.nan_to_num(nan=math.inf)
    different = (filled[:, :, None] != filled[:, None, :]).any(dim=-1)
    same = (advantages[:, :, None] - advantages[:, None, :]).abs() < SAME_ADVANTAGE
    return (different & same).double().sum() / different.double().sum().clamp_min(1)


@torch.no_grad()
def path_kl(policy: FlowPolicy, rollout: Rollout) -> Tensor:
    r"""Divergence in nats per clip of the policy's denoising path from the reference's.

    :math:`\sum_t \lVert \mu_\theta - \mu_\mathrm{ref} \rVert^2 / (2\,\mathrm{step\_std}_t^2)` over
    the stochastic steps, averaged over clips drawn by the policy: the exact divergence of the
    noisy steps, and an upper bound on the divergence of the latents after the last of them. It does
    not bound the divergence of the clips: the deterministic steps behind it are the policy's own,
    too.
    """
    transitions = rollout.stochastic()
    total = torch.zeros((), dtype=torch.float64)
    for index in torch.split(torch.arange(transitions.num_items), CHUNK):
        obs = transitions.items(index).obs
        step = policy.forward(obs).step
        with policy.reference():
            reference = policy.forward(obs).step
        total = total + gaussian_kl(step, reference, "sum").sum().cpu()
    return total / (transitions.num_items / len(transitions.steps))
