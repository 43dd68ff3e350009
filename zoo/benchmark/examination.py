"""What is measured in a run: every rollout, and a fixed examination now and then.

Names are those of the columns of the results. The known truth (gold) is measured beside whatever is
trained on, and never given to the learner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reelrl.algos.advantages import AdvantageOutput
from reelrl.algos.collect.rollout import Rollout
from reelrl.algos.metrics import to_floats
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.policies.weights import EMA, averaged
from reelrl.envs.scoring import RewardList
from reelrl.envs.steps import gaussian_kl
from reelrl.rewards.moving_shapes.gold import GoldAxes, gold_axes_of_prompts
from reelrl.rewards.moving_shapes.parser import parse
from reelrl.rewards.moving_shapes.world import COLOURS, DIRECTIONS, SHAPES, SPEEDS
from reelrl.zoo.benchmark.design import Examined
from reelrl.zoo.benchmark.drawn import drawn
from reelrl.zoo.shipped.nano.measurement import evaluation_captions, generate

SPLITS = {"seen": "train", "unseen": "compositional"}
"""Split of the results -> split of the world's captions."""
OPEN = "open"
"""The split of the empty prompt, which asks for anything: how much of the world is left."""
AXES = ("gold", "gold_align", "gold_phys", "gold_fid")
ZERO_ADVANTAGE = 1e-3
SAME_ADVANTAGE = 1e-6
CHUNK = 64


def axes_of(gold: GoldAxes) -> dict[str, Tensor]:
    """GOLD and its axes by column name, (N,) each."""
    return dict(zip(AXES, (gold.gold, gold.align, gold.phys, gold.fid), strict=True))


@dataclass(frozen=True)
class RolloutMeasures:
    """Measures every rollout before the update; the rollout must keep all of its clips.

    Attributes:
        every: iterations between two measurements of the divergence from the base model.
        last: iteration at which it is measured in any case.
    """

    every: int
    last: int

    def __call__(self, learner: Any, rollout: Rollout, output: AdvantageOutput) -> dict[str, float]:
        """The columns of one iteration, under ``watch/``.

        ``proxy`` is the weighted sum of the trained components. Correlations are pooled over
        groups, each centred on its own mean, because an advantage says nothing across groups.
        """
        assert rollout.videos is not None and len(rollout.videos) == len(rollout.rewards)
        prompts = [learner.env.unwrapped.prompts[i] for i in rollout.prompt_ids.tolist()]
        gold = axes_of(gold_axes_of_prompts(rollout.videos.float() / 255, prompts))
        size = rollout.group_size
        rewards = rollout.rewards.double().cpu()
        proxy = proxy_of(rewards, learner.facts.signs, learner.config.reward_weights)
        advantages = torch.as_tensor(output.advantages).double().cpu()
        advantages = advantages.flatten(2).mean(-1) if advantages.ndim > 2 else advantages
        groups = advantages.reshape(-1, size)
        numbers: dict[str, Tensor] = {name: axis.double().nanmean() for name, axis in gold.items()}
        numbers |= {
            "proxy": proxy.nanmean(),
            "within_std/proxy": within_std(proxy, size),
            "within_std/advantage": within_std(groups.flatten(), size),
            "corr_gold": correlation(groups, gold["gold"].double().reshape(-1, size)),
            "zero_advantage": (groups.abs() < ZERO_ADVANTAGE).double().mean(),
            "zero_std_groups": (groups.abs() < SAME_ADVANTAGE).all(dim=1).double().mean(),
            "collisions": collisions(rewards.reshape(-1, size, rewards.shape[1]), groups),
        }
        for k, name in enumerate(learner.names):
            column = rewards[:, k]
            numbers[f"within_std/{name}"] = within_std(column, size)
            numbers[f"corr/{name}"] = correlation(groups, column.reshape(-1, size))
        if learner.iteration % self.every == 0 or learner.iteration == self.last:
            numbers["kl"] = path_kl(learner.policy, rollout)
        return {f"watch/{name}": value for name, value in to_floats(numbers).items()}


@dataclass(frozen=True)
class FixedExamination:
    """Clips of fixed prompts and fixed noise, by the deterministic sampler.

    Attributes:
        settings: numbers of clips, interval and seed.
        rewards: the trained components.
        weights: K static weights, or None.
        num_steps: of the sampler, those of training.
        shift: of its schedule.
    """

    settings: Examined
    rewards: RewardList
    weights: tuple[float, ...] | None
    num_steps: int
    shift: float

    @property
    def every(self) -> int:
        """Iterations between two examinations."""
        return self.settings.every

    def metrics(self, policy: FlowPolicy, ema: EMA | None = None) -> dict[str, float]:
        """The columns of one examination, under ``eval/``."""
        numbers: dict[str, Tensor] = {}
        for split in SPLITS:
            videos, prompts = self.clips(policy, split, ema)
            values, _ = self.rewards(videos, prompts, [{}] * len(prompts))
            proxy = proxy_of(values, self.rewards.facts().signs, self.weights)
            scores = axes_of(gold_axes_of_prompts(videos, prompts))
            scores |= dict(zip(self.rewards.names, values.unbind(1), strict=True))
            numbers |= {f"{split}/{n}": v.double().nanmean() for n, v in scores.items()}
            numbers[f"{split}/proxy"] = proxy.nanmean()
            numbers[f"{split}/std_proxy"] = proxy.std()
            numbers[f"{split}/std_gold"] = scores["gold"].double().std()
        numbers |= {
            f"{OPEN}/{name}": value
            for name, value in diversity(self.clips(policy, OPEN, ema)[0]).items()
        }
        return {f"eval/{name}": value for name, value in to_floats(numbers).items()}

    def clips(
        self,
        policy: FlowPolicy,
        split: str,
        ema: EMA | None = None,
        *,
        first: int | None = None,
    ) -> tuple[Tensor, list[str]]:
        """Clips (N, F, H, W, 3) of a split and their prompts, or only the ``first`` of them."""
        seeds = self.settings.noise_seeds(split)
        count = len(seeds)
        prompts = [""] * count if split == OPEN else evaluation_captions(SPLITS[split], count)
        prompts, seeds = prompts[:first], seeds[:first]
        policy.experts.eval()
        sampler: dict[str, Any] = {
            "num_steps": self.num_steps,
            "shift": self.shift,
            "guidance_scale": 1.0 if split == OPEN else policy.guidance_scale,
        }

        def draw() -> Tensor:
            return torch.cat(list(generate(policy.model, prompts, list(seeds), **sampler)))

        with torch.no_grad(), averaged(ema):
            facts = (policy.model.name, policy.config.precision, prompts, seeds, sampler)
            return drawn(policy.experts, facts, draw), prompts


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
    noisy steps, and an upper bound on that of the latents after the last of them. It is none on
    that of the clips: the deterministic steps behind it are the policy's own, too.
    """
    transitions = rollout.stochastic()
    total = torch.zeros((), dtype=torch.float64)
    for index in torch.arange(transitions.num_items).split(CHUNK):
        obs = transitions.items(index).obs
        step = policy.forward(obs).step
        with policy.reference():
            reference = policy.forward(obs).step
        total = total + gaussian_kl(step, reference, "sum").sum().cpu()
    return total / (transitions.num_items / len(transitions.steps))


def diversity(videos: Tensor) -> dict[str, Tensor]:
    """How different clips (N, F, S, S, 3) are that were all asked for the same.

    ``coverage``: entropy of what the clips show over its largest value, mean of colour, shape,
    direction and speed (in the line of DivGenBench, arXiv 2512.24146). ``vendi``: Vendi score
    (Friedman and Dieng 2023) over the share of these factors that two clips have in common, over
    N. ``pairwise``: mean root mean square distance of two clips' pixels. A clip in which nothing
    is found shows a factor of its own kind.
    """
    factors, sizes = shown_factors(videos)
    count = len(videos)
    entropies = []
    for column, size in zip(factors.unbind(dim=1), sizes, strict=True):
        share = torch.bincount(column, minlength=size + 1)[:size].double() / count
        entropies.append(-torch.special.xlogy(share, share).sum() / math.log(size))
    alike = (factors[:, None] == factors[None]).double().mean(dim=-1)
    spectrum = torch.linalg.eigvalsh(alike / count).clamp_min(0)
    pixels = videos.flatten(1).double()
    distance = torch.cdist(pixels, pixels) / math.sqrt(pixels.shape[1])
    return {
        "coverage": torch.stack(entropies).mean(),
        "vendi": torch.exp(-torch.special.xlogy(spectrum, spectrum).sum()) / count,
        "pairwise": distance.sum() / (count * (count - 1)),
    }


def shown_factors(videos: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(N, 4) parsed colour, shape, direction and speed, and how many there are of each.

    A clip in which nothing is found has the index after the last one everywhere.
    """
    parsed = parse(videos)
    headings = torch.tensor(list(DIRECTIONS.values()), dtype=parsed.velocity.dtype)
    speeds = torch.tensor(list(SPEEDS.values()), dtype=parsed.velocity.dtype)
    pace = parsed.velocity.norm(dim=1)
    columns = (
        parsed.colour,
        parsed.shape,
        (parsed.velocity @ headings.T).argmax(dim=1),
        (pace[:, None] - speeds).abs().argmin(dim=1),
    )
    sizes = (len(COLOURS), len(SHAPES), len(DIRECTIONS), len(SPEEDS))
    found = [
        torch.where(parsed.found, column, size) for column, size in zip(columns, sizes, strict=True)
    ]
    return torch.stack(found, dim=1), sizes
