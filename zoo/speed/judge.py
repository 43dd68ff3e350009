"""How much of a slow judge's time a rollout hides.

Run ``python -m reelrl.zoo.speed.judge``. A judge server on loopback takes a fixed time for every
request; the same clips are collected with a judge that is waited for and with one in the background
(:class:`~reelrl.rewards.asynchronous.AsyncReward`). "Blocked" is the time a rollout stands still
for scores, "hidden" the share of it that the background saves, 1 - blocked / blocked when waited
for. Clips are made ``--sub-envs`` at a time. The judging of one batch can overlap with the making
of the next: of B batches, which take about the same time each, all but the last. All is wall time;
on a busy machine the making takes longer and so hides more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
import tyro

from reelrl.algos.collect.collector import collect
from reelrl.algos.collect.rollout import Rollout
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.rewards import Reward, RewardOutput, make_reward
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.cache import adopt
from reelrl.rewards.judges.loopback import LoopbackServer, frames_of, yes_reply
from reelrl.zoo.speed.stopwatch import Stopwatch

BLOCKED = "blocked"


@dataclass(frozen=True)
class BenchConfig:
    """The measured cases."""

    model: str = "nano"
    """Name or folder of the generator."""
    clips: int = 32
    """Clips per rollout, a multiple of 4."""
    sub_envs: int = 8
    """Clips made at a time."""
    latency: float = 0.5
    """Seconds the judge takes for a request."""
    concurrency: int = 8
    """Requests at a time."""
    repeats: int = 3
    """Rollouts that are averaged, after one to warm up."""
    threads: int = 1
    """CPU threads of torch."""


class Waited(Reward):
    """A component in the foreground, timed."""

    def __init__(self, reward: Reward, watch: Stopwatch) -> None:
        self.reward, self.watch = reward, watch
        adopt(self, reward)

    def __call__(self, *batch: Any) -> RewardOutput:
        """Score and count the seconds."""
        with self.watch.running(BLOCKED):
            return self.reward(*batch)

    def score(self, *batch: Any) -> torch.Tensor:
        """Scores of the component."""
        return self.reward.score(*batch)


class Background(AsyncReward):
    """A component in the background, its waits timed."""

    def __init__(self, reward: Reward, watch: Stopwatch) -> None:
        super().__init__(reward)
        self.watch = watch

    def begin(self, *batch: Any) -> Callable[[], RewardOutput]:
        """Start; the seconds of waiting are counted."""
        wait = super().begin(*batch)

        def timed() -> RewardOutput:
            with self.watch.running(BLOCKED):
                return wait()

        return timed


def measure(
    config: BenchConfig, kind: Callable[[Reward, Stopwatch], Reward], url: str
) -> tuple[float, float, Rollout]:
    """Seconds per rollout, seconds of it blocked, and the clips."""
    watch = Stopwatch("cpu", time.perf_counter)
    judge = make_reward("openai_judge", model="judge", base_url=url, concurrency=config.concurrency)
    envs: Any = gym.make_vec(
        "reelrl:reelrl/MovingShapes-v0",
        num_envs=config.sub_envs,
        model=config.model,
        rewards=["proxy_mq", kind(judge, watch)],
        output="torch",
        autoreset_mode="Disabled",
    )
    policy = FlowPolicy(envs.unwrapped.model)
    prompts = list(range(config.clips // 4))
    clips = collect(envs, policy, prompts, 4, seed=0)
    watch.seconds.clear()
    start = time.perf_counter()
    for _ in range(config.repeats):
        clips = collect(envs, policy, prompts, 4, seed=0)
    total = time.perf_counter() - start
    return total / config.repeats, watch.seconds[BLOCKED] / config.repeats, clips


def main() -> None:
    """Print seconds per rollout for both, and the share that is hidden."""
    config = tyro.cli(BenchConfig, description=__doc__)
    torch.set_num_threads(config.threads)

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        time.sleep(config.latency)
        return yes_reply(0.01 + 0.98 * float(frames_of(request).mean()))

    with LoopbackServer(reply) as server:
        waited = measure(config, Waited, server.url)
        background = measure(config, Background, server.url)
    print(
        f"{config.clips} clips, {config.sub_envs} at a time; judge {config.latency:g} s a request, "
        f"{config.concurrency} requests at a time\n"
    )
    print("| judge | seconds per rollout | blocked |\n|---|---|---|")
    for name, (total, blocked, _) in (("waited for", waited), ("in the background", background)):
        print(f"| {name} | {total:.2f} | {blocked:.2f} |")
    batches = config.clips // config.sub_envs
    same = torch.equal(waited[2].rewards, background[2].rewards)
    hidden = 1 - background[1] / waited[1]
    print(f"\nhidden: {hidden:.0%} (all but one of {batches} batches: {1 - 1 / batches:.0%})")
    print(f"same scores: {same}")


if __name__ == "__main__":
    main()
