"""Result of collecting: finished clips, and the stochastic steps that made them, if any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.advantages import RewardBatch
from reelrl.algos.collect.plan import Plan
from reelrl.algos.run.distributed import ALONE, Ranks
from reelrl.envs.scoring import RewardFacts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8


@dataclass(frozen=True)
class KeptStep:
    """One stochastic step of the M different transitions there were.

    Of several processes each has the latents of its own M' = M / processes transitions.

    Attributes:
        index: t, the step starts at ``sigmas[t]``.
        row: (M,) int64 on the host, clip that the transition belongs to, or the first of the clips
            that share it.
        latent: (M', C, T', H', W') before the step.
        action: (M', C, T', H', W') after it, as rounded for storage.
        log_prob: (M,) float64 under the policy that drew the action.
        mean: (M', C, T', H', W') of that policy's step, if kept.
    """

    index: int
    row: Int[Tensor, " M"]
    latent: Float[Tensor, "m C t h w"]
    action: Float[Tensor, "m C t h w"]
    log_prob: Float[Tensor, " M"]
    mean: Float[Tensor, "m C t h w"] | None = None


@dataclass(frozen=True)
class Items:
    """M transitions of any steps, ready for one forward pass.

    Attributes:
        obs: observation with the guidance scale of the trajectory.
        action: (M, C, T', H', W').
        log_prob: (M,) float64 under the policy that drew the actions.
        mean: (M, C, T', H', W') of that policy's steps, if kept.
        row: (M,) clip, on the host.
        column: (M,) which of the kept steps, on the host.
    """

    obs: dict[str, Any]
    action: Float[Tensor, "M C t h w"]
    log_prob: Float[Tensor, " M"]
    mean: Float[Tensor, "M C t h w"] | None
    row: Int[Tensor, " M"]
    column: Int[Tensor, " M"]


@dataclass(frozen=True)
class Transitions:
    """The stochastic steps of N clips.

    Attributes:
        plan: which steps were stochastic, the same ones for every clip.
        steps: the S >= 1 stochastic steps.
        sigmas: (T + 1,) float64 noise levels.
        prompt_ids: (N,) int64 of the clips, on the host.
        guidance_scale: all clips were made with.
        ranks: the processes that the clips were shared out to.
    """

    plan: Plan
    steps: tuple[KeptStep, ...]
    sigmas: Float[Tensor, " levels"]
    prompt_ids: Int[Tensor, " N"]
    guidance_scale: float
    ranks: Ranks = ALONE
    _offsets: tuple[int, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        ends = np.cumsum([0, *(len(step.row) for step in self.steps)])
        object.__setattr__(self, "_offsets", tuple(int(end) for end in ends))

    @property
    def num_items(self) -> int:
        """Number of different transitions; S * N unless clips share some."""
        return self._offsets[-1]

    @property
    def num_steps(self) -> int:
        """T, all denoising steps of a clip, stochastic or not."""
        return len(self.sigmas) - 1

    @property
    def dimensions(self) -> int:
        """D, numbers of a latent."""
        return self.steps[0].latent[0].numel()

    @property
    def device(self) -> torch.device:
        """Where the latents are."""
        return self.steps[0].latent.device

    def rows(self) -> tuple[Int[Tensor, " num_items"], Int[Tensor, " num_items"]]:
        """Clip and kept step (column) of every item, both (num_items,) on the host."""
        columns = [torch.full_like(step.row, s) for s, step in enumerate(self.steps)]
        return torch.cat([step.row for step in self.steps]), torch.cat(columns)

    def own(self, index: Int[Tensor, " M"]) -> Int[Tensor, " own"]:
        """Those of the transitions ``index`` whose latents this process has."""
        mine = torch.zeros(self.num_items, dtype=torch.bool, device="cpu")
        for offset, step in zip(self._offsets, self.steps, strict=False):
            mine[offset : offset + len(step.row)][self.ranks.part(len(step.row))] = True
        return index[mine[index]]

    def items(self, index: Int[Tensor, " M"]) -> Items:
        """The transitions ``index`` (M,) of [0, num_items), sorted, all of them :meth:`own`."""
        parts = self._by_step(index.sort().values)
        row = torch.cat([step.row[at] for _, step, at in parts])
        column = torch.cat([torch.full_like(at, s) for s, _, at in parts])
        levels = torch.tensor([step.index for step in self.steps], dtype=torch.int64, device="cpu")
        sigma = self.sigmas[levels[column]]
        # Log-probabilities are known of all transitions, latents of this process's own.
        here = [
            (step, (at - self.ranks.part(len(step.row)).start).to(self.device))
            for _, step, at in parts
        ]
        obs = {
            "latent": torch.cat([step.latent[at] for step, at in here]),
            "sigma": sigma.to(self.device, torch.float32)[:, None],
            "prompt_id": self.prompt_ids[row].to(self.device)[:, None],
            "guidance_scale": self.guidance_scale,
        }
        means = [step.mean[at] for step, at in here if step.mean is not None]
        return Items(
            obs,
            torch.cat([step.action[at] for step, at in here]),
            torch.cat([step.log_prob[at.to(self.device)] for _, step, at in parts]),
            torch.cat(means) if means else None,
            row,
            column,
        )

    def _by_step(self, order: Int[Tensor, " M"]) -> list[tuple[int, KeptStep, Tensor]]:
        """Column, step and places in the step of sorted items, for the steps that have any."""
        # Items are numbered step after step, so each step is one run of the sorted numbers.
        offsets = torch.tensor(self._offsets, dtype=torch.int64, device="cpu")
        bounds = torch.searchsorted(order, offsets).tolist()
        places = zip(self.steps, bounds[:-1], bounds[1:], strict=True)
        return [
            (s, step, order[low:high] - self._offsets[s])
            for s, (step, low, high) in enumerate(places)
            if high > low
        ]

    def tree(self, num_groups: int) -> Mapping[str, Tensor]:
        """Parents and edge log-probabilities of the nodes, a level per stochastic step."""
        device = self.steps[0].log_prob.device
        parents = [torch.tensor([-1], dtype=torch.int64, device="cpu")]
        edges = [torch.zeros(num_groups, 1, dtype=torch.float32, device=device)]
        start, above = 0, 1
        for step in self.steps:
            count = len(step.row) // num_groups
            # Children of a node are neighbours; nodes are numbered level after level.
            parents.append(
                start + torch.arange(count, dtype=torch.int64, device="cpu") // (count // above)
            )
            edges.append(step.log_prob.to(torch.float32).view(num_groups, count))
            start, above = start + above, count
        parent = torch.cat(parents).to(device)
        return {"tree_parent": parent.expand(num_groups, -1), "edge_logp": torch.cat(edges, dim=1)}


@dataclass(frozen=True)
class Rollout:
    """N = P * G finished clips, groups one after the other.

    Of several processes each knows the scores of all clips and has the latents of its own ones.

    Attributes:
        latents: (N / processes, C, T', H', W') finished, before decoding.
        prompt_ids: (N,) int64 on the host.
        group_size: G.
        noise_seeds: (N,) int64 seeds of the initial latents.
        rewards: (N, K) float32 as the environment gave them, ``nan`` where not valid.
        valid: (N, K) bool.
        transitions: the stochastic steps; None if the clips were made without any.
        extras: further facts about the clips, (N, ...) each: ``ode_rewards`` (N, T + 1, K), the
            rewards of deterministic completions from each level, if asked for.
        videos: (V, F, H, W, 3) uint8, the first clips, on the process that made them.
        ranks: the processes that the clips were shared out to.
    """

    latents: Float[Tensor, "n C t h w"]
    prompt_ids: Int[Tensor, " N"]
    group_size: int
    noise_seeds: Int[np.ndarray, " N"]
    rewards: Float[Tensor, "N K"]
    valid: Bool[Tensor, "N K"]
    transitions: Transitions | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    videos: UInt8[Tensor, "V F H W 3"] | None = None
    ranks: Ranks = ALONE

    @property
    def num_groups(self) -> int:
        """P."""
        return len(self.prompt_ids) // self.group_size

    @property
    def group_id(self) -> Int[Tensor, " N"]:
        """(N,) int64 on the host, which of the P groups each clip is compared in."""
        return (
            torch.arange(len(self.prompt_ids), dtype=torch.int64, device="cpu") // self.group_size
        )

    def stochastic(self) -> Transitions:
        """The stochastic steps, for a learner that cannot do without.

        Raises:
            ValueError: if the clips were made without any.
        """
        if self.transitions is None:
            raise ValueError("expected a rollout with stochastic steps, got one of window 'none'")
        return self.transitions

    def reward_batch(
        self, facts: RewardFacts, *, weights: Float[Tensor, " K"] | None = None, step: int = 0
    ) -> RewardBatch:
        """The rewards as an estimator wants them: (P, G, K), higher better in every component.

        With the extras, and with the tree of the clips if members of a group share any of their
        way.

        Args:
            facts: names, signs and bounds of the components.
            weights: (K,) static weights.
            step: number of the iteration.
        """
        groups = (self.num_groups, self.group_size)
        extras = {name: torch.unflatten(value, 0, groups) for name, value in self.extras.items()}
        if self.transitions is not None and self.transitions.plan.shared:
            extras |= self.transitions.tree(self.num_groups)
        rewards = torch.unflatten(self.rewards, 0, groups)
        prompts = self.prompt_ids[:: self.group_size]
        return signed_batch(
            rewards, facts, weights=weights, prompt_ids=prompts, extras=extras, step=step
        )


SIGNED = frozenset({"ode_rewards"})
"""Extras that are rewards themselves and change sign with them."""


def signed_batch(
    rewards: Any,
    facts: RewardFacts,
    *,
    valid: Any = None,
    weights: Float[Tensor, " K"] | None = None,
    prompt_ids: Any = None,
    extras: Mapping[str, Tensor] | None = None,
    step: int = 0,
) -> RewardBatch:
    """The batch that every learner hands to its estimator.

    Penalties change sign before anything is estimated, because some estimators know no weights.

    Args:
        rewards: (P, G, K) as the environment gave them, array or tensor.
        facts: names, signs and bounds of the K components.
        valid: (P, G) bool; None means all.
        weights: (K,) static weights, or None.
        prompt_ids: (P,).
        extras: by the names of :data:`~reelrl.algos.advantages.EXTRAS`.
        step: number of the batch.
    """
    return RewardBatch(
        facts.signed(rewards),
        facts.names,
        valid=valid,
        weights=weights,
        bounds=facts.signed_bounds(),
        prompt_ids=prompt_ids,
        extras={
            name: facts.signed(value) if name in SIGNED else value
            for name, value in (extras or {}).items()
        },
        step=step,
    )
