"""The clips a judge learns from: drawn, mildly broken, and of the shipped video models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reelrl.envs.models.wan import WanVideoModel
from reelrl.rewards.moving_shapes import attacks, attacks_invented
from reelrl.rewards.moving_shapes.world import Clips, captions, sample_clips
from reelrl.zoo.generate import generate

MODELS = ("nano", "nano-early")
MODEL_SEED = 20_000_000
"""First noise seed of the model clips, away from every evaluation's."""


def mild_noise(clips: Clips, generator: torch.Generator) -> Tensor:
    """White noise of standard deviation 0 to 0.12, its own for each clip."""
    sigma = 0.12 * torch.rand(len(clips), 1, 1, 1, 1, generator=generator)
    noise = torch.randn(clips.videos.shape, generator=generator)
    return (clips.videos + sigma * noise).clamp(0, 1)


def brighter(clips: Clips, generator: torch.Generator) -> Tensor:
    """The whole clip up to 0.15 lighter or 0.05 darker."""
    offset = -0.05 + 0.2 * torch.rand(len(clips), 1, 1, 1, 1, generator=generator)
    return (clips.videos + offset).clamp(0, 1)


def softened(clips: Clips, generator: torch.Generator) -> Tensor:
    """A blend of the clip with its blur, a half to all of it."""
    share = 0.5 + 0.5 * torch.rand(len(clips), 1, 1, 1, 1, generator=generator)
    return torch.lerp(clips.videos, attacks.blur(clips, generator), share)


MILD: tuple[Callable[[Clips, torch.Generator], Tensor], ...] = (
    mild_noise,
    attacks.smooth_error_26db,
    softened,
    brighter,
    attacks.static,
    attacks.vanish,
    attacks_invented.pixel_jitter,
    attacks_invented.half_freeze,
    attacks_invented.half_transparent,
)
"""Corruptions that are trained on. None of the others of the world's table ever is: there the judge
is left to itself."""


@dataclass(frozen=True)
class ModelClips:
    """Clips of the shipped models, drawn once.

    Attributes:
        videos: (N, F, H, W, 3) uint8.
        captions: N train captions.
    """

    videos: Tensor
    captions: list[str]

    def pick(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """``count`` of them with replacement, as floats in [0, 1]."""
        rows = torch.randint(len(self.captions), (count,), generator=generator)
        return self.videos[rows].float() / 255, [self.captions[i] for i in rows.tolist()]


def model_clips(path: Path, per_model: int) -> ModelClips:
    """Clips of both shipped models under train captions; kept at ``path`` for the next start.

    10 Euler steps without guidance, as the benchmark's policies begin.
    """
    known = captions("train")
    prompts = [known[i % len(known)] for i in range(per_model)]
    if not path.exists():
        parts = []
        for place, name in enumerate(MODELS):
            model = WanVideoModel.from_pretrained(name)
            seeds = [MODEL_SEED + place * per_model + i for i in range(per_model)]
            parts += list(generate(model, prompts, seeds))
        videos = torch.cat(parts).clamp(0, 1).mul(255).round().to(torch.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({"videos": videos}, partial)
        partial.replace(path)
    return ModelClips(load_file(path)["videos"], prompts * len(MODELS))


def training_clips(
    count: int, stream: torch.Generator, models: ModelClips
) -> tuple[Tensor, list[str]]:
    """A batch: three eighths drawn, three eighths mildly broken, a quarter of the models.

    Args:
        count: clips, a multiple of 8.
        stream: generator of every choice.
        models: see :func:`model_clips`.
    """
    drawn, prompts = drawn_clips(count * 3 // 4, stream)
    made, more = models.pick(count - len(drawn), stream)
    return torch.cat([drawn, made]), prompts + more


def drawn_clips(
    count: int, stream: torch.Generator, split: str = "train"
) -> tuple[Tensor, list[str]]:
    """``count`` clips of the world and their captions; the second half is mildly broken."""
    drawn = sample_clips(count, stream, split)
    videos = drawn.videos.clone()
    half = count // 2
    parts = torch.randint(len(MILD), (count - half,), generator=stream)
    for place in sorted(set(parts.tolist())):
        rows = half + (parts == place).nonzero()[:, 0]
        videos[rows] = MILD[place](_take(drawn, rows), stream)
    return videos, drawn.captions


def _take(clips: Clips, rows: Tensor) -> Clips:
    names = [clips.captions[i] for i in rows.tolist()]
    return Clips(
        clips.videos[rows], names, clips.middle[rows], clips.velocity[rows], clips.radius[rows]
    )
