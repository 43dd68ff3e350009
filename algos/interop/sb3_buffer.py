"""Any estimator inside unmodified Stable-Baselines3 PPO: the rollout buffer is the hook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from torch import Tensor

from reelrl.algos.advantages import AdvantageEstimator
from reelrl.algos.interop.episodes import EpisodeEstimator, Estimate
from reelrl.envs.interop.sb3 import RewardArray
from reelrl.envs.scoring import RewardFacts

if TYPE_CHECKING:
    from jaxtyping import Float


class Estimating(RolloutBuffer):
    """Base of both buffers: whole episodes of reward vectors, advantages by an estimator.

    Transitions that teach nothing are not handed out: deterministic steps, whose log-probability is
    0, and episodes that could not be scored or that the estimator dropped.

    Attributes:
        signal: the estimator with its memory; a saved PPO does not hold it.
        estimate: the estimator's last answer, an entry per episode, where the episodes of one step
            lie side by side.
    """

    signal: EpisodeEstimator
    estimate: Estimate | None

    def __init__(
        self, *args: Any, estimator: str | AdvantageEstimator = "grpo", **kwargs: Any
    ) -> None:
        self.signal = EpisodeEstimator(estimator)
        self.estimate = None
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Forget the rollout, not the estimator's state."""
        super().reset()
        self._steps: list[RewardArray] = []
        self._rows = np.empty(0, dtype=np.int64)

    def add(self, obs: Any, action: Any, reward: Any, *args: Any, **kwargs: Any) -> None:
        """Store a step of all sub-environments.

        Raises:
            TypeError: if the rewards do not come from an ``SB3VecEnv``.
            ValueError: if the rollout would end within an episode.
        """
        if getattr(reward, "vectors", None) is None or len(reward.vectors) != self.n_envs:
            raise TypeError(
                "an estimator needs the reward vectors of reelrl.envs.interop.sb3.SB3VecEnv, got "
                f"{type(reward).__name__} without any"
            )
        if self.buffer_size % reward.num_steps:
            raise ValueError(
                f"n_steps must be a multiple of the {reward.num_steps} denoising steps of an "
                f"episode, got {self.buffer_size}"
            )
        self._steps.append(reward)
        super().add(obs, action, reward, *args, **kwargs)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: NDArray[np.bool_]) -> None:
        """Ask the estimator; all steps of an episode get its advantage.

        Raises:
            ValueError: if the rollout does not consist of whole episodes.
            RuntimeError: if nothing in it can be learned from.
        """
        horizon = self._horizon
        whole = self.episode_starts[::horizon].all() and self.episode_starts.sum() * horizon
        if not np.all(dones) or whole != self.episode_starts.size:
            raise ValueError(
                f"a rollout must hold whole episodes of {horizon} steps: begin with all "
                "sub-environments freshly reset"
            )
        prompts = np.concatenate([step.prompt_id for step in self._steps[horizon - 1 :: horizon]])
        self.estimate = self.signal(self.vectors, prompts, self.facts)
        self.advantages[:] = self._spread(self.estimate.advantages)
        self.returns = self.advantages + self.values
        kept = self._spread(self.estimate.counted) & (self.log_probs != 0)
        self._rows = np.flatnonzero(self.swap_and_flatten(kept))
        if not len(self._rows):
            raise RuntimeError("no step of this rollout has a density and a reward to learn from")

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(episodes, K) reward vectors of the rollout; episodes of one step lie side by side."""
        return np.concatenate(
            [step.vectors for step in self._steps[self._horizon - 1 :: self._horizon]]
        )

    @property
    def facts(self) -> RewardFacts:
        """Meaning of the K numbers."""
        facts = self._steps[0].facts
        assert facts is not None  # add() has seen to it
        return facts

    def minibatches(self, batch_size: int | None = None) -> Iterator[NDArray[np.int64]]:
        """Rows of the flattened buffer to learn from, shuffled, a batch at a time."""
        # Its first sample makes SB3's own generator flatten the arrays.
        if not self.generator_ready:
            next(iter(super().get(1)))
        rows = np.random.permutation(self._rows)
        size = batch_size or len(rows)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def get(self, batch_size: int | None = None) -> Any:
        """SB3's minibatches, of the transitions to learn from."""
        for rows in self.minibatches(batch_size):
            yield self._get_samples(rows)

    def components(
        self, rows: NDArray[np.int64]
    ) -> tuple[Float[Tensor, "M K"], Float[Tensor, "M K"]]:
        """(M, K) advantages and weights of the components of some transitions.

        Raises:
            ValueError: if the estimator sums before it normalises.
        """
        assert self.estimate is not None
        parts = (self.estimate.components, self.estimate.component_weights)
        if parts[0] is None or parts[1] is None:
            raise ValueError(f"{self.signal.estimator.name!r} has no advantages per component")
        flat = [self.swap_and_flatten(self._spread(part)) for part in parts if part is not None]
        advantages, weights = (self.to_torch(part[rows]) for part in flat)
        return advantages, weights

    def _spread(self, per_episode: NDArray[Any]) -> NDArray[Any]:
        """(n_steps, n_envs, ...) of one entry per episode."""
        table = per_episode.reshape(-1, self.n_envs, *per_episode.shape[1:])
        return table.repeat(self._horizon, axis=0)

    @property
    def _horizon(self) -> int:
        horizon = self._steps[0].num_steps
        assert horizon is not None  # add() has seen to it
        return horizon


class EstimatorRolloutBuffer(Estimating, DictRolloutBuffer):
    """SB3's rollout buffer for dict observations with advantages by an estimator of the zoo.

    ```python
    model = PPO(
        DenoisingPolicy, venv, n_steps=venv.get_attr("num_steps")[0], normalize_advantage=False,
        rollout_buffer_class=EstimatorRolloutBuffer,
        rollout_buffer_kwargs={"estimator": "gdpo"}, ...
    )
    ```

    PPO's ``gamma`` and ``gae_lambda`` are of no effect; ``normalize_advantage`` would undo what the
    estimator did, per minibatch. All observations are kept on the host.

    Args:
        *args: SB3 passes them.
        estimator: a name for :func:`~reelrl.algos.advantages.make_estimator`, or an instance.
        **kwargs: SB3 passes them.

    Raises:
        ValueError: if the estimator needs more than the rewards of episodes.
    """


class FlatEstimatorRolloutBuffer(Estimating):
    """:class:`EstimatorRolloutBuffer` for observations that are one array, as of a flat id."""


def buffer_class(observation_space: Any) -> type[Estimating]:
    """The buffer for observations of that space."""
    dicts = isinstance(observation_space, spaces.Dict)
    return EstimatorRolloutBuffer if dicts else FlatEstimatorRolloutBuffer
