"""A component that scores in the background while other work goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.base import Reward, RewardOutput
from reelrl.rewards.cache import adopt


class AsyncReward(Reward):
    """Scores a batch in a thread of its own, with the values of the wrapped component.

    :meth:`begin` starts and returns an object at once, whose result waits for the scores. Calling
    the component does both, so code that does not know this class loses only the overlap.
    Batches are scored one after the other, in the order they were begun: the component is never
    entered twice.

    Only work that releases Python's global lock overlaps: waiting for a server, work on an
    accelerator, and long tensor operations. A judge that computes on the CPU competes with the
    sampler for the same cores and gains nothing.

    Args:
        reward: any component.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        adopt(self, reward)
        self._last: Event | None = None

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The component that scores in the background."""
        return (self.reward,)

    def begin(
        self,
        videos: Tensor,
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]] | None = None,
    ) -> Callable[[], RewardOutput]:
        """Start scoring N clips (N, F, H, W, 3).

        Returns:
            A function that waits for the scores, and raises the component's exception.
        """
        # The caller may reuse its memory before the thread has read it.
        clips, texts = videos.detach().clone(), list(prompts)
        facts = None if infos is None else list(infos)
        before, done = self._last, Event()
        self._last = done
        result: list[RewardOutput] = []
        errors: list[Exception] = []

        def work() -> None:
            if before is not None:
                before.wait()
            try:
                result.append(self.reward(clips, texts, facts))
            except Exception as error:
                errors.append(error)
            finally:
                done.set()

        Thread(target=work, daemon=True).start()

        def wait() -> RewardOutput:
            done.wait()
            if errors:
                raise errors[0]
            return result[0]

        return wait

    def __call__(
        self,
        videos: Tensor,
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]] | None = None,
    ) -> RewardOutput:
        """Begin and wait; see :meth:`reelrl.rewards.Reward.__call__`."""
        return self.begin(videos, prompts, infos)()

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Scores of the component; see :meth:`reelrl.rewards.Reward.score`."""
        output = self.begin(videos, prompts, infos)()
        return torch.where(output.valid, output.values, torch.nan)
