"""Components that learn along with the policy: a score that moves on, version by version.

A component that stays as it is gets optimised until its errors are all that is left. A reward that
is retrained on the policy's present clips closes the holes the policy has found, at a price: a
number of one version cannot be compared with a number of another. So each version has a number.
Caches see it in :attr:`AdaptiveReward.fingerprint`, and the learner forgets all that it had learned
of the old scale.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from reelrl.rewards.base import Reward
from reelrl.rewards.cache import clip_key

VERSION = "version"
"""Name of the number of adaptations in a state."""


class AdaptiveReward(Reward):
    """A component that is trained on the clips of each rollout, after the policy has been.

    Within a version it is a function like any other. An adaptation is decided by the state before
    it, its clips and its generator alone, so that a run can be taken up again and several processes
    arrive at the same version without telling each other.

    A subclass trains a copy of its weights and calls :meth:`moved_on` once that is in place: a late
    score in a background thread never meets weights that are half trained.

    Attributes:
        version: adaptations so far.
    """

    version: int = 0

    @abstractmethod
    def adapt(
        self, videos: Tensor, prompts: Sequence[str], generator: torch.Generator
    ) -> dict[str, float]:
        """Learn from clips that the policy has just made.

        Args:
            videos: (N, F, H, W, 3) uint8 on the host.
            prompts: N captions.
            generator: on the host, the only source of randomness.

        Returns:
            Numbers to log.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All that adapting changes, the version included."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that :meth:`state_dict` made.

        Raises:
            ValueError: for the state of something else.
        """

    @property
    @abstractmethod
    def settings(self) -> str:
        """Changes with anything that a score depends on and that adapting leaves as it is."""

    @property
    def fingerprint(self) -> str:
        """Changes with anything a score depends on besides clip and caption.

        The number of the version would not do: two runs that share a folder of scores both have a
        version 3, and not the same one.
        """
        return f"{self.name} {self.settings} {self.version} {self._digest}"

    @cached_property
    def _digest(self) -> str:
        state = dict(sorted(self.state_dict().items()))
        return clip_key(list(state.values()), *state)

    def moved_on(self, version: int) -> None:
        """Be that version from now on."""
        self.version = version
        self.__dict__.pop("_digest", None)


def adaptive_parts(reward: Reward) -> dict[str, AdaptiveReward]:
    """The parts of a component that learn along, by path, inside wrappers and ensemble members too.

    Raises:
        ValueError: if two of them have one path.
    """
    found: dict[str, AdaptiveReward] = {}
    for path, part in _walk(reward, reward.name):
        if found.setdefault(path, part) is not part:
            raise ValueError(f"two rewards that adapt are called {path!r}: give one a label")
    return found


def _walk(reward: Reward, path: str) -> list[tuple[str, AdaptiveReward]]:
    here = [(path, reward)] if isinstance(reward, AdaptiveReward) else []
    alone = len(reward.parts) == 1
    return here + [
        entry
        for part in reward.parts
        for entry in _walk(part, path if alone else f"{path}/{part.name}")
    ]


def check_state(name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """See that a state has the tensors it should.

    Raises:
        ValueError: naming the difference.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    wanted = {key: tuple(value.shape) for key, value in expected.items()}
    if shapes != wanted:
        raise ValueError(
            f"the state of reward {name!r} must have the shapes {wanted}, got {shapes}"
        )
