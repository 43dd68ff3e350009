"""Deterministic generation: seeded initial noise and the Euler solution of the flow to a clip."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reelrl.envs.models.base import VideoModel

if TYPE_CHECKING:
    from jaxtyping import Float

NOISE_SEEDS = 2**32
"""How many noise seeds there are: torch's CPU generator reads the low 32 bits of a seed only."""


def initial_noise(shape: Sequence[int], seeds: Sequence[int]) -> Float[Tensor, " N *shape"]:
    """Standard normal latents (N, *shape), row i from seed i alone, always drawn on the CPU.

    Row i therefore depends neither on the batch it is drawn in nor on the device it moves to.

    Raises:
        ValueError: for a seed that is not below :data:`NOISE_SEEDS`: another has the same noise.
    """
    for seed in seeds:
        if not 0 <= seed < NOISE_SEEDS:
            raise ValueError(f"a noise seed must be in [0, {NOISE_SEEDS}), got {seed}")
    rows = [
        torch.randn(
            *shape,
            generator=torch.Generator("cpu").manual_seed(seed),
            # Written out: under another default the same seed would be another clip.
            dtype=torch.float32,
            device="cpu",
        )
        for seed in seeds
    ]
    return torch.stack(rows)


def step_noise(
    shape: Sequence[int], seeds: Sequence[int], steps: Sequence[int]
) -> Float[Tensor, " N *shape"]:
    """Standard normal latents (N, *shape), row i from seed i and step i alone.

    No generator has to be carried from step to step, so noise survives resets in any order.
    """
    streams = [np.random.SeedSequence(pair) for pair in zip(seeds, steps, strict=True)]
    return initial_noise(shape, [int(s.generate_state(1)[0]) for s in streams])


@torch.no_grad()
def euler_ode(
    model: VideoModel,
    embedding: Float[Tensor, "N ..."],
    noise: Float[Tensor, "N C t h w"],
    *,
    num_steps: int = 10,
    shift: float | None = None,
    guidance_scale: float = 1.0,
) -> Float[Tensor, "N C t h w"]:
    r"""Solve :math:`dx = v\,d\sigma` from noise to a clip with Euler steps.

    Args:
        model: predicts the velocity.
        embedding: (N, ...) from :meth:`VideoModel.encode`.
        noise: (N, C, T', H', W') latents at sigma 1.
        num_steps: number of steps.
        shift: of :meth:`VideoModel.schedule`; None means the model's own.
        guidance_scale: of :meth:`VideoModel.guided`.

    Returns:
        (N, C, T', H', W') latents at sigma 0.
    """
    shift = model.default_shift if shift is None else shift
    sigmas = model.schedule(num_steps, shift, noise.shape[1:])
    latent = noise.to(embedding.device)
    for current, following in pairwise(sigmas.tolist()):
        level = torch.full((len(latent),), current, dtype=torch.float32, device=latent.device)
        velocity = model.guided(latent, level, embedding, guidance_scale)
        latent = latent + velocity * (following - current)
    return latent
