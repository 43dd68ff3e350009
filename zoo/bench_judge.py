"""How much of a slow judge's time a rollout hides.

Run ``python -m reelrl.zoo.bench_judge``. A judge server on loopback takes a fixed time for every
request; the same clips are collected without a judge, with one that is waited for, and with one in
the background (:class:`~reelrl.rewards.asynchronous.AsyncReward`). "Hidden" is the share of the
time that waiting costs which the background saves: (waited - background) / (waited - none). Clips
are made ``--sub-envs`` at a time, and what can overlap is the judging of one such batch with the
making of the next: with B batches, at most (B - 1) / B of it. Wall time; the fastest of several.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
import tyro

from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.rollout import Rollout, collect
from reelrl.rewards import Reward, make_reward
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.judges.loopback import LoopbackServer, frames_of, yes_reply

WAYS = ("none", "waited", "background")


@dataclass(frozen=True)
class BenchConfig:
    """What is measured."""

    model: str = "nano"
    """Name or folder of the generator."""
    clips: int = 32
    """Clips per rollout."""
    sub_envs: int = 8
    """Clips made at a time."""
    latency: float = 0.5
    """Seconds the judge takes for a request."""
    concurrency: int = 8
    """Requests at a time."""
    repeats: int = 3
    """Rollouts per way; the fastest counts, because others share the machine."""
    threads: int = 1
    """CPU threads of torch."""


def rollout(config: BenchConfig, way: str, url: str) -> tuple[float, Rollout]:
    """Seconds of the fastest rollout, and its clips."""
    rewards: list[str | Reward] = ["proxy_mq"]
    if way != "none":
        judge = make_reward(
            "openai_judge", model="judge", base_url=url, concurrency=config.concurrency
        )
        rewards.append(AsyncReward(judge) if way == "background" else judge)
    envs: Any = gym.make_vec(
        "reelrl:reelrl/MovingShapes-v0",
        num_envs=config.sub_envs,
        model=config.model,
        rewards=rewards,
        output="torch",
        autoreset_mode="Disabled",
    )
    policy = FlowPolicy(envs.unwrapped.model)
    prompts = list(range(config.clips // 4))
    seconds = []
    for _ in range(config.repeats + 1):
        start = time.perf_counter()
        clips = collect(envs, policy, prompts, 4, seed=0)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]), clips


def main() -> None:
    """Print seconds per rollout for the three ways, and the share that is hidden."""
    config = tyro.cli(BenchConfig, description=__doc__)
    torch.set_num_threads(config.threads)

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        time.sleep(config.latency)
        return yes_reply(0.01 + 0.98 * float(frames_of(request).mean()))

    with LoopbackServer(reply) as server:
        found = {way: rollout(config, way, server.url) for way in WAYS}
    seconds = {way: found[way][0] for way in WAYS}
    print(
        f"{config.clips} clips, {config.sub_envs} at a time, judge {config.latency:g} s a request, "
        f"{config.concurrency} at a time\n\n| judge | seconds per rollout |\n|---|---|"
    )
    print("\n".join(f"| {way} | {seconds[way]:.2f} |" for way in WAYS))
    hidden = (seconds["waited"] - seconds["background"]) / (seconds["waited"] - seconds["none"])
    batches = config.clips // config.sub_envs
    same = torch.equal(found["waited"][1].rewards, found["background"][1].rewards)
    print(f"\nhidden: {hidden:.0%} (at most {(batches - 1) / batches:.0%}); same scores: {same}")


if __name__ == "__main__":
    main()
