"""Finished episodes in, one advantage per episode out, whoever collected them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from reelrl.algos.advantages import AdvantageEstimator, AdvantageOutput, make_estimator
from reelrl.algos.advantages.masked import to_tensor
from reelrl.algos.advantages.oneline import group_slots
from reelrl.algos.collect.rollout import signed_batch
from reelrl.algos.learners.update import LearnerWarning
from reelrl.algos.supply import missing_from, supplied
from reelrl.envs.scoring import RewardFacts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CALLS = "episodes/calls"
"""Where the saved state has the number of batches; a calibrated estimator counts ``calls`` too."""


@dataclass(frozen=True)
class Estimate:
    """An estimator's answer about N episodes.

    Attributes:
        advantages: (N,) float32.
        components: (N, K) float32, 0 where a component does not apply, or None.
        component_weights: (N, K) float32, or None.
        counted: (N,) bool, False for episodes that were not scored or that the estimator dropped;
            a loss leaves them out of its average.
        output: as the estimator gave it, groups padded.
    """

    advantages: Float[NDArray[np.float32], " N"]
    components: Float[NDArray[np.float32], "N K"] | None
    component_weights: Float[NDArray[np.float32], "N K"] | None
    counted: Bool[NDArray[np.bool_], " N"]
    output: AdvantageOutput


class EpisodeEstimator:
    """An estimator with its memory, for learners that know episodes and no groups.

    Episodes of one prompt are one group. The meaning of a component's numbers is handled as in
    :class:`~reelrl.algos.grpo.GRPO`: penalties change sign before anything is estimated.

    Args:
        estimator: a name for :func:`~reelrl.algos.advantages.make_estimator`, or an instance.

    Attributes:
        estimator: the instance.
        calls: batches of episodes seen.

    Raises:
        ValueError: if the estimator needs inputs that episodes alone do not have.
    """

    def __init__(self, estimator: str | AdvantageEstimator) -> None:
        self.estimator: Any = make_estimator(estimator) if isinstance(estimator, str) else estimator
        missing = missing_from(self.estimator, supplied(None))
        if self.estimator.needs_component_gradients:
            missing.append("the gradient of every component")
        if wanted := getattr(self.estimator, "needs_feedback", ""):
            missing.append(f"feedback({wanted}=...)")
        if missing:
            raise ValueError(
                f"estimator {self.estimator.name!r} needs {', '.join(missing)}, which a batch of "
                "episodes does not have; reelrl.algos.grpo.GRPO or a loop of your own can supply it"
            )
        self.calls = 0
        self._state: Any = None
        self._saved: dict[str, np.ndarray] = {}

    def __call__(
        self,
        rewards: Float[NDArray[np.float32], "N K"],
        prompt_ids: Int[NDArray[np.int64], " N"],
        facts: RewardFacts,
    ) -> Estimate:
        """Advantages of N episodes; moves the estimator's state on.

        Args:
            rewards: (N, K), ``nan`` where a component could not be scored.
            prompt_ids: (N,).
            facts: meaning of the K numbers.

        Raises:
            ValueError: if a group of the environment's was cut.
        """
        _check_groups(prompt_ids, facts.group_size)
        row, column, shape = group_slots(prompt_ids, torch.device("cpu"))
        at = (row.numpy(), column.numpy())
        table = np.zeros((*shape, rewards.shape[1]), dtype=np.float32)
        table[at] = rewards
        valid = np.zeros(shape, dtype=np.bool_)
        valid[at] = True
        batch = signed_batch(
            table,
            facts,
            valid=None if valid.all() else valid,
            prompt_ids=np.unique(prompt_ids),
            step=self.calls,
        )
        output, self._state = self.estimator(batch, self._state_for(facts.names))
        self.calls += 1
        if not torch.as_tensor(output.advantages).any():
            alone = shape[1] == 1
            why = (
                "no two of them have one prompt"
                if alone
                else "the scores of a group are alike, or cancel"
            )
            warnings.warn(
                f"nothing can be learned from these {len(rewards)} episodes, because {why}: every "
                f"advantage of {self.estimator.name!r} is 0",
                LearnerWarning,
                stacklevel=2,
            )
        return _flat(output, at, (~np.isnan(rewards)).any(axis=1))

    def state_dict(self) -> dict[str, np.ndarray]:
        """The estimator's memory, as arrays to save."""
        if self._state is None:
            return self._saved
        saved = self.estimator.state_dict(self._state)
        return {**saved, CALLS: np.array(self.calls)}

    def load_state_dict(self, saved: Mapping[str, np.ndarray]) -> None:
        """Go on from the result of :meth:`state_dict`; checked when the first episodes come."""
        self._saved, self._state = dict(saved), None
        self.calls = int(self._saved.get(CALLS, 0))

    def _state_for(self, names: Sequence[str]) -> Any:
        if self._state is None and self._saved:
            arrays = {key: value for key, value in self._saved.items() if key != CALLS}
            return self.estimator.load_state_dict(arrays, names)
        return self.estimator.init_state(names) if self._state is None else self._state


def _check_groups(prompt_ids: NDArray[np.int64], size: int) -> None:
    """Refuse a rollout with part of a group: its other part would be compared with others.

    Raises:
        ValueError: if the episodes of a prompt are no multiple of ``size``.
    """
    ids, counts = np.unique(prompt_ids, return_counts=True)
    if (cut := counts % size > 0).any():
        raise ValueError(
            f"expected whole groups of {size} episodes of one prompt, got {counts[cut][0]} of "
            f"prompt {ids[cut][0]} in a rollout of {len(prompt_ids)} episodes: collect a multiple "
            f"of {size}, and begin with a new group, which a reset with a seed does"
        )


def _flat(output: AdvantageOutput, at: tuple[np.ndarray, np.ndarray], scored: Any) -> Estimate:
    """The padded table of groups as N episodes."""
    kept = scored
    if output.sample_weight is not None:
        kept = kept & (to_tensor(output.sample_weight).numpy()[at] > 0)
    components = weights = None
    if output.component_advantages is not None:
        values = to_tensor(output.component_advantages).numpy()[at]
        components = np.nan_to_num(values, nan=0.0).astype(np.float32)
        weights = np.ones_like(components)
        if output.component_weights is not None:
            given = to_tensor(output.component_weights).numpy()
            weights = weights * (given if given.ndim == 1 else given[at[0]])
    advantages = to_tensor(output.advantages).numpy()[at].astype(np.float32)
    return Estimate(advantages, components, weights, kept, output)
