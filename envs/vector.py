"""The batched environment: N episodes, one decode and one call per reward for all that end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle, seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from reelrl.ambient import undisturbed
from reelrl.envs import mdp
from reelrl.envs.base_env import RENDER_FPS, RENDER_MODES, BaseEnv, per_sub_env
from reelrl.envs.scoring import Scores, scalarise
from reelrl.envs.task import Chosen, row_of

if TYPE_CHECKING:
    from jaxtyping import Float

Infos = dict[str, Any]


class TextToVideoVectorEnv(BaseEnv, VectorEnv[Any, Any, Any]):
    """N episodes of :class:`~reelrl.envs.text_to_video.TextToVideoEnv` stepped as one batch.

    Sub-environment i observes bit for bit what the single environment seeded ``seed + i`` observes,
    and earns its rewards to 1e-5 (CPU, float32). All arguments, spaces and infos are described
    there.

    ```python
    >>> import gymnasium as gym
    >>> envs = gym.make_vec("reelrl:reelrl/MovingShapes-v0", num_envs=4, num_steps=2)
    >>> observations, infos = envs.reset(seed=0, options={"prompt_id": [0, 0, 1, 1]})
    >>> for _ in range(2):
    ...     actions = 0.9 * observations["latent"]
    ...     observations, rewards, terminations, _, infos = envs.step(actions)
    >>> rewards.shape, infos["video"].shape, terminations.tolist()
    ((4, 3), (4, 9, 32, 32, 3), [True, True, True, True])

    ```

    ``reset`` takes the options ``prompt_id``, ``noise_seed`` and ``group_id``, one for all or one
    each, and ``reset_mask`` (N,) bool: only those begin anew, the others keep their episode. With
    ``late_scores=True`` the step that ends the episodes does not wait for reward components in the
    background. Its infos have ``scores`` then, a :class:`~reelrl.envs.scoring.Scores` of the
    sub-environments that ended, in their order; rewards that are late are ``nan`` until its
    ``result()`` is asked for. The option holds until the next reset of all. An episode that begins
    by itself is in the group of its prompt.

    Args:
        num_envs: N.
        autoreset_mode: ``"NextStep"`` (Gymnasium's default), ``"SameStep"`` or ``"Disabled"``, in
            which a finished sub-environment must be reset with ``reset_mask``. With
            ``output="torch"`` the ``final_obs`` of ``"SameStep"`` is the batched observation,
            meaningful where ``_final_obs`` is True.
        render_mode: as in the single environment; ``render`` gives a tuple.
        **task: the other arguments of the single environment.
    """

    # Gymnasium declares it a plain instance-or-class dict, so ClassVar would contradict the base.
    metadata = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012

    EPISODE = (*BaseEnv.EPISODE, "_rngs", "_finished", "_late_scores")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **task: Any,
    ) -> None:
        EzPickle.__init__(
            self, num_envs, autoreset_mode=autoreset_mode, render_mode=render_mode, **task
        )
        if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ValueError(f"num_envs must be an integer of at least 1, got {num_envs!r}")
        self._set_task(render_mode, **task)
        self.num_envs = num_envs
        self.autoreset_mode = _read_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = self.task.observation_space
        self.single_action_space = self.task.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[tuple[np.random.Generator, int]] = []
        self._finished = np.zeros(num_envs, dtype=np.bool_)
        self._late_scores = False

    # Gymnasium types both as one generator and one seed; its own SyncVectorEnv returns tuples.
    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each sub-environment."""
        return tuple(rng for rng, _ in self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed each generator began with."""
        return tuple(seed for _, seed in self._rngs)

    @undisturbed
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Infos]:
        """Begin all episodes, or the episodes of ``options["reset_mask"]``.

        Args:
            seed: sub-environment i gets ``seed + i``, or entry i; None goes on with its generator.
            options: ``prompt_id``, ``noise_seed``, ``group_id``, ``reset_mask``, ``late_scores``.

        Returns:
            observations of all, and infos with ``prompt_id``, ``noise_seed`` and ``group_id`` of
            the episodes that begin.

        Raises:
            ValueError: for an unknown option, a value out of range or a malformed mask.
            gymnasium.error.ResetNeeded: for a mask before the first full reset.
        """
        known = ("prompt_id", "noise_seed", "group_id", "reset_mask", "late_scores")
        chosen = self.task.read_options(options, self.num_envs, known)
        rows = self._read_mask((options or {}).get("reset_mask"))
        self._late_scores = self._read_late_scores(options or {})
        self._seed(per_sub_env(seed, self.num_envs), rows)
        infos: Infos = {}
        self._restart(rows, infos, chosen.at(rows))
        self.clean_estimate = None
        return self.task.observe(self.state), self._export(infos)

    @undisturbed
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Infos]:
        """Step all sub-environments; see the single environment's ``step``.

        Args:
            actions: (N, ...) batch of actions; rows that autoreset are ignored.

        Raises:
            ValueError: for a wrong shape or dtype, or an entry that is not finite; names the
                sub-environments.
            gymnasium.error.ResetNeeded: in ``"Disabled"`` mode, if one has finished.
        """
        self._refuse_finished()
        waiting = self._finished
        active = ~waiting
        latent = self.task.read_actions(actions, (self.num_envs,))
        state = mdp.transition(self.state, latent, active)
        ended = mdp.terminal(state, self.num_steps) & active
        self.task.refuse_nonfinite(state, bool(ended.any()))
        rewards = state.latent.new_zeros(self.num_envs, self.reward_dim)
        infos: Infos = {}
        final: Infos = {} if self.autoreset_mode is AutoresetMode.SAME_STEP else infos
        if ended.any():
            self._finish(state, np.flatnonzero(ended), rewards, final)
        # Only now: a reward that stops the run leaves the episodes where they were.
        self._state, self.clean_estimate = state, None
        if self.task.weights is not None:
            self._add({"vector_reward": rewards}, active & ~ended, infos)
            self._add({"vector_reward": rewards}, ended, final)
        self._autoreset(waiting, ended, infos, final)
        return (
            self.task.observe(self.state),
            self._export_rewards(rewards),
            self.task.export_flags(ended),
            self.task.export_flags(np.zeros_like(ended)),
            self._export(infos),
        )

    def render(self) -> tuple[Any, ...] | None:
        """A picture or a list of frames per sub-environment, by ``render_mode``; None without."""
        rows = self._render_rows()
        return None if rows is None else tuple(rows)

    def _autoreset(
        self, waiting: NDArray[np.bool_], ended: NDArray[np.bool_], infos: Infos, final: Infos
    ) -> None:
        """Begin the episodes that the mode wants begun now; ``infos`` gains their reset info."""
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            if ended.any():
                infos.update(final_obs=self._final_observations(ended), _final_obs=ended)
                infos.update(final_info=final, _final_info=ended)
                self._restart(np.flatnonzero(ended), infos)
            return
        self._finished = ended
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._restart(np.flatnonzero(waiting), infos)

    def _final_observations(self, ended: NDArray[np.bool_]) -> Any:
        seen = self.task.observe(self.state)
        if self.output == "torch":
            return seen
        rows = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            rows[row] = row_of(seen, int(row))
        return rows

    def _finish(
        self, state: mdp.State, rows: NDArray[np.int64], rewards: Float[Tensor, "N K"], infos: Infos
    ) -> None:
        """Decode and score the finished rows together; write their rewards and infos."""
        index = torch.from_numpy(rows).to(self.device)
        every = len(rows) == self.num_envs
        latent = state.latent if every else state.latent[index]
        clips = self.task.finish(latent, state.prompt_id[rows], state.group_id[rows])
        if self._late_scores:
            infos["scores"] = clips.scores
        values, valid = clips.scores.so_far() if self._late_scores else clips.scores.result()
        rewards[index] = values
        numbers = {"prompt_id": state.prompt_id, "group_id": state.group_id}
        found = {key: torch.from_numpy(value[rows]) for key, value in numbers.items()}
        self._add_rows({"video": clips.videos, **found, "reward_valid": valid}, rows, infos)

    def _restart(self, rows: NDArray[np.int64], infos: Infos, chosen: Chosen | None = None) -> None:
        """Begin the episodes ``rows`` anew; ids and seeds are chosen for them or drawn."""
        if not len(rows):
            return
        fresh = self.task.begin([self._rngs[row][0] for row in rows], chosen or Chosen())
        every = len(rows) == self.num_envs
        self._state = fresh if every else mdp.restarted(self.state, rows, fresh)
        self._finished[rows] = False
        names = ("prompt_id", "noise_seed", "group_id")
        found = {name: torch.from_numpy(getattr(fresh, name)) for name in names}
        self._add_rows(found, rows, infos)

    def _read_mask(self, mask: Any) -> NDArray[np.int64]:
        """Rows to reset."""
        if mask is None:
            return np.arange(self.num_envs)
        flags = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
        if flags.shape != (self.num_envs,) or flags.dtype != np.bool_ or not flags.any():
            raise ValueError(
                f"reset_mask must be ({self.num_envs},) bool with at least one True, got "
                f"{flags.dtype} {flags.shape} with {np.count_nonzero(flags)} non-zero"
            )
        if self._state is None and not flags.all():
            raise ResetNeeded("call reset() for all sub-envs before resetting some of them")
        return np.flatnonzero(flags)

    def _read_late_scores(self, options: Mapping[str, Any]) -> bool:
        # Episodes that go on keep their own options.
        going_on = options.get("reset_mask") is not None and self._late_scores
        late = options.get("late_scores", going_on)
        if not isinstance(late, bool):
            raise ValueError(f"late_scores must be True or False, got {late!r}")
        if late and self.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError(
                "late_scores needs autoreset_mode='Disabled', got "
                f"{self.autoreset_mode.value!r}: a new episode would begin before the scores are in"
            )
        return late

    def _refuse_finished(self) -> None:
        if self.autoreset_mode is AutoresetMode.DISABLED and self._finished.any():
            raise ResetNeeded(
                f"sub-env {', '.join(map(str, np.flatnonzero(self._finished)))} has finished: call "
                "reset(options={'reset_mask': mask}) before stepping on"
            )

    def _seed(self, seeds: Sequence[int | None], rows: NDArray[np.int64]) -> None:
        """New generators for the rows that have a seed, or have none yet."""
        if not self._rngs:
            self._rngs = [seeding.np_random(None) for _ in range(self.num_envs)]
        for row in rows:
            if seeds[row] is not None:
                self._rngs[row] = seeding.np_random(seeds[row])

    def _add(self, values: Mapping[str, Tensor], mask: NDArray[np.bool_], infos: Infos) -> None:
        """Put those rows of the values (N, ...) where ``mask`` is True into the infos."""
        rows = np.flatnonzero(mask)
        index = torch.from_numpy(rows)
        if len(rows):
            self._add_rows({key: v[index.to(v.device)] for key, v in values.items()}, rows, infos)

    def _add_rows(
        self, values: Mapping[str, Tensor], rows: NDArray[np.int64], infos: Infos
    ) -> None:
        """Put the values (M, ...) of M rows into the infos of N, each key with its mask."""
        for key, value in values.items():
            if key not in infos:
                infos[key] = value.new_zeros(self.num_envs, *value.shape[1:])
                infos[f"_{key}"] = np.zeros(self.num_envs, dtype=np.bool_)
            infos[key][torch.from_numpy(rows).to(value.device)] = value
            infos[f"_{key}"][rows] = True

    def _export(self, infos: Infos) -> Infos:
        """Infos of tensors and host masks as the environment hands them out."""
        return {key: self._export_one(value) for key, value in infos.items()}

    def _export_one(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._export(value)
        if isinstance(value, Scores):
            return value
        if isinstance(value, Tensor):
            return self.task.export(value.to(self.device))
        return self.task.export_flags(value) if value.dtype == np.bool_ else value

    def _export_rewards(self, rewards: Float[Tensor, "N K"]) -> Any:
        out = self.task.export(rewards)
        return out if self.task.weights is None else scalarise(out, self.task.weights)


def _read_mode(mode: Any) -> AutoresetMode:
    """The autoreset mode of that value.

    Raises:
        ValueError: for another; names the known ones.
    """
    known = {item.value: item for item in AutoresetMode}
    if mode not in (*known, *known.values()):
        raise ValueError(f"autoreset_mode must be one of {', '.join(known)}, got {mode!r}")
    return AutoresetMode(mode)
