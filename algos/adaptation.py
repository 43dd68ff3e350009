"""The turn of the rewards that learn along: after each rollout, on its clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.collect.rollout import Rollout
from reelrl.rewards import Reward
from reelrl.rewards.adaptive import VERSION, AdaptiveReward, adaptive_parts

SEPARATOR = ":"
"""Between a component's path and the name of one of its tensors."""
STREAM = 3
"""Tells the draws of an adaptation from the learner's others of the same seed and iteration."""


@dataclass(frozen=True)
class Learning:
    """One component that learns.

    Attributes:
        column: of the reward vector that it is, or is part of.
        part: itself.
    """

    column: int
    part: AdaptiveReward


class Adaptation:
    """The components of a reward vector that learn along, found through whatever is around them.

    Args:
        rewards: the K components.

    Raises:
        ValueError: if two that learn cannot be told apart by name.
    """

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self.learning = {
            path: Learning(column, part)
            for column, reward in enumerate(rewards)
            for path, part in adaptive_parts(reward).items()
        }

    @property
    def columns(self) -> set[int]:
        """Columns of the reward vector whose scale moves on."""
        return {entry.column for entry in self.learning.values()}

    def __call__(
        self, rollout: Rollout, prompts: Sequence[str], seed: int, iteration: int
    ) -> tuple[dict[str, float], set[int]]:
        """Let each component learn from the clips of a rollout that it could score.

        Args:
            rollout: with all clips of this process.
            prompts: the environment's.
            seed: of the run.
            iteration: together with the seed decides all that is random.

        Returns:
            Numbers to log, and the columns whose version has changed.
        """
        if not self.learning:
            return {}, set()
        assert rollout.videos is not None
        # Every rank trains on the clips of all ranks in the same order, so that the weights stay
        # equal without a broadcast.
        videos = rollout.ranks.gather(rollout.videos)
        captions = [prompts[i] for i in rollout.prompt_ids.tolist()]
        metrics: dict[str, float] = {}
        changed = set()
        for number, (path, entry) in enumerate(self.learning.items()):
            rows = rollout.valid[:, entry.column].nonzero().flatten().tolist()
            before = entry.part.version
            if rows:
                generator = _generator(seed, iteration, number)
                found = entry.part.adapt(videos[rows], [captions[i] for i in rows], generator)
                metrics |= {f"adapt/{path}/{key}": value for key, value in found.items()}
            if entry.part.version != before:
                changed.add(entry.column)
            metrics[f"adapt/{path}/{VERSION}"] = float(entry.part.version)
        self._keep_in_step(rollout)
        return metrics, changed

    def _keep_in_step(self, rollout: Rollout) -> None:
        """Take over the first process's state: accelerators do not all round alike."""
        if rollout.ranks.count > 1:
            host = {name: tensor.cpu() for name, tensor in self.state().items()}
            self.restore(rollout.ranks.exchange(host)[0])

    def state(self) -> dict[str, Tensor]:
        """State of all components, to save with a checkpoint."""
        return {
            f"{path}{SEPARATOR}{name}": tensor
            for path, entry in self.learning.items()
            for name, tensor in entry.part.state_dict().items()
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Restore a result of :meth:`state`.

        Raises:
            ValueError: if it is of other components.
        """
        states: dict[str, dict[str, Tensor]] = {}
        for key, tensor in saved.items():
            path, name = key.rsplit(SEPARATOR, 1)
            states.setdefault(path, {})[name] = tensor
        if states.keys() != self.learning.keys():
            raise ValueError(
                f"the run had the adaptive rewards {sorted(states)}, the environment has "
                f"{sorted(self.learning)}"
            )
        for path, entry in self.learning.items():
            entry.part.load_state_dict(states[path])


def _generator(seed: int, iteration: int, number: int) -> torch.Generator:
    words = np.random.SeedSequence([seed, iteration, number, STREAM]).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(words[0] >> np.uint64(1)))
