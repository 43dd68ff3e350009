"""The interface of an environment: all that a policy, a learner or a tool may ask of it.

``env.unwrapped`` of the single and of the batched environment offers it, and so does the task that
the adapters keep of an environment; nobody has to reach through two objects.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from reelrl.envs.models import VideoModel
from reelrl.envs.scoring import RewardFacts
from reelrl.rewards import Reward

if TYPE_CHECKING:
    from jaxtyping import Float


class DenoisingProblem(Protocol):
    """A schedule, prompts and the model that reads them: enough for a policy to act and replay."""

    @property
    def model(self) -> VideoModel:
        """The video model, shared with the policy."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Text of every prompt id."""

    @property
    def embeddings(self) -> Float[Tensor, "P ..."]:
        """(P, ...) embeddings of the prompts on the model's device."""

    @property
    def sigmas(self) -> Float[Tensor, " levels"]:
        """(T + 1,) float64 noise levels, exactly 1 first and exactly 0 last."""


class DenoisingEnv(DenoisingProblem, Protocol):
    """The environment itself, single or batched, without its wrappers."""

    @property
    def num_steps(self) -> int:
        """T, actions per episode."""

    @property
    def shift(self) -> float:
        """Of the noise schedule."""

    @property
    def output(self) -> str:
        """``"numpy"`` or ``"torch"``."""

    @property
    def device(self) -> torch.device:
        """Where the latents live."""

    @property
    def flat(self) -> bool:
        """True if observations and actions are one-dimensional."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, T', H', W')."""

    @property
    def clip_size(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip."""

    @property
    def action_bound(self) -> float:
        """Largest number of an action that a library would not clip."""

    @property
    def observes_embedding(self) -> bool:
        """True if the prompt's embedding is part of the observation."""

    @property
    def reward_names(self) -> list[str]:
        """Names of the K components, in the order of the vector."""

    @property
    def reward_facts(self) -> RewardFacts:
        """Meaning of the K numbers: names, bounds, signs."""

    @property
    def reward_failures(self) -> dict[str, str]:
        """Name of a component -> message of its last failure."""

    @property
    def reward_components(self) -> Sequence[Reward]:
        """The K components themselves."""

    def score(self, latents: Any, prompt_ids: Any, group_ids: Any = None) -> Any:
        """(N, K) rewards of any latents, as if they were finished clips."""


class DenoisingBatch(DenoisingEnv, Protocol):
    """The batched environment without its wrappers."""

    num_envs: int
    autoreset_mode: AutoresetMode


def denoising_env(env: Any) -> DenoisingEnv:
    """The environment at the bottom of wrappers.

    Raises:
        TypeError: if it lacks a member of :class:`DenoisingEnv`.
    """
    _check_offers(DenoisingEnv, env.unwrapped)
    base: DenoisingEnv = env.unwrapped
    return base


def denoising_batch(env: Any) -> DenoisingBatch:
    """The batched environment at the bottom of wrappers.

    Raises:
        TypeError: if it lacks a member of :class:`DenoisingBatch`.
    """
    _check_offers(DenoisingBatch, env.unwrapped)
    base: DenoisingBatch = env.unwrapped
    return base


def _check_offers(kind: Any, base: object) -> None:
    # Not isinstance: before Python 3.12 it reads every property, and one of them encodes prompts.
    missing = sorted(_members(kind) - set(dir(base)))
    if missing:
        raise TypeError(
            f"expected an environment of this library, made by gymnasium.make or make_vec, got "
            f"{type(base).__name__} without {', '.join(missing)}"
        )


def _members(protocol: type) -> set[str]:
    """Public names that a protocol lists, its bases' included."""
    listed = [
        {*vars(base), *inspect.get_annotations(base)}
        for base in protocol.__mro__
        if base not in (object, Protocol, Generic)
    ]
    return {name for names in listed for name in names if not name.startswith("_")}
