"""Where an iteration of the learner spends its time and memory.

Run ``python -m reelrl.zoo.speed.learner``; ``--device cuda`` for an accelerator. Four tables:
seconds per phase and the overhead beside the model's own forward and backward passes; the rollout
against the stock pipeline's denoising loop; replaying several steps in one forward against one step
at a time; peak memory against group size (accelerators only).

On one CPU thread the clock is the process's own CPU time, which other processes do not lengthen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import gymnasium as gym
import torch
import tyro

import reelrl  # noqa: F401  (registers the ids)
from reelrl.algos.collect.collector import collect
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.policies import FlowPolicy
from reelrl.envs.models import VideoModel
from reelrl.zoo.speed.stopwatch import Stopwatch


@dataclass(frozen=True)
class Bench:
    """Time the learner on a shipped model."""

    model: str = "nano"
    """Shipped name or pipeline folder."""
    device: str = "cpu"
    """Where to run."""
    prompts: int = 4
    """Prompts per iteration."""
    group_size: int = 8
    """Clips per prompt."""
    num_steps: int = 10
    """Denoising steps."""
    repeats: int = 3
    """Measurements; the fastest counts."""


def make(bench: Bench, **rollout: Any) -> GRPO:
    """A learner on a model of its own."""
    model = VideoModel.from_pretrained(bench.model, device=bench.device)
    env = gym.make_vec(
        "reelrl/MovingShapes-v0",
        num_envs=bench.prompts * bench.group_size,
        model=model,
        num_steps=bench.num_steps,
        output="torch",
        autoreset_mode="Disabled",
    )
    config = GRPOConfig(
        prompts_per_iteration=bench.prompts,
        group_size=bench.group_size,
        rollout=RolloutConfig(**rollout),
    )
    return GRPO(env, FlowPolicy(model), "gdpo", config)


def fastest(bench: Bench, measure: Callable[[], float]) -> float:
    """The least of the repeats after one that warms up; other work on the machine only adds."""
    measure()
    return min(measure() for _ in range(bench.repeats))


def phases(bench: Bench) -> None:
    """Seconds per phase of one iteration, trained on the first four steps."""
    best: dict[str, float] = {}
    for _ in range(bench.repeats + 1):
        learner = make(bench, last_step=3)
        learner.learn(1)
        watch = Stopwatch(bench.device)
        model, task = learner.policy.model, learner.env.unwrapped.task
        watch.wrap(model, "velocity", "forward passes")
        watch.wrap(model, "decode", "decode")
        watch.wrap(task, "begin_scores", "reward")
        watch.wrap(learner.updater, "_backward", "backward passes")
        for name in ("collect", "estimate", "update"):
            watch.wrap(learner, name, name)
        with watch.running("iteration"):
            learner.learn(1)
        if not best or watch.seconds["iteration"] < best["iteration"]:
            best = watch.seconds
    own = ("forward passes", "backward passes", "decode", "reward")
    overhead = best["iteration"] - sum(best[name] for name in own)
    print(
        f"one iteration, {bench.prompts} x {bench.group_size} clips, 4 of {bench.num_steps} steps"
    )
    for name in ("iteration", "collect", "estimate", "update", *own):
        print(f"  {name:<18}{best[name]:8.3f} s {best[name] / best['iteration']:7.1%}")
    print(f"  {'all other':<18}{overhead:8.3f} s {overhead / best['iteration']:7.1%}")


def against_pipeline(bench: Bench) -> None:
    """Our stochastic rollout against the stock loop without log-probabilities, both undecoded."""
    learner = make(bench)
    task = learner.env.unwrapped
    count = task.num_envs

    def ours() -> float:
        watch = Stopwatch(bench.device)
        watch.wrap(task.task, "finish", "finish")
        ids = learner.prompt_ids(0)
        with watch.running("all"):
            collect(learner.env, learner.policy, ids, bench.group_size)
        del task.task.finish
        return watch.seconds["all"] - watch.seconds["finish"]

    pipe = _pipeline(learner.policy.model)
    embedding = task.embeddings[:count]

    def theirs() -> float:
        watch = Stopwatch(bench.device)
        with watch.running("all"), torch.no_grad():
            pipe(
                prompt_embeds=embedding,
                height=32,
                width=32,
                num_frames=9,
                num_inference_steps=bench.num_steps,
                guidance_scale=1.0,
                output_type="latent",
                generator=torch.Generator().manual_seed(0),
            )
        return watch.seconds["all"]

    theirs(), ours()
    # In turns: a neighbour that slows the machine for seconds then slows both.
    pairs = [(theirs(), ours()) for _ in range(bench.repeats)]
    stock, rollout = (min(times) for times in zip(*pairs, strict=True))
    ratio = median(mine / other for other, mine in pairs)
    print(f"rollout of {count} clips, {bench.num_steps} steps, without decoding")
    print(f"  stock pipeline    {stock:8.3f} s")
    print(
        f"  ours, log-probs   {rollout:8.3f} s  ({ratio:.2f} of it, median of {len(pairs)} pairs)"
    )


def _pipeline(model: Any) -> Any:
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(model.folder, transformer=model.transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(model.device)


def replay(bench: Bench) -> None:
    """Forward and backward through all stochastic steps of one group, batched and one by one."""
    learner = make(bench)
    transitions = learner.collect().stochastic()
    policy = learner.policy
    row, column = transitions.rows()
    items = torch.arange(transitions.num_items)
    print(f"replay of {len(transitions.steps)} steps of n clips, forward and backward")
    for clips in (1, 2, bench.group_size):

        def run(one_by_one: bool, clips: int = clips) -> float:
            mine = items[row < clips]
            parts = [mine]
            if one_by_one:
                parts = [mine[column[mine] == s] for s in range(len(transitions.steps))]
            watch = Stopwatch(bench.device)
            with watch.running("all"):
                for part in parts:
                    stored = transitions.items(part)
                    total = policy.log_prob(stored.obs, stored.action).sum()
                    torch.autograd.backward(total)
            return watch.seconds["all"]

        single = fastest(bench, lambda: run(True))
        batched = fastest(bench, lambda: run(False))
        print(
            f"  n = {clips:<4} one by one {single:7.3f} s   batched {batched:7.3f} s   "
            f"{single / batched:5.2f} times as fast"
        )


def memory(bench: Bench) -> None:
    """Peak memory of an iteration against the group size."""
    if not bench.device.startswith("cuda"):
        print("peak memory: measured on accelerators only")
        return
    print("peak memory of one iteration")
    for group_size in (4, 8, 16, 32):
        sized = Bench(**{**vars(bench), "group_size": group_size})
        learner = make(sized)
        torch.cuda.reset_peak_memory_stats()
        learner.learn(1)
        print(f"  group size {group_size:<4} {torch.cuda.max_memory_allocated() / 2**20:9.0f} MiB")


def main() -> None:
    """Print all tables."""
    bench = tyro.cli(Bench)
    print(
        f"{bench.model} on {bench.device}, {torch.get_num_threads()} threads, {torch.__version__}"
    )
    for table in (phases, against_pipeline, replay, memory):
        table(bench)


if __name__ == "__main__":
    main()
