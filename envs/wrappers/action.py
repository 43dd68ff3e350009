r"""Other actions than the next latent, for agents that are not generators themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from reelrl.envs import kernels
from reelrl.envs.acting import (
    by_guidance,
    by_velocity,
    guidance_space,
    guided_kernel,
    read_controls,
    velocity_space,
)
from reelrl.envs.wrappers.batch_wrapper import BatchWrapper
from reelrl.envs.wrappers.reward import base_of, chain_of, expect_batch, expect_single


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
        self.action_space = velocity_space(base_of(env).task)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step along the velocity ``action`` (C, T', H', W')."""
        base = base_of(self.env)
        latent, estimate = by_velocity(base.task, base.state, self.kernel, action, ())
        result = self.env.step(latent[0])
        base.clean_estimate = estimate
        return result


class VectorVelocityAction(BatchWrapper):
    """:class:`VelocityAction` for the batch."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], kernel: str = "flow_sde", **config: Any
    ) -> None:
        expect_batch(self, env)
        takes_latents(env)
        super().__init__(env)
        self.kernel = kernels.make_kernel(kernel, **config)
        self.single_action_space = velocity_space(base_of(env).task)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step along the velocities ``actions`` (N, C, T', H', W')."""
        base = base_of(self.env)
        batch = (self.num_envs,)
        latent, estimate = by_velocity(base.task, base.state, self.kernel, actions, batch)
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
        self.action_space = guidance_space(guidance_range, noise_range)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Denoise with ``action`` = (guidance scale, noise level)."""
        base = base_of(self.env)
        controls = read_controls(action, self.action_space, base.task.device)
        latent, estimate = by_guidance(base.task, base.state, self.kernel, controls[None])
        result = self.env.step(latent[0])
        base.clean_estimate = estimate
        return result


class VectorGuidanceAction(BatchWrapper):
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
        self.single_action_space = guidance_space(guidance_range, noise_range)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Denoise with ``actions`` (N, 2): guidance scales and noise levels."""
        base = base_of(self.env)
        controls = read_controls(actions, self.action_space, base.task.device)
        latent, estimate = by_guidance(base.task, base.state, self.kernel, controls)
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
    count = getattr(base, "num_envs", None)
    own = base.task.action_space
    expected = own if count is None else batch_space(own, count)
    for layer in reversed(chain_of(env)):
        # A velocity's space is that of a latent, so the space alone does not tell them apart.
        if isinstance(layer, ACTION_WRAPPERS) or layer.action_space != expected:
            raise ValueError(
                f"expected an environment whose actions are latents, {expected}, got "
                f"{type(layer).__name__} with {layer.action_space}"
            )
