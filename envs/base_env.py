"""The parts of their task that both environments show, beside reset and step."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from reelrl.ambient import undisturbed
from reelrl.envs import mdp
from reelrl.envs.models.base import VideoModel
from reelrl.envs.rendering import contact_sheet
from reelrl.envs.scoring import RewardFacts
from reelrl.envs.steps import rows_like
from reelrl.envs.task import Task, to_uint8
from reelrl.naming import nearest
from reelrl.rewards import Reward
from reelrl.rewards.spec import RewardSpec

if TYPE_CHECKING:
    from jaxtyping import Float

RENDER_MODES = ("rgb_array", "rgb_array_list")
RENDER_FPS = 8


class BaseEnv(EzPickle):
    """Attributes and methods both environments have on ``env.unwrapped``.

    Attributes:
        task: model, prompts, schedule, rewards and spaces.
        clean_estimate: (N, C, T', H', W') estimate of the clean latents that whoever acted knows,
            shown by ``render``; forgotten at the next step.
    """

    EPISODE: ClassVar[tuple[str, ...]] = ("_state", "clean_estimate", "_spec")
    """Attributes that a copy or a pickle takes along; the rest is made from the arguments."""

    task: Task
    _spec: EnvSpec | None = None
    clean_estimate: Float[Tensor, "N C t h w"] | None = None
    _state: mdp.State | None = None

    @undisturbed
    def _set_task(self, render_mode: str | None, **task: Any) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(
                f"render_mode must be None or one of {', '.join(RENDER_MODES)}, got {render_mode!r}"
            )
        check_arguments(task)
        self.task = Task(**task)
        self.render_mode = render_mode
        self._show_reward_space()

    # Gymnasium sets it after construction; how long an episode is only the task knows.
    @property
    def spec(self) -> EnvSpec | None:
        """Id and arguments, with ``num_steps`` as ``max_episode_steps``."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        # Its arguments are not copied: a reward may hold a lock or a connection.
        self._spec = copy.copy(spec)
        if self._spec is not None:
            self._spec.max_episode_steps = self.num_steps

    def __repr__(self) -> str:
        size = "" if (count := getattr(self, "num_envs", None)) is None else f"num_envs={count}, "
        return (
            f"{type(self).__name__}({size}model={self.model.name!r}, num_steps={self.num_steps}, "
            f"rewards={self.reward_names}, prompts={len(self.prompts)})"
        )

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: vars(self)[name] for name in self.EPISODE if name in vars(self)}
        made = EzPickle.__getstate__(self)  # type: ignore[no-untyped-call]
        # The model itself: opened again by its name it would be another one, without what was
        # trained since.
        kwargs = {**made["_ezpickle_kwargs"], "model": self.model}
        return {**made, "_ezpickle_kwargs": kwargs, "episode": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        episode = state.get("episode", {})
        EzPickle.__setstate__(self, state)  # type: ignore[no-untyped-call]
        vars(self).update(episode)

    @property
    def state(self) -> mdp.State:
        """Where the N episodes are (N is 1 in the single environment).

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before anything that needs an episode")
        return self._state

    @property
    def model(self) -> VideoModel:
        """The video model; a policy is built on the same instance."""
        return self.task.model

    @property
    def prompts(self) -> tuple[str, ...]:
        """Text of every prompt id."""
        return self.task.prompts

    @property
    def embeddings(self) -> Float[Tensor, "P L D"]:
        """(P, L, D) embeddings of the prompts on the model's device, encoded when first used."""
        return self.task.embeddings

    @property
    def sigmas(self) -> Float[Tensor, " levels"]:
        """(T + 1,) float64 noise levels, exactly 1 first and exactly 0 last."""
        return self.task.sigmas

    @property
    def num_steps(self) -> int:
        """T, actions per episode."""
        return self.task.num_steps

    @property
    def output(self) -> str:
        """``"numpy"`` or ``"torch"``."""
        return self.task.output

    @property
    def device(self) -> torch.device:
        """Where the latents live."""
        return self.task.device

    @property
    def shift(self) -> float:
        """Of the noise schedule, the model's own if none was asked for."""
        return self.task.shift

    @property
    def flat(self) -> bool:
        """True if observations and actions are one-dimensional."""
        return self.task.flat

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, T', H', W')."""
        return self.task.latent_shape

    @property
    def clip_size(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip."""
        return self.task.clip_size

    @property
    def action_bound(self) -> float:
        """Largest number of an action that a library would not clip."""
        return float(self.task.action_space.high.flat[0])

    @property
    def observes_embedding(self) -> bool:
        """True if the prompt's embedding is part of the observation."""
        return self.task.observe_embedding

    @property
    def reward_space(self) -> Box:
        """(K,) box of the reward vector; a component that could not be scored is outside (nan)."""
        return self.task.rewards.space()

    @property
    def reward_dim(self) -> int:
        """K, number of reward components."""
        return len(self.task.rewards.names)

    @property
    def reward_names(self) -> list[str]:
        """Names of the K components, in the order of the vector."""
        return self.task.rewards.names

    @property
    def reward_facts(self) -> RewardFacts:
        """Meaning of the K numbers of the reward vector: names, bounds, signs."""
        return self.task.rewards.facts()

    @property
    def reward_failures(self) -> dict[str, str]:
        """Name of a component -> what was said of its last failure."""
        return dict(self.task.rewards.failures)

    @property
    def reward_components(self) -> Sequence[Reward]:
        """The K reward components."""
        return tuple(self.task.rewards.components)

    def add_reward(self, reward: RewardSpec) -> Reward:
        """Append a component to the reward vector and return it.

        Raises:
            ValueError: if its name is taken, or the environment has scalar weights for K
                components.
        """
        if self.task.weights is not None:
            raise ValueError(
                f"cannot add {reward!r}: scalar_weights fixes the number of components at "
                f"{self.reward_dim}; give the component in rewards= instead"
            )
        added = self.task.rewards.add(reward)
        self._show_reward_space()
        # EzPickle rebuilds from the constructor's arguments, which know nothing of the new one.
        self._ezpickle_kwargs["rewards"] = list(self.task.rewards.components)
        return added

    def score(self, latents: Any, prompt_ids: Any, group_ids: Any = None) -> Any:
        """(N, K) rewards of any latents, as if they were finished clips.

        Args:
            latents: N latents in the form of actions.
            prompt_ids: N rows in :attr:`prompts`.
            group_ids: N numbers of groups that are compared; None means one group per prompt.

        Raises:
            ValueError: for a wrong shape or dtype, or an id out of range.
        """
        return self.task.score(latents, prompt_ids, group_ids)

    def _show_reward_space(self) -> None:
        """Store the space of a vector as well: TorchRL looks among stored attributes alone."""
        if self.task.weights is None:
            vars(self)["reward_space"] = self.reward_space

    def _render_rows(self) -> list[NDArray[np.uint8] | list[NDArray[np.uint8]]] | None:
        """One picture per episode, or one list of frames."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() without a render_mode; pass one of " + ", ".join(RENDER_MODES)
            )
            return None
        state = self.state
        latent = state.latent
        if self.clean_estimate is not None:
            # At either end of an episode the latent is all there is to know.
            middle = (state.step > 0) & ~mdp.terminal(state, self.num_steps)
            rows = rows_like(torch.from_numpy(middle).to(latent.device), latent)
            latent = torch.where(rows, self.clean_estimate, latent)
        videos = to_uint8(self.task.decode(latent)).cpu().numpy()
        if self.render_mode == "rgb_array":
            return [contact_sheet(video) for video in videos]
        return [list(video) for video in videos]


def per_sub_env(seed: Any, count: int) -> list[int | None]:
    """One seed per sub-environment: ``seed + i`` of an int, the list itself, or all None.

    Raises:
        ValueError: for a list of another length, or a seed that is no integer from 0 on.
    """
    if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes):
        if len(seed) != count:
            raise ValueError(f"expected one seed or {count} of them, got {len(seed)}")
        return [read_seed(one) for one in seed]
    first = read_seed(seed)
    return [None if first is None else first + i for i in range(count)]


def read_seed(seed: Any) -> int | None:
    """A seed as a plain integer, or None.

    Raises:
        ValueError: unless it is None or an integer from 0 on.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be an integer from 0 on or None, got {seed!r}")
    return int(seed)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse unknown arguments, and the lack of an argument without a default.

    Raises:
        ValueError: names the argument and the nearest known one.
    """
    known = inspect.signature(Task).parameters
    for name in arguments:
        if name not in known:
            raise ValueError(f"unknown environment argument {name!r}{nearest(name, known)}")
    needed = [n for n, p in known.items() if p.default is p.empty and n not in arguments]
    if needed:
        raise ValueError(f"the environment needs {', '.join(f'{name}=' for name in needed)}")
