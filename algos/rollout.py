"""Collecting: P prompts times G clips, with all that learning from them needs.

Noise is drawn from (seed, iteration, clip, step) alone, so a clip depends neither on the batch it
is made in nor on what was drawn before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from reelrl.algos.advantages import RewardBatch
from reelrl.algos.distributed import ALONE, Ranks
from reelrl.algos.plan import Plan, RolloutConfig, make_plan
from reelrl.algos.policies.flow import DTYPES, FlowPolicy
from reelrl.envs.sampling import NOISE_SEEDS, step_noise
from reelrl.envs.scoring import Scores
from reelrl.envs.steps import Step


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
        """The rewards as an estimator wants them, (P, G, K), with tree and completions if any."""
        groups = (self.num_groups, self.group_size)
        extras = dict(self._tree()) if len(set(self.plan.blocks[1:])) > 1 else {}
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


@torch.no_grad()
def collect(
    env: Any,
    policy: FlowPolicy,
    prompt_ids: Sequence[int],
    group_size: int,
    config: RolloutConfig | None = None,
    *,
    seed: int = 0,
    iteration: int = 0,
    ranks: Ranks = ALONE,
) -> Rollout:
    """Make G clips of each of P prompts and score them.

    Args:
        env: the native batch with ``autoreset_mode="Disabled"``; P * G (of several processes, the
            share of one) must be a multiple of its ``num_envs``, and the clips are made in that
            many at a time.
        policy: bound to the environment here.
        prompt_ids: P rows of ``env.unwrapped.prompts``; one twice is two groups.
        group_size: G.
        config: windows, shared noise, trees, dense rewards.
        seed: of the run.
        iteration: together with the seed decides all that is random.
        ranks: processes that share the groups out among them; P must be a multiple of their number.

    Raises:
        ValueError: if the environment is not of that kind or the numbers do not fit.
    """
    config = config or RolloutConfig()
    task = env.unwrapped
    policy.bind(env)
    plan = make_plan(config, policy.table.stochastic.tolist(), group_size, seed, iteration)
    _check(env, len(prompt_ids), group_size, plan, ranks)
    ids = np.repeat(np.asarray(prompt_ids, dtype=np.int64), group_size)
    initial, during = _seeds(len(ids), group_size, plan, seed, iteration)
    walks = []
    own = ranks.part(len(ids))
    # Background rewards judge one batch of clips while the next is made.
    with task.task.rewards.deferred() as scores:
        for start in range(own.start, own.stop, task.num_envs):
            rows = slice(start, start + task.num_envs)
            kept_videos = max(0, min(task.num_envs, config.keep_videos - start))
            walk = _Walk(env, policy, plan, config.keep_means, kept_videos)
            walks.append(walk.run(ids[rows], initial[rows], during[rows], start))
    for made, batch in zip(walks, scores, strict=True):
        _fill_in(made, batch)
    rollout = _join(walks, plan, policy, task.sigmas, ids, group_size, initial, ranks)
    if not config.dense:
        return rollout
    return replace(rollout, ode_rewards=completion_rewards(env, policy, rollout))


def completion_rewards(env: Any, policy: FlowPolicy, rollout: Rollout) -> Tensor:
    """(N, T + 1, K) rewards of finishing each clip deterministically from each level.

    Between stochastic steps a completion is the same clip, so one per stochastic step is made; from
    after the last one on it is the finished clip itself.
    """
    task = env.unwrapped
    own = rollout.rewards[rollout.ranks.part(len(rollout.rewards))]
    out = own[:, None].repeat(1, len(rollout.sigmas), 1)
    after = 0
    for step in rollout.kept:
        share = len(own) // len(step.latent)
        scores = [
            _complete(task, policy, rollout, step, rows)
            for rows in torch.arange(len(step.latent)).split(task.num_envs)
        ]
        values = torch.cat(scores).repeat_interleave(share, dim=0)
        out[:, after : step.index + 1] = values[:, None]
        after = step.index + 1
    return rollout.ranks.gather(out)


def _complete(
    task: Any, policy: FlowPolicy, rollout: Rollout, step: KeptStep, rows: Tensor
) -> Tensor:
    latent = step.latent[rows.to(step.latent.device)].float()
    own = step.row[rollout.ranks.part(len(step.row))]
    ids = rollout.prompt_ids[own[rows]]
    for t in range(step.index, len(rollout.sigmas) - 1):
        obs = {
            "latent": latent,
            "sigma": rollout.sigmas[t].float().expand(len(latent), 1),
            "prompt_id": ids[:, None],
            "guidance_scale": rollout.guidance_scale,
        }
        latent = policy.predict(obs, deterministic=True)
    scores = task.score(latent if task.output == "torch" else latent.cpu().numpy(), ids)
    return torch.as_tensor(scores, device=rollout.rewards.device)


@dataclass(frozen=True)
class _Walk:
    """One batch of the environment from noise to clip."""

    env: Any
    policy: FlowPolicy
    plan: Plan
    keep_means: bool
    keep_videos: int

    def run(
        self, ids: np.ndarray, initial: np.ndarray, during: np.ndarray, start: int
    ) -> dict[str, Any]:
        obs, _ = self.env.reset(options={"prompt_id": ids, "noise_seed": initial})
        kept: list[KeptStep] = []
        for t, (before, after) in enumerate(
            zip(self.plan.blocks[:-1], self.plan.blocks[1:], strict=True)
        ):
            nodes = {key: torch.as_tensor(value)[::before] for key, value in obs.items()}
            if t in self.plan.steps:
                rows = torch.arange(start, start + len(ids), after)
                step, action = self._draw(t, nodes, rows, during[::after], before // after)
                kept.append(step)
            else:
                action = self.policy.predict(nodes, deterministic=True)
                action = action.repeat_interleave(before // after, dim=0)
            action = action.repeat_interleave(after, dim=0) if after > 1 else action
            torch_path = self.env.unwrapped.output == "torch"
            obs, reward, _, _, infos = self.env.step(action if torch_path else action.cpu().numpy())
        vector = infos.get("vector_reward", reward)
        return {
            "kept": kept,
            "latents": torch.as_tensor(obs["latent"]),
            "rewards": torch.as_tensor(vector),
            "valid": torch.as_tensor(infos["reward_valid"]),
            "videos": torch.as_tensor(infos["video"])[: self.keep_videos].cpu(),
        }

    def _draw(
        self, t: int, nodes: dict[str, Tensor], rows: Tensor, seeds: np.ndarray, children: int
    ) -> tuple[KeptStep, Tensor]:
        """What is stored of the children of every node, and the children."""
        step = self.policy.forward(nodes).step
        latent = nodes["latent"].to(step.mean.device)
        if children > 1:
            latent = latent.repeat_interleave(children, dim=0)
            step = Step(
                step.mean.repeat_interleave(children, dim=0),
                step.step_std.repeat_interleave(children, dim=0),
            )
        noise = step_noise(latent.shape[1:], seeds.tolist(), [t] * len(seeds))
        action = self.policy.sample(step, noise)
        dtype = DTYPES[self.policy.config.latent_dtype]
        stored = KeptStep(
            t,
            rows,
            # Pure noise was not rounded by the policy; what came after it was, and loses nothing.
            latent if t == 0 else latent.to(dtype),
            action.to(dtype),
            self.policy.score(step, action),
            step.mean if self.keep_means else None,
        )
        return stored, action


def _fill_in(walk: dict[str, Any], scores: Scores) -> None:
    """Put the scores that came late into the walk they belong to."""
    late = list(scores.waiting)
    if not late:
        return
    for key, found in zip(("rewards", "valid"), scores.result(), strict=True):
        walk[key][:, late] = found[:, late].to(walk[key].device)


def _check(env: Any, prompts: int, group_size: int, plan: Plan, ranks: Ranks) -> None:
    task = env.unwrapped
    mode = getattr(task, "autoreset_mode", None)
    if mode is not AutoresetMode.DISABLED:
        raise ValueError(
            "collecting needs the batched environment with autoreset_mode='Disabled', got "
            f"{type(task).__name__} with {mode}"
        )
    if task.task.flat:
        raise ValueError("collecting needs structured observations, got a flat environment")
    share = ranks.part(prompts, "number of prompts")
    count = (share.stop - share.start) * group_size
    among = f" among {ranks.count} processes" if ranks.count > 1 else ""
    if group_size < 1 or prompts < 1 or count % task.num_envs:
        raise ValueError(
            f"{prompts} prompts times {group_size} clips{among} must be a positive multiple "
            f"of num_envs = {task.num_envs}"
        )
    if plan.shared and task.num_envs % group_size:
        raise ValueError(
            f"clips that share their way need whole groups in a batch: num_envs = {task.num_envs} "
            f"is no multiple of the group size {group_size}"
        )


def _seeds(
    count: int, group_size: int, plan: Plan, seed: int, iteration: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seeds (N,) of the initial latents and of the noise on the way."""
    words = np.random.SeedSequence([seed, iteration]).generate_state(2 * count, np.uint64)
    pairs = (words >> np.uint64(1)).astype(np.int64).reshape(count, 2)
    first = np.arange(count) // group_size * group_size
    initial = pairs[first, 0] if plan.shared else pairs[:, 0]
    return initial % NOISE_SEEDS, pairs[:, 1]


def _join(
    walks: list[dict[str, Any]],
    plan: Plan,
    policy: FlowPolicy,
    sigmas: Tensor,
    ids: np.ndarray,
    group_size: int,
    initial: np.ndarray,
    ranks: Ranks,
) -> Rollout:
    def joined(parts: Sequence[Tensor | None]) -> Any:
        known = [part for part in parts if part is not None]
        # One part is handed on as it is: latents of neighbouring steps share their memory.
        return None if not known else known[0] if len(known) == 1 else torch.cat(known)

    columns = zip(*(walk["kept"] for walk in walks), strict=True)
    kept = tuple(
        KeptStep(
            parts[0].index,
            ranks.gather(joined([part.row for part in parts])),
            joined([part.latent for part in parts]),
            joined([part.action for part in parts]),
            ranks.gather(joined([part.log_prob for part in parts])),
            joined([part.mean for part in parts]),
        )
        for parts in columns
    )
    return Rollout(
        plan,
        kept,
        sigmas,
        torch.from_numpy(ids),
        group_size,
        policy.config.guidance_scale,
        ranks.gather(joined([walk["rewards"] for walk in walks])),
        ranks.gather(joined([walk["valid"] for walk in walks])),
        initial,
        joined([walk["latents"] for walk in walks]),
        videos=joined([walk["videos"] for walk in walks]),
        ranks=ranks,
    )
