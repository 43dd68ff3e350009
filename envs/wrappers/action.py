r"""Other actions than the next latent, for agents that are not generators themselves.

Both wrappers take the stochastic denoising step inside the environment. Its noise belongs to the
episode: it follows from the environment's seed and the step alone, not from the batch or the
device. Two episodes of one noise seed start alike and still go different ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import Tensor

from reelrl.envs import kernels, mdp, steps
from reelrl.envs.sampling import step_noise
from reelrl.envs.spaces import UniformBox
from reelrl.envs.steps import rows_like
from reelrl.envs.task import ACTION_BOUND, Task
from reelrl.envs.wrappers.reward import base_of, chain_of, expect_batch, expect_single

if TYPE_CHECKING:
    from jaxtyping import Float


class VelocityAction(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The action is the model's output, the velocity ``noise - clip`` at the current latent.

    The environment moves the latent along it by a step kernel. Renders the clean-clip estimate
    ``latent - sigma * velocity``. The twin is :class:`VectorVelocityAction`.

    Example:
        >>> import gymnasium as gym
        >>> from reelrl.envs.wrappers import VelocityAction
        >>> env = VelocityAction(gym.make("reelrl:reelrl/MovingShapes-v0"), "flow_sde", eta=0.5)
        >>> observation, _ = env.reset(seed=0)
        >>> env.action_space.shape == observation["latent"].shape
        True

    Args:
        env: the environment, its actions latents.
        kernel: name of a step kernel of :mod:`reelrl.envs.kernels`.
        **config: its settings, such as ``eta``.

    Raises:
        ValueError: for an unknown kernel or setting, or an environment whose actions are no latents
            (see :func:`takes_latents`).
        TypeError: if the base environment is not ours.
    """

    def __init__(self, env: gym.Env[Any, Any], kernel: str = "flow_sde", **config: Any) -> None:
        expect_single(self, env)
        takes_latents(env)
        RecordConstructorArgs.__init__(self, kernel=kernel, **config)
        gym.Wrapper.__init__(self, env)
        self.kernel = kernels.make_kernel(kernel, **config)
        self.action_space = _velocity_space(base_of(env).task)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step along the velocity ``action`` (C, T', H', W')."""
        base = base_of(self.env)
        latent, estimate = _by_velocity(base.task, base.state, self.kernel, action, ())
        result = self.env.step(latent[0])
        base.clean_estimate = estimate
        return result


class VectorVelocityAction(VectorWrapper):
    """:class:`VelocityAction` for the batch."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], kernel: str = "flow_sde", **config: Any
    ) -> None:
        expect_batch(self, env)
        takes_latents(env)
        super().__init__(env)
        self.kernel = kernels.make_kernel(kernel, **config)
        self.single_action_space = _velocity_space(base_of(env).task)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step along the velocities ``actions`` (N, C, T', H', W')."""
        base = base_of(self.env)
        batch = (self.num_envs,)
        latent, estimate = _by_velocity(base.task, base.state, self.kernel, actions, batch)
        result = self.env.step(latent)
        base.clean_estimate = estimate
        return result


class GuidanceAction(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The action is how the model denoises: guidance scale and noise level of the next step.

    The video model itself, frozen, makes the velocity, so an ordinary small agent has something to
    learn: when to follow the prompt and when to explore. Loads the model's transformer and text
    encoder. The twin is :class:`VectorGuidanceAction`.

    The action space is ``Box([g_low, eta_low], [g_high, eta_high], (2,))``; entries outside are
    clipped. For an agent that likes [-1, 1] put ``gymnasium.wrappers.RescaleAction`` around.

    Example:
        >>> import gymnasium as gym
        >>> from reelrl.envs.wrappers import GuidanceAction, ScalarReward
        >>> env = gym.make("reelrl:reelrl/MovingShapesFlat-v0", num_steps=3)
        >>> env = ScalarReward(GuidanceAction(env))
        >>> env.observation_space.shape, env.action_space
        ((2562,), Box([1. 0.], [8. 1.], (2,), float32))

    Args:
        env: the environment, its actions latents.
        kernel: name of a step kernel with a noise level ``eta``.
        guidance_range: lowest and highest scale of classifier-free guidance; 1 is none.
        noise_range: lowest and highest ``eta``; 0 is the deterministic step.

    Raises:
        ValueError: for an unknown kernel, one without ``eta``, an empty range, or an environment
            whose actions are no latents (see :func:`takes_latents`).
        TypeError: if the base environment is not ours.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        kernel: str = "flow_sde",
        guidance_range: Sequence[float] = (1.0, 8.0),
        noise_range: Sequence[float] = (0.0, 1.0),
    ) -> None:
        expect_single(self, env)
        takes_latents(env)
        RecordConstructorArgs.__init__(
            self,
            kernel=kernel,
            guidance_range=[float(scale) for scale in guidance_range],
            noise_range=[float(eta) for eta in noise_range],
        )
        gym.Wrapper.__init__(self, env)
        self.kernel = guided_kernel(kernel, noise_range)
        self.action_space = _guidance_space(guidance_range, noise_range)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Denoise with ``action`` = (guidance scale, noise level)."""
        base = base_of(self.env)
        controls = _read_controls(action, self.action_space, base.task.device)
        latent, estimate = _by_guidance(base.task, base.state, self.kernel, controls[None])
        result = self.env.step(latent[0])
        base.clean_estimate = estimate
        return result


class VectorGuidanceAction(VectorWrapper):
    """:class:`GuidanceAction` for the batch: one forward pass for all sub-environments."""

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        kernel: str = "flow_sde",
        guidance_range: Sequence[float] = (1.0, 8.0),
        noise_range: Sequence[float] = (0.0, 1.0),
    ) -> None:
        expect_batch(self, env)
        takes_latents(env)
        super().__init__(env)
        self.kernel = guided_kernel(kernel, noise_range)
        self.single_action_space = _guidance_space(guidance_range, noise_range)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Denoise with ``actions`` (N, 2): guidance scales and noise levels."""
        base = base_of(self.env)
        controls = _read_controls(actions, self.action_space, base.task.device)
        latent, estimate = _by_guidance(base.task, base.state, self.kernel, controls)
        result = self.env.step(latent)
        base.clean_estimate = estimate
        return result


ACTION_WRAPPERS = (VelocityAction, VectorVelocityAction, GuidanceAction, VectorGuidanceAction)


def takes_latents(env: Any) -> None:
    """Refuse an environment that would take a latent for something else, and denoise from that.

    Args:
        env: single or batched environment, wrapped or not.

    Raises:
        ValueError: if an action wrapper, ours or another that changes the space, lies in between.
        TypeError: if the base environment is not ours.
    """
    base: Any = base_of(env)
    expected = base.action_space
    for wrapper in chain_of(env)[:-1]:
        # A velocity's space is that of a latent, so the space alone does not tell them apart.
        if isinstance(wrapper, ACTION_WRAPPERS) or wrapper.action_space != expected:
            raise ValueError(
                f"expected an environment whose actions are latents, {expected}, got "
                f"{type(wrapper).__name__} with {wrapper.action_space}"
            )


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


def _velocity_space(task: Task) -> UniformBox:
    return UniformBox(-ACTION_BOUND, ACTION_BOUND, task.action_space.shape)


def _guidance_space(guidance_range: Sequence[float], noise_range: Sequence[float]) -> Box:
    for name, (low, high) in (("guidance_range", guidance_range), ("noise_range", noise_range)):
        if not low < high:
            raise ValueError(f"{name} must be (low, high) with low < high, got ({low}, {high})")
    low, high = np.array([guidance_range, noise_range], dtype=np.float32).T
    return Box(low, high, dtype=np.float32)


def _read_controls(action: Any, space: Any, device: torch.device) -> Float[Tensor, "... 2"]:
    """Actions (..., 2) within the space's bounds, on the device; ``nan`` stays."""
    tensor = torch.as_tensor(action, dtype=torch.float32, device=device)
    if tuple(tensor.shape) != space.shape:
        raise ValueError(f"actions must have shape {space.shape}, got {tuple(tensor.shape)}")
    low, high = (torch.as_tensor(bound.copy(), device=device) for bound in (space.low, space.high))
    return tensor.clamp(low, high)


def _by_velocity(
    task: Task, state: mdp.State, kernel: kernels.StepKernel, action: Any, batch: tuple[int, ...]
) -> tuple[Any, Float[Tensor, "N C t h w"]]:
    """Next latents as the environment takes them, and clean-clip estimates."""
    velocity = task.read_actions(action, batch)
    return _advance(task, state, kernel, velocity)


@torch.no_grad()
def _by_guidance(
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
    # The environment refuses the latent then; the last step would never look at its noise level.
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
