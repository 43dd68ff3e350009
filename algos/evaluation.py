"""Clips of the policy without noise on the way, from fixed prompts and fixed initial noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.policies.weights import EMA, averaged
from reelrl.algos.run.distributed import ALONE, Ranks
from reelrl.ambient import undisturbed

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


class Examination(Protocol):
    """The interface of an evaluation, which a learner calls now and then."""

    @property
    def every(self) -> int:
        """Iterations between two examinations."""

    def metrics(self, policy: FlowPolicy, ema: EMA | None = None) -> dict[str, float]:
        """Numbers by name, of the weights or of their average."""


@dataclass(frozen=True)
class Evaluation:
    """A fixed examination, best with rewards that nothing is trained on.

    Attributes:
        env: the native batch over the policy's model, ``autoreset_mode="Disabled"``.
        prompt_ids: N rows of its prompts; the share of each process a multiple of its ``num_envs``.
        seed: of the initial noise; clip i starts from seed + i.
        every: iterations between two examinations of a learner.
        ranks: processes that share the clips out among them.

    Raises:
        ValueError: if N does not fit the environment.
    """

    env: Any
    prompt_ids: Sequence[int]
    seed: int = 0
    every: int = 10
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        own, batch = self._own(), self.env.unwrapped.num_envs
        count = own.stop - own.start
        if not count or count % batch:
            raise ValueError(
                f"an evaluation needs a positive multiple of num_envs = {batch} prompts, "
                f"got {count}"
            )

    def _own(self) -> slice:
        return self.ranks.part(len(self.prompt_ids), "number of examined prompts")

    @undisturbed
    @torch.no_grad()
    def __call__(
        self, policy: FlowPolicy, ema: EMA | None = None
    ) -> tuple[Float[Tensor, "N K"], UInt8[Tensor, "n F H W 3"]]:
        """Examine a policy; it is bound to this environment afterwards.

        Args:
            policy: takes the Euler steps of its probability flow.
            ema: average of the weights to examine instead of the weights.

        Returns:
            rewards (N, K) of all and clips (N / processes, F, H, W, 3) uint8 of this process, both
            on the host.
        """
        policy.bind(self.env)
        own, batch = self._own(), self.env.unwrapped.num_envs
        rewards, videos = [], []
        with averaged(ema):
            for start in range(own.start, own.stop, batch):
                options = {
                    "prompt_id": list(self.prompt_ids[start : start + batch]),
                    "noise_seed": [self.seed + start + i for i in range(batch)],
                }
                obs, _ = self.env.reset(options=options)
                for _ in range(self.env.unwrapped.num_steps):
                    obs, reward, _, _, infos = self.env.step(policy.predict(obs, True))
                rewards.append(torch.as_tensor(infos.get("vector_reward", reward)).cpu())
                videos.append(torch.as_tensor(infos["video"]).cpu())
        return self.ranks.gather(torch.cat(rewards)), torch.cat(videos)

    def metrics(self, policy: FlowPolicy, ema: EMA | None = None) -> dict[str, float]:
        """Mean reward per component as ``eval/<name>``; clips that could not be scored aside."""
        means = self(policy, ema)[0].double().nanmean(dim=0).tolist()
        names = self.env.unwrapped.reward_names
        return {f"eval/{name}": mean for name, mean in zip(names, means, strict=True)}
