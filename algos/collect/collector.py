"""Collecting: P prompts times G clips, with all that learning from them needs.

Noise is drawn from (seed, iteration, clip, step) alone, so a clip depends neither on the batch it
is made in nor on earlier draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from reelrl.algos.collect.plan import Plan, RolloutConfig, make_plan
from reelrl.algos.collect.rollout import KeptStep, Rollout, Transitions
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.policies.settings import DTYPES
from reelrl.algos.run.distributed import ALONE, Ranks
from reelrl.ambient import undisturbed
from reelrl.envs.protocol import DenoisingEnv, denoising_batch
from reelrl.envs.sampling import NOISE_SEEDS, step_noise
from reelrl.envs.scoring import Scores
from reelrl.envs.steps import Step

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8


@undisturbed
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
        TypeError: if the environment is not the batch of this library.
    """
    config = config or RolloutConfig()
    base = denoising_batch(env)
    policy.bind(env)
    plan = make_plan(config, policy.table.stochastic.tolist(), group_size, seed, iteration)
    check_batch(env, len(prompt_ids), group_size, plan, ranks)
    ids = np.repeat(np.asarray(prompt_ids, dtype=np.int64), group_size)
    initial, during = _seeds(len(ids), group_size, plan, seed, iteration)
    walks = []
    own = ranks.part(len(ids))
    for start in range(own.start, own.stop, base.num_envs):
        rows = slice(start, start + base.num_envs)
        # The limit counts clips of the whole rollout, and this batch begins at `start`.
        kept_videos = max(0, min(base.num_envs, config.keep_videos - start))
        walk = _Walk(env, policy, plan, group_size, config.keep_means, kept_videos)
        walks.append(walk.run(ids[rows], initial[rows], during[rows], start))
    # Only now: background rewards judge one batch of clips while the next is made.
    walks = [walk.with_late_scores() for walk in walks]
    rollout = _join(walks, plan, policy, base.sigmas, ids, group_size, initial, ranks)
    if not config.dense:
        return rollout
    return replace(rollout, extras={"ode_rewards": completion_rewards(env, policy, rollout)})


@undisturbed
def completion_rewards(
    env: Any, policy: FlowPolicy, rollout: Rollout
) -> Float[Tensor, "N levels K"]:
    """(N, T + 1, K) rewards of finishing each clip deterministically from each level.

    Between stochastic steps a completion is the same clip, so one per stochastic step is made; from
    after the last one on it is the finished clip itself.

    Raises:
        ValueError: for a rollout without stochastic steps.
    """
    base, transitions = denoising_batch(env), rollout.stochastic()
    own = rollout.rewards[rollout.ranks.part(len(rollout.rewards))]
    out = own[:, None].repeat(1, transitions.num_steps + 1, 1)
    after = 0
    for step in transitions.steps:
        # Clips that shared this step have one completion among them.
        share = len(own) // len(step.latent)
        scores = [
            _complete(base, policy, rollout, step, rows)
            for rows in torch.split(
                torch.arange(len(step.latent), dtype=torch.int64, device="cpu"), base.num_envs
            )
        ]
        values = torch.cat(scores).repeat_interleave(share, dim=0).to(out.device)
        # A deterministic step leads to the same completion, so earlier levels share its score.
        out[:, after : step.index + 1] = values[:, None]
        after = step.index + 1
    return rollout.ranks.gather(out)


def _complete(
    base: DenoisingEnv,
    policy: FlowPolicy,
    rollout: Rollout,
    step: KeptStep,
    rows: Int[Tensor, " B"],
) -> Float[Tensor, "B K"]:
    latent = step.latent[rows.to(step.latent.device)].float()
    transitions = rollout.stochastic()
    own = step.row[transitions.ranks.part(len(step.row))]
    ids, groups = rollout.prompt_ids[own[rows]], rollout.group_id[own[rows]]
    for t in range(step.index, transitions.num_steps):
        obs = {
            "latent": latent,
            "sigma": transitions.sigmas[t].float().expand(len(latent), 1),
            "prompt_id": ids[:, None],
            "guidance_scale": transitions.guidance_scale,
        }
        latent = _euler(policy, obs)
    return torch.as_tensor(
        base.score(latent if base.output == "torch" else latent.cpu().numpy(), ids, groups)
    )


def _euler(policy: FlowPolicy, obs: dict[str, Any]) -> Float[Tensor, "N C t h w"]:
    """The next latents of a deterministic step, rounded like the latents of a stochastic step."""
    latent: Tensor = policy.predict(obs, deterministic=True)
    return latent.to(DTYPES[policy.config.latent_dtype]).to(torch.float32)


@dataclass(frozen=True)
class _Batch:
    """One batch of finished clips.

    Attributes:
        kept: the stochastic steps, in order.
        latents: (B, C, T', H', W') finished.
        rewards: (B, K), ``nan`` where not valid or late.
        valid: (B, K) bool.
        videos: (V, F, H, W, 3) uint8 on the host, the first clips.
        scores: asked for the components that are late; None if a wrapper dropped the option, and
            the step waited for all.
    """

    kept: tuple[KeptStep, ...]
    latents: Float[Tensor, "B C t h w"]
    rewards: Float[Tensor, "B K"]
    valid: Bool[Tensor, "B K"]
    videos: UInt8[Tensor, "V F H W 3"]
    scores: Scores | None

    def with_late_scores(self) -> _Batch:
        """The batch with the scores of the components that worked in the background."""
        late = [] if self.scores is None else list(self.scores.waiting)
        if self.scores is None or not late:
            return self
        # The others keep their place: a wrapper may have made something else of them.
        rewards, valid = self.rewards.clone(), self.valid.clone()
        for known, found in zip((rewards, valid), self.scores.result(), strict=True):
            known[:, late] = found[:, late].to(known.device)
        return replace(self, rewards=rewards, valid=valid)


@dataclass(frozen=True)
class _Walk:
    """The way of one batch of the environment from noise to clip."""

    env: Any
    policy: FlowPolicy
    plan: Plan
    group_size: int
    keep_means: bool
    keep_videos: int

    def run(self, ids: np.ndarray, initial: np.ndarray, during: np.ndarray, start: int) -> _Batch:
        obs, _ = self.env.reset(
            options={
                "prompt_id": ids,
                "noise_seed": initial,
                "group_id": (start + np.arange(len(ids))) // self.group_size,
                "late_scores": True,
            }
        )
        torch_path = self.env.unwrapped.output == "torch"
        kept: list[KeptStep] = []
        pairs = zip(self.plan.blocks[:-1], self.plan.blocks[1:], strict=True)
        for t, (before, after) in enumerate(pairs):
            # Clips that are still in one place are denoised once: every ``before``-th is a node.
            nodes = {key: torch.as_tensor(value)[::before] for key, value in obs.items()}
            if t in self.plan.steps:
                rows = torch.arange(start, start + len(ids), after, dtype=torch.int64, device="cpu")
                step, action = self._draw(t, nodes, rows, during[::after], before // after)
                kept.append(step)
            else:
                action = _euler(self.policy, nodes)
                action = action.repeat_interleave(before // after, dim=0)
            action = action.repeat_interleave(after, dim=0) if after > 1 else action
            obs, reward, _, _, infos = self.env.step(action if torch_path else action.cpu().numpy())
        return _Batch(
            tuple(kept),
            torch.as_tensor(obs["latent"]),
            torch.as_tensor(infos.get("vector_reward", reward)),
            torch.as_tensor(infos["reward_valid"]),
            torch.as_tensor(infos["video"])[: self.keep_videos].cpu(),
            infos.get("scores"),
        )

    def _draw(
        self,
        t: int,
        nodes: dict[str, Tensor],
        rows: Int[Tensor, " B"],
        seeds: np.ndarray,
        children: int,
    ) -> tuple[KeptStep, Float[Tensor, "B C t h w"]]:
        """The stored data of every node's children, and the children."""
        step = self.policy.forward(nodes).step
        latent = nodes["latent"].to(step.mean.device)
        if children > 1:
            latent = latent.repeat_interleave(children, dim=0)
            # Each child draws its own noise around the mean of its node.
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
            # The policy did not round pure noise. It did round later latents, which lose nothing.
            latent if t == 0 else latent.to(dtype),
            action.to(dtype),
            self.policy.log_density(step, action),
            step.mean if self.keep_means else None,
        )
        return stored, action


def check_batch(env: Any, prompts: int, group_size: int, plan: Plan, ranks: Ranks) -> None:
    """Refuse an environment that an iteration's clips cannot be made in.

    Args:
        env: the native batch.
        prompts: P.
        group_size: G.
        plan: of the iteration.
        ranks: processes that share the clips.

    Raises:
        ValueError: names the numbers that do not fit.
    """
    base = denoising_batch(env)
    if base.autoreset_mode is not AutoresetMode.DISABLED:
        raise ValueError(
            "collecting needs the batched environment with autoreset_mode='Disabled', got "
            f"{type(base).__name__} with {base.autoreset_mode}"
        )
    if base.flat:
        raise ValueError("collecting needs structured observations, got a flat environment")
    share = ranks.part(prompts, "number of prompts")
    count = (share.stop - share.start) * group_size
    among = f" among {ranks.count} processes" if ranks.count > 1 else ""
    if group_size < 1 or prompts < 1 or count % base.num_envs:
        raise ValueError(
            f"{prompts} prompts times {group_size} clips{among} must be a positive multiple "
            f"of num_envs = {base.num_envs}"
        )
    check_whole_groups(base, group_size)
    if plan.shared and base.num_envs % group_size:
        raise ValueError(
            f"clips that share their way need whole groups in a batch: num_envs = {base.num_envs} "
            f"is no multiple of the group size {group_size}"
        )


def check_whole_groups(env: DenoisingEnv, group_size: int) -> None:
    """Refuse a batch that cuts groups, if a reward compares the clips of a group.

    Raises:
        ValueError: names the rewards.
    """
    count = getattr(env, "num_envs", 1)
    facts = env.reward_facts
    pairs = zip(facts.names, facts.groupwise, strict=False)
    comparing = [name for name, compares in pairs if compares]
    if comparing and count % group_size:
        raise ValueError(
            f"{', '.join(comparing)} compares the clips of a group, so a batch must hold whole "
            f"groups: num_envs = {count} is no multiple of the group size {group_size}"
        )


def _seeds(
    count: int, group_size: int, plan: Plan, seed: int, iteration: int
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Seeds (N,) of the initial latents and of the noise on the way."""
    # A pair of words per clip of all processes, so that no seed depends on their number.
    words = np.random.SeedSequence([seed, iteration]).generate_state(2 * count, np.uint64)
    pairs = (words >> np.uint64(1)).astype(np.int64).reshape(count, 2)
    # Members that share their way take the seed of the group's first clip.
    first = np.arange(count) // group_size * group_size
    initial = pairs[first, 0] if plan.shared else pairs[:, 0]
    return initial % NOISE_SEEDS, pairs[:, 1]


def _join(
    walks: Sequence[_Batch],
    plan: Plan,
    policy: FlowPolicy,
    sigmas: Float[Tensor, " levels"],
    ids: np.ndarray,
    group_size: int,
    initial: np.ndarray,
    ranks: Ranks,
) -> Rollout:
    def joined(parts: Sequence[Tensor]) -> Tensor:
        # One part is handed on as it is: latents of neighbouring steps share their memory.
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))

    def step(parts: Sequence[KeptStep]) -> KeptStep:
        means = [part.mean for part in parts if part.mean is not None]
        return KeptStep(
            parts[0].index,
            ranks.gather(joined([part.row for part in parts])),
            joined([part.latent for part in parts]),
            joined([part.action for part in parts]),
            ranks.gather(joined([part.log_prob for part in parts])),
            joined(means) if means else None,
        )

    prompt_ids = torch.from_numpy(ids)
    steps = tuple(step(parts) for parts in zip(*(walk.kept for walk in walks), strict=True))
    scale = policy.guidance_scale
    return Rollout(
        latents=joined([walk.latents for walk in walks]),
        prompt_ids=prompt_ids,
        group_size=group_size,
        noise_seeds=initial,
        rewards=ranks.gather(joined([walk.rewards for walk in walks])),
        valid=ranks.gather(joined([walk.valid for walk in walks])),
        transitions=Transitions(plan, steps, sigmas, prompt_ids, scale, ranks) if steps else None,
        videos=joined([walk.videos for walk in walks]),
        ranks=ranks,
    )
