"""Measure a model on MovingShapes: gold axes of its clips, per split and per factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reelrl.envs.models.base import VideoModel
from reelrl.rewards.moving_shapes.gold import GoldAxes, gold_axes
from reelrl.rewards.moving_shapes.world import caption_to_factors
from reelrl.zoo.benchmark.truth import evaluation_captions
from reelrl.zoo.generate import generate

EVALUATION_SEED = 10_000_000
"""First seed of the fixed evaluation noise, away from the seeds people try by hand."""


@dataclass(frozen=True)
class ScoredClips:
    """Clips of one model and their gold scores.

    Attributes:
        videos: (N, F, H, W, 3).
        captions: N captions.
        scores: gold axes, (N,) each.
    """

    videos: Tensor
    captions: list[str]
    scores: GoldAxes

    @property
    def gold(self) -> float:
        """Mean GOLD."""
        return float(self.scores.gold.mean())

    def axes(self) -> dict[str, float]:
        """Means of GOLD and its three axes."""
        return {
            name: float(getattr(self.scores, name).mean())
            for name in ("gold", "align", "phys", "fid")
        }


def scored_clips(
    model: VideoModel,
    split: str,
    count: int,
    *,
    num_steps: int = 10,
    guidance_scale: float = 1.0,
) -> ScoredClips:
    """Gold of ``count`` clips of a split under fixed captions and noise, Euler ODE sampler."""
    prompts = evaluation_captions(split, count)
    seeds = [EVALUATION_SEED + i for i in range(count)]
    batches = generate(model, prompts, seeds, num_steps=num_steps, guidance_scale=guidance_scale)
    videos = torch.cat(list(batches))
    return ScoredClips(videos, prompts, gold_axes(videos, [caption_to_factors(p) for p in prompts]))
