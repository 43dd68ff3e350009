"""The environment for ordinary agents: two numbers in, a vector and a number out.

Single and batched environment whose actions are guidance scale and noise level in [-1, 1], whose
observation is a vector and whose reward is a number. Every library of agents takes them as they
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from reelrl.ambient import undisturbed
from reelrl.envs.acting import by_guidance, guidance_space, guided_kernel, read_controls
from reelrl.envs.base_env import BaseEnv
from reelrl.envs.text_to_video import TextToVideoEnv
from reelrl.envs.vector import TextToVideoVectorEnv

GUIDANCE_RANGE = (1.0, 8.0)
NOISE_RANGE = (0.0, 1.0)
ORDINARY = {"flat": True, "scalar_weights": "mean"}
"""Arguments that every library of agents can live with."""


class _Guided(BaseEnv):
    """Shared part of both environments: it turns an action into the next latent."""

    def _guide(
        self, kernel: str, guidance_range: Sequence[float], noise_range: Sequence[float]
    ) -> None:
        self.kernel = guided_kernel(kernel, noise_range)
        self.control_space = guidance_space(guidance_range, noise_range)

    def _denoise(self, actions: Any, shape: tuple[int, ...]) -> tuple[Any, torch.Tensor]:
        """Next latents (N, ...) and clean-clip estimates from actions in [-1, 1]."""
        asked = read_controls(actions, Box(-1.0, 1.0, shape, np.float32), self.device)
        low, high = (
            torch.from_numpy(bound.copy()).to(self.device)
            for bound in (self.control_space.low, self.control_space.high)
        )
        controls = low + (asked.reshape(-1, 2) + 1) / 2 * (high - low)
        return by_guidance(self.task, self.state, self.kernel, controls)


class GuidanceEnv(_Guided, TextToVideoEnv):
    """Steer a frozen video model: choose guidance scale and noise of every denoising step.

    It is :class:`~reelrl.envs.text_to_video.TextToVideoEnv` with ``flat=True``, a number as reward
    and an action (2,) in [-1, 1]. The action is mapped onto the two ranges; entries outside are
    clipped. Loads the model's transformer and text encoder.

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("reelrl:reelrl/MovingShapesGuidance-v0", num_steps=2)
    >>> observation, _ = env.reset(seed=0)
    >>> observation.shape, env.action_space
    ((2562,), Box(-1.0, 1.0, (2,), float32))
    >>> reward = env.step(env.action_space.sample())[1]
    >>> reward, type(reward)
    (0.0, <class 'float'>)

    ```

    Args:
        kernel: name of a step kernel with a noise level ``eta``.
        guidance_range: scale of classifier-free guidance at -1 and at 1; 1 is none.
        noise_range: ``eta`` at -1 and at 1; 0 is the deterministic step.
        render_mode: see there.
        **task: the other arguments of the environment. ``flat`` is True and ``scalar_weights`` is
            ``"mean"`` unless they are given.

    Raises:
        ValueError: for an unknown kernel, one without ``eta``, or an empty range.
    """

    def __init__(
        self,
        *,
        kernel: str = "flow_sde",
        guidance_range: Sequence[float] = GUIDANCE_RANGE,
        noise_range: Sequence[float] = NOISE_RANGE,
        render_mode: str | None = None,
        **task: Any,
    ) -> None:
        super().__init__(render_mode=render_mode, **{**ORDINARY, **task})
        own = {"kernel": kernel, "guidance_range": guidance_range, "noise_range": noise_range}
        EzPickle.__init__(self, render_mode=render_mode, **own, **task)
        self._guide(kernel, guidance_range, noise_range)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)

    @undisturbed
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Denoise with ``action`` (2,): guidance scale and noise level, each in [-1, 1]."""
        latent, estimate = self._denoise(action, (2,))
        result = super().step(latent[0])
        self.clean_estimate = estimate
        return result


class GuidanceVectorEnv(_Guided, TextToVideoVectorEnv):
    """:class:`GuidanceEnv` for the batch: one forward pass for all sub-environments."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        kernel: str = "flow_sde",
        guidance_range: Sequence[float] = GUIDANCE_RANGE,
        noise_range: Sequence[float] = NOISE_RANGE,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **task: Any,
    ) -> None:
        modes: dict[str, Any] = {"autoreset_mode": autoreset_mode, "render_mode": render_mode}
        super().__init__(num_envs, **modes, **{**ORDINARY, **task})
        own = {"kernel": kernel, "guidance_range": guidance_range, "noise_range": noise_range}
        EzPickle.__init__(self, num_envs, **modes, **own, **task)
        self._guide(kernel, guidance_range, noise_range)
        self.single_action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @undisturbed
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Denoise with ``actions`` (N, 2): guidance scales and noise levels, each in [-1, 1]."""
        latent, estimate = self._denoise(actions, (self.num_envs, 2))
        result = super().step(latent)
        self.clean_estimate = estimate
        return result
