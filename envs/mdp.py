r"""The denoising MDP as pure functions of a batched state; both environments are faces over them.

An episode walks down the noise levels :math:`\sigma_0 = 1 > \dots > \sigma_T = 0`. The state is the
latent at the current level, the action the latent at the next one, so the transition is the action
itself: how a latent is denoised belongs to whoever acts (the MDP of Black et al. 2024, with the
sampler moved out of the dynamics). After T actions the latent is the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelrl.envs.sampling import initial_noise
from reelrl.envs.steps import rows_like

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class State:
    """Where N episodes are.

    The host's own decisions (the step and the prompt of an episode) stay on the host, so that no
    step has to ask the device for it.

    Attributes:
        latent: (N, C, T', H', W') float32 on the model's device.
        finite: (N,) bool on the same device; False once an action of this episode was not finite.
        step: (N,) int64, actions taken so far.
        prompt_id: (N,) int64, row in the list of prompts.
        group_id: (N,) int64, episodes of one number are compared with each other.
        noise_seed: (N,) int64, seed of the initial latent.
        step_seed: (N,) int64, seed for the noise of an environment-side stochastic step.
    """

    latent: Float[Tensor, "N C t h w"]
    finite: Bool[Tensor, " N"]
    step: Int[NDArray[np.int64], " N"]
    prompt_id: Int[NDArray[np.int64], " N"]
    group_id: Int[NDArray[np.int64], " N"]
    noise_seed: Int[NDArray[np.int64], " N"]
    step_seed: Int[NDArray[np.int64], " N"]


def initial(
    shape: Sequence[int],
    prompt_id: Int[NDArray[np.int64], " N"],
    noise_seed: Int[NDArray[np.int64], " N"],
    step_seed: Int[NDArray[np.int64], " N"],
    device: torch.device,
    group_id: Int[NDArray[np.int64], " N"] | None = None,
) -> State:
    """N episodes at pure noise, row i drawn from ``noise_seed[i]`` alone.

    Args:
        shape: (C, T', H', W').
        prompt_id: (N,).
        noise_seed: (N,).
        step_seed: (N,).
        device: where the latents go; they are drawn on the CPU.
        group_id: (N,); None means that episodes of one prompt are one group.
    """
    latent = initial_noise(shape, noise_seed.tolist()).to(device)
    finite = torch.ones(len(latent), dtype=torch.bool, device=device)
    step = np.zeros(len(latent), dtype=np.int64)
    group_id = prompt_id if group_id is None else group_id
    return State(latent, finite, step, prompt_id, group_id, noise_seed, step_seed)


def transition(
    state: State,
    action: Float[Tensor, "N C t h w"],
    moved: Bool[NDArray[np.bool_], " N"] | None = None,
) -> State:
    """The state after an action: the action is the next latent.

    Args:
        state: N episodes.
        action: (N, C, T', H', W') float32 on the state's device.
        moved: (N,) rows that act; the others stay as they are. ``None`` is all, without a copy.
    """
    finite = state.finite & action.isfinite().flatten(1).all(dim=1)
    if moved is None or moved.all():
        return replace(state, latent=action, finite=finite, step=state.step + 1)
    rows = torch.from_numpy(moved).to(action.device)
    latent = torch.where(rows_like(rows, action), action, state.latent)
    finite = torch.where(rows, finite, state.finite)
    return replace(state, latent=latent, finite=finite, step=state.step + moved)


def restarted(state: State, rows: Int[NDArray[np.int64], " R"], fresh: State) -> State:
    """``state`` with the episodes ``rows`` replaced by the episodes of ``fresh``, in order."""
    if len(rows) == len(state.step):
        return fresh
    index = torch.from_numpy(rows).to(state.latent.device)

    def put(old: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
        merged = old.copy()
        merged[rows] = new
        return merged

    return State(
        state.latent.index_copy(0, index, fresh.latent),
        state.finite.index_copy(0, index, fresh.finite),
        put(state.step, fresh.step),
        put(state.prompt_id, fresh.prompt_id),
        put(state.group_id, fresh.group_id),
        put(state.noise_seed, fresh.noise_seed),
        put(state.step_seed, fresh.step_seed),
    )


def terminal(state: State, num_steps: int) -> Bool[NDArray[np.bool_], " N"]:
    """(N,) True where all ``num_steps`` actions are taken: the latent is a clip."""
    return state.step >= num_steps


def observation(
    state: State, sigmas: Float[Tensor, " levels"], embeddings: Float[Tensor, "P ..."] | None = None
) -> dict[str, Tensor]:
    """The agent's observation of N episodes; the latent is the state's own, not a copy.

    Args:
        state: N episodes.
        sigmas: (T + 1,) float32 noise levels on the state's device.
        embeddings: (P, ...) of the prompts, if they are part of the observation.

    Returns:
        ``latent`` (N, C, T', H', W'), ``sigma`` (N, 1), ``prompt_id`` (N, 1) and, if embeddings are
        given, ``prompt_embedding`` (N, ...).
    """
    device = state.latent.device
    prompt_id = torch.from_numpy(state.prompt_id.copy()).to(device)
    step = torch.from_numpy(state.step).to(device)
    seen = {
        "latent": state.latent,
        "sigma": sigmas[step][:, None],
        "prompt_id": prompt_id[:, None],
    }
    if embeddings is not None:
        seen["prompt_embedding"] = embeddings[prompt_id]
    return seen
