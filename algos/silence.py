"""Iterations in which nothing was learned: why, and the end of a run that has too many of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from reelrl.algos.advantages import AdvantageEstimator, RewardBatch
from reelrl.algos.learners.update import LearnerWarning, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from reelrl.algos.advantages import AdvantageOutput
    from reelrl.algos.collect.rollout import Rollout


class NothingLearned(TrainingError):
    """A run ends because its iterations teach nothing; its weights are sound."""


@dataclass
class Silence:
    """Counts iterations without a signal, and components without a score.

    Attributes:
        names: of the K components.
        counted: for each, whether it is trained on: its weight is not 0.
        most: iterations in a row after which the run ends.
        iterations: in a row, without any signal.
        unscored: name -> iterations in a row without a score.
    """

    names: Sequence[str]
    counted: Sequence[bool]
    most: int
    iterations: int = 0
    unscored: dict[str, int] | None = None

    def __call__(
        self,
        iteration: int,
        rollout: Rollout,
        output: AdvantageOutput,
        active: int,
        causes: Mapping[str, str],
    ) -> None:
        """Look at an iteration before its update.

        Args:
            iteration: number of it, from 0.
            rollout: its clips.
            output: their advantages.
            active: number of items that have a signal.
            causes: name of a component -> why it last failed, where that is known.

        Raises:
            NothingLearned: if no component scored a clip in the first iteration, if there was no
                signal in ``most`` iterations in a row, or if a component that is trained on scored
                no clip in so many.
        """
        scored = rollout.valid.any(dim=0).tolist()
        dead = [n for n, s, c in zip(self.names, scored, self.counted, strict=True) if c and not s]
        before = self.unscored or {}
        self.unscored = {name: before.get(name, 0) + 1 for name in dead}
        for name, times in self.unscored.items():
            if times >= self.most:
                raise NothingLearned(
                    f"reward {name!r} has scored no clip in {times} iterations in a row"
                    f"{_because(causes.get(name))}"
                )
        if active:
            self.iterations = 0
            return
        self.iterations += 1
        reason = _reason(rollout, output, dead, sum(self.counted), causes)
        if iteration == 0 and len(dead) == sum(self.counted):
            raise NothingLearned(f"nothing can be learned: {reason}")
        if self.iterations >= self.most:
            raise NothingLearned(
                f"nothing was learned in {self.iterations} iterations in a row: {reason}"
            )
        warnings.warn(
            f"nothing was learned in iteration {iteration}: {reason}", LearnerWarning, stacklevel=3
        )


def check_group_of_one(estimator: AdvantageEstimator, names: Sequence[str], prompts: int) -> None:
    """Refuse groups of one clip for an estimator that compares a clip with the rest of its group.

    The estimator is tried on clips that all score differently.

    Args:
        estimator: to try.
        names: of the K components.
        prompts: P.

    Raises:
        ValueError: if every advantage is zero.
    """
    if estimator.requires - {"bounds"}:
        return  # Its evidence cannot be made up.
    places = torch.arange(prompts * len(names), dtype=torch.float64, device="cpu")
    rewards = torch.sin(places + 1).reshape(prompts, 1, -1)
    bounds = torch.tensor([[-1.0, 1.0]] * len(names), dtype=torch.float64, device="cpu")
    batch = RewardBatch(rewards, tuple(names), bounds=bounds)
    output, _ = estimator(batch, estimator.init_state(list(names)))
    if not torch.as_tensor(output.advantages).any():
        raise ValueError(
            f"group_size must be at least 2 for estimator {estimator.name!r}, got 1: it compares "
            "the clips of a group with each other, so every advantage would be 0"
        )


def _reason(
    rollout: Rollout,
    output: AdvantageOutput,
    dead: Sequence[str],
    counted: int,
    causes: Mapping[str, str],
) -> str:
    """One clause that says why no item has a signal."""
    if len(dead) == counted:
        why = "; ".join(f"{name!r}{_because(causes.get(name))}" for name in dead)
        return f"no reward scored any of {len(rollout.rewards)} clips: {why}"
    if rollout.group_size == 1:
        return "groups of one clip leave nothing to compare (group_size is 1)"
    if not _spread(rollout.rewards, rollout.group_size):
        return "all clips of a group score the same in every reward"
    if torch.as_tensor(output.advantages).any():
        return "every clip with an advantage was dropped by the estimator, or has no transition"
    return "the estimator gave every clip an advantage of 0"


def _spread(rewards: Tensor, group_size: int) -> bool:
    """Whether two clips of any group differ in any component."""
    groups = torch.unflatten(rewards, 0, (-1, group_size))
    known = groups.isfinite()
    low = torch.where(known, groups, torch.inf).amin(dim=1)
    high = torch.where(known, groups, -torch.inf).amax(dim=1)
    return bool((high > low).any())


def _because(cause: Any) -> str:
    return f" ({cause})" if cause else ""
