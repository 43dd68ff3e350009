"""Clips from a model: prompts and noise seeds in, videos out, by the deterministic sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reelrl.envs.models.base import VideoModel
from reelrl.envs.protocol import denoising_env
from reelrl.envs.sampling import euler_ode, initial_noise

CHUNK = 64
"""Largest number of clips in one forward pass."""
CHUNK_NUMBERS = 2**22
"""Largest count of latent numbers in one forward pass, unless a single clip has more."""


@dataclass(frozen=True)
class Sampler:
    """Euler steps from noise to clips of one size.

    Attributes:
        latent_shape: (C, T', H', W') of one clip.
        num_steps: denoising steps.
        shift: of the model's schedule; None means the model's own.
    """

    latent_shape: tuple[int, ...]
    num_steps: int
    shift: float | None

    @classmethod
    def of(cls, env: Any) -> Sampler:
        """The sampler with the size and the noise levels of an environment."""
        base = denoising_env(env)
        return cls(base.latent_shape, base.num_steps, base.shift)

    @torch.no_grad()
    def __call__(
        self,
        model: VideoModel,
        prompts: Sequence[str],
        seeds: Sequence[int],
        guidance_scale: float = 1.0,
    ) -> Iterator[Tensor]:
        """Draw one clip per prompt and seed; see :func:`generate`."""
        if len(prompts) != len(seeds):
            raise ValueError(f"expected one seed per prompt, got {len(prompts)} and {len(seeds)}")
        chunk = min(CHUNK, max(1, CHUNK_NUMBERS // math.prod(self.latent_shape)))
        for start in range(0, len(prompts), chunk):
            rows = slice(start, start + chunk)
            latent = euler_ode(
                model,
                model.encode(list(prompts[rows])),
                initial_noise(self.latent_shape, seeds[rows]),
                num_steps=self.num_steps,
                shift=self.shift,
                guidance_scale=guidance_scale,
            )
            yield model.decode(latent).cpu()


def generate(
    model: VideoModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    num_steps: int = 10,
    shift: float | None = None,
    guidance_scale: float = 1.0,
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
) -> Iterator[Tensor]:
    """Draw one clip per prompt and seed.

    The defaults are the environments' own: ten steps to a clip of 9 frames of 32x32 pixels.

    Args:
        model: draws.
        prompts: N texts.
        seeds: N seeds of the initial noise.
        num_steps: denoising steps.
        shift: of the model's schedule; None means the model's own.
        guidance_scale: classifier-free guidance; 1 is none.
        num_frames: F.
        height: H in pixels.
        width: W in pixels.

    Returns:
        Batches of clips (n, F, H, W, 3) in [0, 1] on the CPU, N clips in all and at most
        :data:`CHUNK` in a batch, each drawn when it is asked for.

    Raises:
        ValueError: for a size that the model cannot draw, or another number of seeds than prompts.
    """
    sampler = Sampler(model.latent_shape(num_frames, height, width), num_steps, shift)
    return sampler(model, prompts, seeds, guidance_scale)
