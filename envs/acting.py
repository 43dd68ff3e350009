"""Acting without being a generator: the next latent from a velocity, or from two controls.

The stochastic denoising step is taken inside the environment then. Its noise belongs to the
episode: it follows from the environment's seed and the step, and not from the batch or the device.
Two episodes of one noise seed start alike and still go different ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from reelrl.envs import kernels, mdp, steps
from reelrl.envs.sampling import step_noise
from reelrl.envs.spaces import UniformBox
from reelrl.envs.steps import rows_like
from reelrl.envs.task import ACTION_BOUND, Task

if TYPE_CHECKING:
    from jaxtyping import Float


def guided_kernel(name: str, noise_range: Sequence[float]) -> kernels.StepKernel:
    """A kernel with a noise level, set to the highest of ``noise_range``.

    Raises:
        ValueError: for a kernel without ``eta``, or a level it does not take.
    """
    if name in kernels.KERNELS and not hasattr(kernels.KERNELS[name], "eta"):
        known = [key for key, kind in kernels.KERNELS.items() if hasattr(kind, "eta")]
        raise ValueError(f"kernel {name!r} has no noise level; take one of {', '.join(known)}")
    for eta in noise_range:
        kernel = kernels.make_kernel(name, eta=float(eta))
    return kernel


def velocity_space(task: Task) -> UniformBox:
    """The space of velocities, equal to the space of latents."""
    return UniformBox(-ACTION_BOUND, ACTION_BOUND, task.action_space.shape)


def guidance_space(guidance_range: Sequence[float], noise_range: Sequence[float]) -> Box:
    """(2,) box of guidance scales and noise levels.

    Raises:
        ValueError: for a range that is empty.
    """
    for name, bounds in (("guidance_range", guidance_range), ("noise_range", noise_range)):
        try:
            low, high = (float(bound) for bound in bounds)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be two numbers, got {bounds!r}") from error
        if not low < high:
            raise ValueError(f"{name} must be (low, high) with low < high, got ({low}, {high})")
    low, high = np.array([guidance_range, noise_range], dtype=np.float32).T
    return Box(low, high, dtype=np.float32)


def read_controls(action: Any, space: Any, device: torch.device) -> Float[Tensor, "... 2"]:
    """Actions (..., 2) within the space's bounds, on the device; ``nan`` stays.

    Raises:
        ValueError: for another shape, or a value that is no number.
    """
    if not isinstance(action, Tensor):
        action = np.asarray(action)
        if action.dtype.kind not in "fiu":
            raise ValueError(f"actions must be numbers, got {action.dtype}")
        action = torch.from_numpy(action.astype(np.float32))
    tensor: Tensor = action.detach().to(device, torch.float32)
    if tuple(tensor.shape) != space.shape:
        raise ValueError(f"actions must have shape {space.shape}, got {tuple(tensor.shape)}")
    low, high = (torch.from_numpy(bound.copy()).to(device) for bound in (space.low, space.high))
    return tensor.clamp(low, high)


def by_velocity(
    task: Task, state: mdp.State, kernel: kernels.StepKernel, action: Any, batch: tuple[int, ...]
) -> tuple[Any, Float[Tensor, "N C t h w"]]:
    """Next latents as the environment takes them, and clean-clip estimates."""
    velocity = task.read_actions(action, batch)
    return _advance(task, state, kernel, velocity)


@torch.no_grad()
def by_guidance(
    task: Task, state: mdp.State, kernel: kernels.StepKernel, controls: Float[Tensor, "N 2"]
) -> tuple[Any, Float[Tensor, "N C t h w"]]:
    """The same from (N, 2) guidance scales and noise levels; ``nan`` where a control is."""
    scale, eta = controls.unbind(dim=1)
    step = torch.from_numpy(np.minimum(state.step, task.num_steps - 1)).to(task.device)
    prompt_id = torch.from_numpy(state.prompt_id).to(task.device)
    velocity = task.model.guided(
        state.latent,
        task.sigmas_seen[step],
        task.embeddings[prompt_id],
        scale,
        task.empty_embedding,
    )
    # A NaN control must make the latent NaN, so that the environment refuses it: the last step is
    # deterministic and ignores its noise level.
    spoiled = controls.isnan().any(dim=1)
    velocity = torch.where(rows_like(spoiled, velocity), torch.nan, velocity)
    # Every kernel that has a noise level is a dataclass with eta; the base class promises neither.
    return _advance(task, state, replace(kernel, eta=eta.double()), velocity)  # type: ignore[type-var]


def _advance(
    task: Task, state: mdp.State, kernel: kernels.StepKernel, velocity: Float[Tensor, "N C t h w"]
) -> tuple[Any, Float[Tensor, "N C t h w"]]:
    """One stochastic step. Finished rows are stepped from the last level; nobody looks at them."""
    index = np.minimum(state.step, task.num_steps - 1)
    sigmas = task.sigmas.to(task.device)
    rows = torch.from_numpy(index).to(task.device)
    coefficients = kernel.coefficients(sigmas[rows], sigmas[rows + 1], sigmas[1])
    step = steps.advance(coefficients, state.latent, velocity)
    noise = step_noise(task.latent_shape, state.step_seed.tolist(), index.tolist())
    latent = steps.sample(step, noise.to(task.device))
    level = rows_like(sigmas[rows].to(latent.dtype), velocity)
    shaped = latent.reshape(len(latent), *task.action_space.shape)
    return task.export(shaped), state.latent - level * velocity
