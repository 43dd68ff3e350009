"""Measure a model on MovingShapes: gold axes of its clips, per split and per factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reelrl.envs.models.base import VideoModel
from reelrl.envs.sampling import euler_ode, initial_noise
from reelrl.rewards.moving_shapes.gold import GoldAxes, gold_axes
from reelrl.rewards.moving_shapes.world import (
    NUM_FRAMES,
    SIZE,
    caption_to_factors,
    captions,
)

CHUNK = 64
"""Clips per forward pass."""
EVALUATION_SEED = 10_000_000
"""First seed of the fixed evaluation noise, away from the seeds people try by hand."""


@dataclass(frozen=True)
class Evaluation:
    """Clips of one model and what the gold score says of them.

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


def evaluation_captions(split: str, count: int) -> list[str]:
    """``count`` captions of a split, each as often as the others, in a fixed shuffled order."""
    known = captions(split)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0)).tolist()
    return [known[order[i % len(known)]] for i in range(count)]


def generate(
    model: VideoModel,
    prompts: list[str],
    seeds: list[int],
    *,
    num_steps: int = 10,
    shift: float | None = None,
    guidance_scale: float = 1.0,
) -> Iterator[Tensor]:
    """Clips (at most :data:`CHUNK` at a time, F, H, W, 3) for prompts and noise seeds."""
    shape = model.latent_shape(NUM_FRAMES, SIZE, SIZE)
    for start in range(0, len(prompts), CHUNK):
        rows = slice(start, start + CHUNK)
        latent = euler_ode(
            model,
            model.encode(prompts[rows]),
            initial_noise(shape, seeds[rows]),
            num_steps=num_steps,
            shift=shift,
            guidance_scale=guidance_scale,
        )
        with torch.no_grad():
            clips = model.decode(latent).cpu()
        yield clips


def evaluate(
    model: VideoModel,
    split: str,
    count: int,
    *,
    num_steps: int = 10,
    guidance_scale: float = 1.0,
) -> Evaluation:
    """Gold of ``count`` clips of a split under fixed captions and noise, Euler ODE sampler."""
    prompts = evaluation_captions(split, count)
    seeds = [EVALUATION_SEED + i for i in range(count)]
    batches = generate(model, prompts, seeds, num_steps=num_steps, guidance_scale=guidance_scale)
    videos = torch.cat(list(batches))
    return Evaluation(videos, prompts, gold_axes(videos, [caption_to_factors(p) for p in prompts]))
