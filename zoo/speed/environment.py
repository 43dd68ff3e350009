"""Speed of the environment, and its own cost beside model and rewards.

Run ``python -m reelrl.zoo.speed.environment``; ``--device cuda`` for an accelerator. An
episode is played by the model itself with Euler steps, forwards included. Model and rewards are
timed where they are called; "beside" is the rest: bookkeeping, noise, checks, copies and the
agent's own step.

On one CPU thread the clock is the process's own CPU time, which equals wall time on an idle machine
and is not lengthened by other processes on a busy one. Elsewhere it is wall time.
"""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Annotated, Literal

import gymnasium as gym
import torch
import tyro
from torch import Tensor

from reelrl.envs.models import VideoModel
from reelrl.envs.vector import TextToVideoVectorEnv
from reelrl.zoo.speed.stopwatch import Stopwatch

Output = Literal["numpy", "torch"]
OUTPUTS: tuple[Output, ...] = ("numpy", "torch")
WAN_LATENT = (16, 21, 60, 104)
"""Latent of a Wan 1.3B clip of 81 frames of 480x832 pixels."""


@dataclass(frozen=True)
class BenchConfig:
    """The measured cases."""

    env: str = "reelrl:reelrl/MovingShapes-v0"
    """Id of the environment."""
    model: str = "nano"
    """Name or folder of the model."""
    device: str = "cpu"
    """Where the model lives."""
    sub_envs: tuple[int, ...] = (1, 8, 64)
    """Batch sizes."""
    repeats: int = 5
    """Episodes per measurement; the fastest counts, because others share the machine."""
    threads: Annotated[int, tyro.conf.arg(aliases=["-t"])] = 1
    """CPU threads of torch."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one episode of a batch, in all and by part, and its length."""

    total: float
    parts: dict[str, float]
    num_steps: int

    @property
    def beside(self) -> float:
        """Seconds outside model and rewards."""
        return self.total - sum(self.parts.values())


def instrumented(
    config: BenchConfig, num_envs: int, output: Output
) -> tuple[TextToVideoVectorEnv, Stopwatch]:
    """A batched environment whose model and rewards report their time."""
    model = VideoModel.from_pretrained(config.model, device=config.device)
    watch = Stopwatch(model.device)
    envs = gym.make_vec(
        config.env, num_envs=num_envs, model=model, output=output, autoreset_mode="Disabled"
    ).unwrapped
    assert isinstance(envs, TextToVideoVectorEnv)
    for owner, method, name in (
        (model, "velocity", "velocity"),
        (model, "decode", "decode"),
        (envs.task, "begin_scores", "rewards"),
    ):
        watch.wrap(owner, method, name)
    return envs, watch


def play(envs: TextToVideoVectorEnv, embeddings: Tensor) -> None:
    """One episode of every sub-environment: Euler steps along the model's velocity."""
    observations, _ = envs.reset()
    changes = envs.sigmas.diff().tolist()
    for change in changes:
        latent = torch.as_tensor(observations["latent"], device=envs.device)
        sigma = torch.as_tensor(observations["sigma"], device=envs.device)[:, 0]
        ids = torch.as_tensor(observations["prompt_id"], device=envs.device)[:, 0]
        velocity = envs.model.velocity(latent, sigma, embeddings[ids])
        action = torch.add(latent, velocity, alpha=change)
        observations, *_ = envs.step(action if envs.output == "torch" else action.cpu().numpy())


@torch.no_grad()
def measure(config: BenchConfig, num_envs: int, output: Output) -> Timing:
    """The fastest of ``config.repeats`` episodes, after one to warm up."""
    envs, watch = instrumented(config, num_envs, output)
    embeddings = envs.embeddings
    envs.reset(seed=0)
    play(envs, embeddings)
    timings = []
    for _ in range(config.repeats):
        watch.seconds.clear()
        start = watch.now()
        play(envs, embeddings)
        total = watch.now() - start
        timings.append(Timing(total, dict(watch.seconds), envs.num_steps))
    return min(timings, key=lambda timing: timing.total)


def space_memory(num_envs: int) -> float:
    """Peak megabytes for declaring the spaces of a Wan-sized batch."""
    model = VideoModel.from_pretrained("nano")
    # A stand-in for loading a Wan 1.3B: only the declared size is measured.
    model.latent_shape = lambda *size: WAN_LATENT  # type: ignore[method-assign]
    tracemalloc.start()
    gym.make_vec("reelrl:reelrl/MovingShapes-v0", num_envs=num_envs, model=model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def row(num_envs: int, output: str, timing: Timing) -> str:
    """A line of the table."""
    seconds = [timing.parts.get(name, 0.0) for name in ("velocity", "decode", "rewards")]
    cells = [
        str(num_envs),
        output,
        f"{timing.num_steps * num_envs / timing.total:.0f}",
        f"{1000 * timing.total / num_envs:.1f}",
        *(f"{100 * part / timing.total:.1f} %" for part in (*seconds, timing.beside)),
    ]
    return "| " + " | ".join(cells) + " |"


def print_table(config: BenchConfig) -> None:
    """The table, line by line as it is measured, and the saving by batching."""
    print("| sub-envs | output | env-steps/s | ms per clip | forward | decode | rewards | beside |")
    print("|" + "---|" * 8)
    per_clip: dict[tuple[str, int], float] = {}
    for output in OUTPUTS:
        for num_envs in config.sub_envs:
            timing = measure(config, num_envs, output)
            per_clip[output, num_envs] = timing.total / num_envs
            print(row(num_envs, output, timing), flush=True)
    few, many = min(config.sub_envs), max(config.sub_envs)
    for output in OUTPUTS:
        gain = per_clip[output, few] / per_clip[output, many]
        print(f"{output}: a clip of {many} at once costs 1/{gain:.1f} of one of {few} at once")


def main() -> None:
    """Print the table."""
    config = tyro.cli(BenchConfig, description=__doc__)
    torch.set_num_threads(config.threads)
    cuda = config.device.startswith("cuda")
    place = torch.cuda.get_device_name() if cuda else f"{config.threads} CPU thread(s)"
    print(f"{config.env} on {place}, torch {torch.__version__}\n")
    print_table(config)
    print(f"\nspaces of 8 Wan-1.3B-sized sub-envs: {space_memory(8):.1f} MB")


if __name__ == "__main__":
    main()
