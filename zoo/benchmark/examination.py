"""A fixed examination of a policy now and then, for the ``eval/`` columns.

The truth is measured beside whatever is trained on, and never given to the learner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reelrl.algos.metrics import to_floats
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.policies.weights import EMA, averaged
from reelrl.envs.scoring import RewardList
from reelrl.zoo.benchmark.columns import EXAMINED, OPEN, SPLITS
from reelrl.zoo.benchmark.design import ExaminationConfig
from reelrl.zoo.benchmark.drawn import drawn
from reelrl.zoo.benchmark.truth import Factors, Truth, repeated
from reelrl.zoo.benchmark.watch import proxy_of
from reelrl.zoo.generate import Sampler


@dataclass(frozen=True)
class FixedExamination:
    """Clips of fixed prompts and fixed noise, by the deterministic sampler.

    Attributes:
        settings: numbers of clips, interval and seed.
        truth: names the prompts and scores the clips.
        rewards: the trained components.
        weights: K static weights, or None.
        sampler: with the steps, noise levels and size of training.
    """

    settings: ExaminationConfig
    truth: Truth
    rewards: RewardList
    weights: tuple[float, ...] | None
    sampler: Sampler

    @property
    def every(self) -> int:
        """Iterations between two examinations."""
        return self.settings.every

    @property
    def splits(self) -> list[str]:
        """Splits that the truth has prompts for."""
        return [split for split in SPLITS if self.truth.prompts(split)]

    def metrics(self, policy: FlowPolicy, ema: EMA | None = None) -> dict[str, float]:
        """The columns of one examination, under ``eval/``."""
        numbers: dict[str, Tensor] = {}
        score = self.truth.axes[0]
        for split in self.splits:
            videos, prompts = self.clips(policy, split, ema)
            values, _ = self.rewards(videos, prompts, [{}] * len(prompts))
            proxy = proxy_of(values, self.rewards.facts().signs, self.weights)
            scores = dict(self.truth(videos, prompts))
            std = scores[score].double().std()
            scores |= dict(zip(self.rewards.names, values.unbind(1), strict=True))
            numbers |= {f"{split}/{n}": v.double().nanmean() for n, v in scores.items()}
            numbers[f"{split}/proxy"] = proxy.nanmean()
            numbers[f"{split}/std_proxy"] = proxy.std()
            numbers[f"{split}/std_{score}"] = std
        shown, _ = self.clips(policy, OPEN, ema)
        various = diversity(shown, self.truth.factors(shown))
        numbers |= {f"{OPEN}/{name}": value for name, value in various.items()}
        return {f"{EXAMINED}{name}": value for name, value in to_floats(numbers).items()}

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
        prompts = repeated([""] if split == OPEN else self.truth.prompts(split), count)
        prompts, seeds = prompts[:first], seeds[:first]
        policy.experts.eval()
        guidance = 1.0 if split == OPEN else policy.guidance_scale

        def draw() -> Tensor:
            return torch.cat(list(self.sampler(policy.model, prompts, seeds, guidance)))

        with torch.no_grad(), averaged(ema):
            facts = (
                policy.model.name,
                policy.config.precision,
                prompts,
                seeds,
                self.sampler,
                guidance,
            )
            return drawn(policy.experts, facts, draw), prompts


def diversity(videos: Tensor, factors: Factors | None) -> dict[str, Tensor]:
    """How different clips are that were all asked for the same.

    ``coverage``: entropy of the factors that the clips show over its largest value, mean of colour,
    shape, direction and speed (in the line of DivGenBench, arXiv 2512.24146). ``vendi``: Vendi
    score (Friedman and Dieng 2023) over the share of these factors that two clips have in common,
    over N. ``pairwise``: mean root mean square distance of two clips' pixels.

    Args:
        videos: (N, F, H, W, 3).
        factors: of :meth:`~reelrl.zoo.benchmark.truth.Truth.factors`; a value that cannot be read
            counts as one more value in the Vendi score. None leaves coverage and Vendi score out.
    """
    count = len(videos)
    pixels = videos.flatten(1).double()
    distance = torch.cdist(pixels, pixels) / math.sqrt(pixels.shape[1])
    pairwise = {"pairwise": distance.sum() / (count * (count - 1))}
    return pairwise if factors is None else {**_variety(*factors), **pairwise}


def _variety(factors: Tensor, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Coverage and Vendi score of N clips' factors (N, F)."""
    count = len(factors)
    entropies = []
    for column, size in zip(factors.unbind(dim=1), sizes, strict=True):
        share = torch.bincount(column, minlength=size + 1)[:size].double() / count
        entropies.append(-torch.special.xlogy(share, share).sum() / math.log(size))
    alike = (factors[:, None] == factors[None]).double().mean(dim=-1)
    spectrum = torch.linalg.eigvalsh(alike / count).clamp_min(0)
    return {
        "coverage": torch.stack(entropies).mean(),
        "vendi": torch.exp(-torch.special.xlogy(spectrum, spectrum).sum()) / count,
    }
