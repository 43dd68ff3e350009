"""A flow policy's knowledge of its environment, small enough to be saved."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reelrl.algos.learners.losses import clip_range_of
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.envs.models import VideoModel
from reelrl.envs.protocol import DenoisingEnv, denoising_env
from reelrl.envs.steps import Reduction
from reelrl.envs.task import encode_prompts
from reelrl.envs.wrappers.action import takes_latents

if TYPE_CHECKING:
    from jaxtyping import Float

SIGMA_TOLERANCE = 1e-4
"""An observed noise level is the task's own in float32; one further away is of another schedule."""


@dataclass
class DenoisingTask:
    """The facts that :class:`~reelrl.algos.policies.flow.FlowPolicy` asks of an environment.

    Pickling carries the model's folder, the texts and the schedule, neither weights nor embeddings:
    other libraries pickle the arguments of a policy when they save a learner.

    Attributes:
        model: shared with the environment it was taken from.
        prompts: texts of the prompt ids.
        sigmas: (T + 1,) float64 noise levels.
        dimensions: D, numbers of a latent.
        action_bound: largest number of an action that a library would not clip.
    """

    model: VideoModel
    prompts: tuple[str, ...]
    sigmas: Float[Tensor, " levels"]
    dimensions: int
    action_bound: float
    _embeddings: Float[Tensor, "P ..."] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, env: Any) -> DenoisingTask:
        """The task of an environment of ours, wrapped, batched or inside an adapter.

        Raises:
            ValueError: for a flat environment, whose observations no video model takes, or one
                whose actions are no latents.
            TypeError: if the environment is not ours.
        """
        base = _base(env)
        size = math.prod(base.latent_shape)
        return cls(base.model, base.prompts, base.sigmas, size, base.action_bound, base.embeddings)

    def check_env(self, env: Any) -> None:
        """Refuse an environment that another task would have to be made of.

        Raises:
            ValueError: for another noise schedule, or other prompts where they are known by their
                ids; or as :meth:`of`.
            TypeError: if the environment is not ours.
        """
        base = _base(env)
        if not torch.equal(self.sigmas, base.sigmas):
            raise ValueError(
                f"expected the noise levels of the policy's task, {_levels(self.sigmas)}, got an "
                f"environment with {_levels(base.sigmas)}: give both one num_steps and one shift"
            )
        if self.prompts != base.prompts and not base.observes_embedding:
            pairs = enumerate(zip_longest(self.prompts, base.prompts))
            index, (own, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise ValueError(
                f"expected the prompts of the policy's task, {own!r} as number {index}, got an "
                f"environment with {other!r} there: an id would stand for another text"
            )

    def check_sigma(self, sigma: Any) -> None:
        """Refuse noise levels that no step of the task starts from.

        A schedule of which every level is one of the task's passes: :meth:`check_env` knows better.

        Args:
            sigma: (N, 1) of an observation, array or tensor.

        Raises:
            ValueError: names the level that is furthest away.
        """
        seen = torch.as_tensor(sigma).detach().cpu().double().reshape(-1, 1)
        distance = (seen - self.sigmas[:-1]).abs().amin(dim=1)
        if not float(distance.max()) <= SIGMA_TOLERANCE:
            level = float(seen[distance.argmax()])
            raise ValueError(
                f"expected noise levels of the policy's task, {_levels(self.sigmas)}, got an "
                f"observation at {level:.4g}: its environment has another num_steps or shift"
            )

    @property
    def embeddings(self) -> Float[Tensor, "P L D"]:
        """(P, L, D) embeddings of the prompts, encoded anew after unpickling."""
        if self._embeddings is None:
            self._embeddings = encode_prompts(self.model, self.prompts)
        return self._embeddings

    @property
    def unwrapped(self) -> DenoisingTask:
        """Itself: a policy binds to it as to an environment."""
        return self

    def policy(self, **settings: Any) -> FlowPolicy:
        """A policy over the model, bound; ``settings`` are a flow policy's settings."""
        return FlowPolicy(self.model, **settings).bind(self)

    def clip_range(self, epsilon: float = 0.025, reduction: Reduction = "mean") -> float:
        """Clip range of PPO's ratio; see :func:`~reelrl.algos.learners.losses.clip_range_of`.

        PPO's usual 0.2 is for the ratio of whole actions; the ratio of means never reaches it.
        """
        return clip_range_of(epsilon, self.dimensions, reduction)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": self.model.fresh(), "_embeddings": None}


def _base(env: Any) -> DenoisingEnv:
    """The environment at the bottom of wrappers and adapter, if a denoising policy can act in it.

    Raises:
        ValueError: for a flat environment, or one whose actions are no latents.
        TypeError: if the environment is not ours.
    """
    # An adapter has the batch as native; SB3's wrappers have the adapter as unwrapped.
    native = getattr(getattr(env, "unwrapped", env), "native", env)
    base = denoising_env(native)
    if base.flat:
        raise ValueError("a denoising policy needs structured observations, got a flat env")
    takes_latents(native)
    return base


def _levels(sigmas: Float[Tensor, " T"]) -> str:
    return ", ".join(f"{sigma:.4g}" for sigma in sigmas.tolist())


def density(log_prob: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Log-probabilities with 0 in place of ``nan`` where a step is deterministic.

    Such a step has ratio one and no gradient then, whoever forms the ratio; that an exact 0 means
    "no density" lets a buffer leave those steps out of its averages.
    """
    return torch.where(log_prob.isnan(), 0.0, log_prob)


def check_bounds(latent: Tensor, bound: float) -> None:
    """Refuse latents that a library would clip before they are taken, but not where it scores them.

    Raises:
        ValueError: names the largest entry.
    """
    largest = float(latent.abs().max())
    if not largest <= bound:
        raise ValueError(
            f"a latent holds {largest:.3g}, beyond the action bound {bound:g}: it would be clipped "
            "on its way to the environment and differ from the scored one"
        )
