"""Deterministic generation: seeded initial noise and the Euler solution of the flow to a clip."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from reelrl.envs.models.base import VideoModel
from reelrl.envs.schedule import sigma_schedule

NOISE_SEEDS = 2**32
"""How many noise seeds there are: torch's CPU generator reads the low 32 bits of a seed only."""


def initial_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal latents (N, *shape), row i from seed i alone, always drawn on the CPU.

    Row i therefore depends neither on the batch it is drawn in nor on the device it moves to.

    Raises:
        ValueError: for a seed that is not below :data:`NOISE_SEEDS`: another has the same noise.
    """
    for seed in seeds:
        if not 0 <= seed < NOISE_SEEDS:
            raise ValueError(f"a noise seed must be in [0, {NOISE_SEEDS}), got {seed}")
    rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def step_noise(shape: Sequence[int], seeds: Sequence[int], steps: Sequence[int]) -> Tensor:
    """Standard normal latents (N, *shape), row i from seed i and step i alone.

    No generator has to be carried from step to step, so noise survives resets in any order.
    """
    streams = [np.random.SeedSequence(pair) for pair in zip(seeds, steps, strict=True)]
    return initial_noise(shape, [int(s.generate_state(1)[0]) for s in streams])


def guided_velocity(
    model: VideoModel,
    latent: Tensor,
    sigma: Tensor,
    embedding: Tensor,
    guidance_scale: float | Tensor,
    empty: Tensor | None = None,
) -> Tensor:
    """Velocity with classifier-free guidance (Ho and Salimans 2022), both branches in one forward.

    Carries gradients where they are enabled.

    Args:
        model: the model.
        latent: (N, C, T', H', W').
        sigma: (N,).
        embedding: (N, L, D).
        guidance_scale: one for all, where 1 is no guidance and costs one branch, or (N,).
        empty: (1, L, D) embedding of the empty prompt; encoded here if not given.
    """
    if isinstance(guidance_scale, Tensor):
        guidance_scale = guidance_scale.to(latent).view(-1, 1, 1, 1, 1)
    elif guidance_scale == 1:
        return model.velocity(latent, sigma, embedding)
    empty = (model.encode([""]) if empty is None else empty).expand_as(embedding)
    both = model.velocity(
        latent.repeat(2, 1, 1, 1, 1), sigma.repeat(2), torch.cat([embedding, empty])
    )
    conditional, unconditional = both.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


@torch.no_grad()
def euler_ode(
    model: VideoModel,
    embedding: Tensor,
    noise: Tensor,
    *,
    num_steps: int = 10,
    shift: float = 3.0,
    guidance_scale: float = 1.0,
) -> Tensor:
    r"""Solve :math:`dx = v\,d\sigma` from noise to a clip with Euler steps.

    Args:
        model: predicts the velocity.
        embedding: (N, L, D) from :meth:`VideoModel.encode`.
        noise: (N, C, T', H', W') latents at sigma 1.
        num_steps: number of steps.
        shift: of :func:`sigma_schedule`.
        guidance_scale: of :func:`guided_velocity`.

    Returns:
        (N, C, T', H', W') latents at sigma 0.
    """
    sigmas = sigma_schedule(num_steps, shift)
    latent = noise.to(embedding.device)
    for current, following in pairwise(sigmas.tolist()):
        level = torch.full((len(latent),), current, device=latent.device)
        velocity = guided_velocity(model, latent, level, embedding, guidance_scale)
        latent = latent + velocity * (following - current)
    return latent
