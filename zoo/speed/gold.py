"""Speed of the MovingShapes world and its scores: ``python -m reelrl.zoo.speed.gold``.

Best wall clock and best processor time (all threads together) of the repeats, on however many
threads torch is given (``OMP_NUM_THREADS``). With one thread the processor time holds on a busy
machine too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from reelrl.rewards import make_reward
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.zoo.speed.stopwatch import least, times

REPEATS = 20


def main() -> None:
    """Print the table."""
    generator = torch.Generator().manual_seed(0)
    clips = sample_clips(64, generator)
    rows: list[tuple[str, int, Callable[[], object]]] = [
        (
            "gold axes, 64 clips",
            REPEATS,
            partial(gold_axes_of_prompts, clips.videos, clips.captions),
        )
    ]
    for name in ("proxy_vq", "proxy_mq", "proxy_ta"):
        rows.append(
            (f"{name}, 64 clips", REPEATS, partial(make_reward(name), clips.videos, clips.captions))
        )
    rows.append(("render 10,000 clips", 1, partial(sample_clips, 10_000, generator)))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, CPU\n")
    print("| work | wall ms | processor ms |\n|---|---|---|")
    for label, repeats, work in rows:
        took = least(times(work, repeats))
        print(f"| {label} | {1000 * took.wall:.1f} | {1000 * took.processor:.1f} |")


if __name__ == "__main__":
    main()
