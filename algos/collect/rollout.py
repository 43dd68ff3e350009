"""What collecting leaves: the stochastic steps of a batch of clips, and all that learning needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.advantages import RewardBatch
from reelrl.algos.collect.plan import Plan
from reelrl.algos.run.distributed import ALONE, Ranks


@dataclass(frozen=True)
class KeptStep:
    """One stochastic step of the M different transitions there were.

    Of several processes each has the latents of its own M' = M / processes transitions.

    Attributes:
        index: t, the step starts at ``sigmas[t]``.
        row: (M,) int64 on the host, clip that the transition belongs to, or the first one of those
            that share it.
        latent: (M', C, T', H', W') before the step.
        action: (M', C, T', H', W') after it, as rounded for storage.
        log_prob: (M,) float64 under the policy that drew the action.
        mean: (M', C, T', H', W') of that policy's step, if kept.
    """

    index: int
    row: Tensor
    latent: Tensor
    action: Tensor
    log_prob: Tensor
    mean: Tensor | None = None


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
    action: Tensor
    log_prob: Tensor
    mean: Tensor | None
    row: Tensor
    column: Tensor


@dataclass(frozen=True)
class Rollout:
    """N = P * G finished clips, groups one after the other.

    Of several processes each knows the scores of all clips and has the latents of its own ones.

    Attributes:
        plan: which steps were stochastic, the same ones for every clip.
        kept: the S stochastic steps.
        sigmas: (T + 1,) float64 noise levels.
        prompt_ids: (N,) int64 on the host.
        group_size: G.
        guidance_scale: all clips were made with.
        rewards: (N, K) float32, ``nan`` where not valid.
        valid: (N, K) bool.
        noise_seeds: (N,) int64 seeds of the initial latents.
        latents: (N / processes, C, T', H', W') finished, before decoding.
        ode_rewards: (N, T + 1, K) rewards of deterministic completions from each level, if dense.
        videos: (V, F, H, W, 3) uint8, the first clips, on the process that made them.
        ranks: the processes that the clips were shared out to.
    """

    plan: Plan
    kept: tuple[KeptStep, ...]
    sigmas: Tensor
    prompt_ids: Tensor
    group_size: int
    guidance_scale: float
    rewards: Tensor
    valid: Tensor
    noise_seeds: np.ndarray
    latents: Tensor
    ode_rewards: Tensor | None = None
    videos: Tensor | None = None
    ranks: Ranks = ALONE
    _offsets: tuple[int, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        ends = np.cumsum([0, *(len(step.row) for step in self.kept)])
        object.__setattr__(self, "_offsets", tuple(int(end) for end in ends))

    @property
    def num_items(self) -> int:
        """Number of different transitions; S * N unless clips share some."""
        return self._offsets[-1]

    @property
    def num_groups(self) -> int:
        """P."""
        return len(self.prompt_ids) // self.group_size

    def rows(self) -> tuple[Tensor, Tensor]:
        """Clip and kept step (column) of every item, both (num_items,) on the host."""
        columns = [torch.full_like(step.row, s) for s, step in enumerate(self.kept)]
        return torch.cat([step.row for step in self.kept]), torch.cat(columns)

    def own(self, index: Tensor) -> Tensor:
        """Those of the transitions ``index`` whose latents this process has."""
        mine = torch.zeros(self.num_items, dtype=torch.bool)
        for offset, step in zip(self._offsets, self.kept, strict=False):
            mine[offset : offset + len(step.row)][self.ranks.part(len(step.row))] = True
        return index[mine[index]]

    def items(self, index: Tensor) -> Items:
        """The transitions ``index`` (M,) of [0, num_items), sorted, all of them :meth:`own`."""
        order = index.sort().values
        bounds = torch.searchsorted(order, torch.tensor(self._offsets)).tolist()
        parts = [
            (s, step, order[low:high] - self._offsets[s])
            for s, (step, low, high) in enumerate(
                zip(self.kept, bounds[:-1], bounds[1:], strict=True)
            )
            if high > low
        ]
        device = self.kept[0].latent.device
        picked = [
            (s, step, at, (at - self.ranks.part(len(step.row)).start).to(device))
            for s, step, at in parts
        ]
        row = torch.cat([step.row[at] for _, step, at, _ in picked])
        column = torch.cat([torch.full_like(at, s) for s, _, at, _ in picked])
        sigma = self.sigmas[torch.tensor([step.index for step in self.kept])[column]]
        obs = {
            "latent": torch.cat([step.latent[here] for _, step, _, here in picked]),
            "sigma": sigma.to(device, torch.float32)[:, None],
            "prompt_id": self.prompt_ids[row].to(device)[:, None],
            "guidance_scale": self.guidance_scale,
        }
        means = [step.mean[here] for _, step, _, here in picked if step.mean is not None]
        return Items(
            obs,
            torch.cat([step.action[here] for _, step, _, here in picked]),
            torch.cat([step.log_prob[at.to(device)] for _, step, at, _ in picked]),
            torch.cat(means) if means else None,
            row,
            column,
        )

    def reward_batch(
        self,
        names: Sequence[str],
        *,
        weights: Tensor | None = None,
        bounds: Tensor | None = None,
        step: int = 0,
    ) -> RewardBatch:
        """The rewards as an estimator wants them, (P, G, K), with completions if any.

        With the tree of the clips, too, if members of a group share any of their way.
        """
        groups = (self.num_groups, self.group_size)
        extras = dict(self._tree()) if self.plan.shared else {}
        if self.ode_rewards is not None:
            extras["ode_rewards"] = self.ode_rewards.unflatten(0, groups)
        return RewardBatch(
            self.rewards.unflatten(0, groups),
            tuple(names),
            weights=weights,
            bounds=bounds,
            prompt_ids=self.prompt_ids[:: self.group_size],
            extras=extras,
            step=step,
        )

    def _tree(self) -> Mapping[str, Tensor]:
        """Parents and edge log-probabilities of the nodes, a level per stochastic step."""
        parents, edges = [torch.tensor([-1])], [self.rewards.new_zeros(self.num_groups, 1)]
        start, above = 0, 1
        for step in self.kept:
            count = len(step.row) // self.num_groups
            parents.append(start + torch.arange(count) // (count // above))
            edges.append(step.log_prob.to(self.rewards.dtype).view(self.num_groups, count))
            start, above = start + above, count
        parent = torch.cat(parents).to(self.rewards.device)
        return {
            "tree_parent": parent.expand(self.num_groups, -1),
            "edge_logp": torch.cat(edges, dim=1),
        }
