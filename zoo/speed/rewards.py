"""Speed of the rewards: ``python -m reelrl.zoo.speed.rewards --out docs``.

Clips per second of every component without weights on two batches: 64 clips of 9x32x32 and 16 of
81x480x832. Times are the best of several calls, wall clock and processor time of all threads
together; on a machine that others use too, the processor time is the one that holds, and two idle
cores would need half of it at best.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import Tensor

from reelrl.rewards import make_reward
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.zoo.documents.reward_list import table
from reelrl.zoo.documents.reward_page import programmatic
from reelrl.zoo.speed.stopwatch import least, times

SMALL, LARGE = (64, 9, 32, 32), (16, 81, 480, 832)
GROUP = 8


class Timing(NamedTuple):
    """Best milliseconds of a call."""

    wall: float
    processor: float


def small_clips() -> Tensor:
    """Clips of MovingShapes."""
    return sample_clips(SMALL[0], torch.Generator().manual_seed(0)).videos


def large_clips(count: int) -> Tensor:
    """Soft pictures that pan, with a little noise: nothing is flat, everything moves."""
    _, frames, height, width = LARGE
    generator = torch.Generator().manual_seed(0)
    out = torch.empty(count, frames, height, width, 3)
    for clip in out:
        coarse = torch.rand(1, 3, 24, 40, generator=generator)
        size = (height, width + 2 * frames)
        wide = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0]
        wide = (wide + 0.02 * torch.randn(wide.shape, generator=generator)).clamp(0, 1)
        for t in range(frames):
            clip[t] = wide[:, :, 2 * t : 2 * t + width].movedim(0, -1)
    return out


def time_all(videos: Tensor, repeats: int) -> dict[str, Timing]:
    """Timing of every component on one batch, in sets of eight."""
    prompts = [f"a prompt {row // GROUP}" for row in range(len(videos))]
    found = {}
    for name in programmatic():
        call = partial(make_reward(name), videos, prompts)
        found[name] = Timing(*(1000 * seconds for seconds in least(times(call, repeats))))
        print(f"{name}: {found[name].wall:.1f} ms", flush=True)
    return found


def _rows(small: dict[str, Timing], large: dict[str, Timing], count: int) -> list[list[str]]:
    rows = []
    for name in small:
        a, b = small[name], large.get(name)
        cells = [name, f"{a.wall:.1f}", f"{a.processor:.1f}", f"{1000 * SMALL[0] / a.wall:,.0f}"]
        if b is not None:
            cells += [f"{b.wall:,.0f}", f"{b.processor:,.0f}", f"{1000 * count / b.wall:,.1f}"]
        rows.append(cells)
    return rows


def main(out: Path | None = None, large: int = LARGE[0], repeats: int = 10) -> None:
    """Print the table.

    Args:
        out: folder to write it to as ``rewards-speed.md``, besides printing.
        large: clips of 81x480x832; 16 need 6.2 GB, 0 leaves them out.
        repeats: calls on the small batch; the large one gets two.
    """
    busy = os.getloadavg()[0]
    small = time_all(small_clips(), repeats)
    big = time_all(large_clips(large), 2) if large else {}
    header = ["reward", "64 small: ms", "processor ms", "clips/s"]
    if large:
        header += [f"{large} large: ms", "processor ms", "clips/s"]
    text = (
        "# Speed of the rewards without weights\n\n"
        f"{torch.get_num_threads()} threads of torch {torch.__version__} on a CPU with "
        f"{os.cpu_count()} cores, load average {busy:.1f} at the start: above the number of cores, "
        "other programs had a part of them, and wall clock is an upper bound. Small clips are "
        "9x32x32, large ones 81x480x832. Best of several calls by "
        "`python -m reelrl.zoo.speed.rewards --out docs`.\n\n"
        f"{table(header, _rows(small, big, large))}\n"
    )
    print(text)
    if out is not None:
        (out / "rewards-speed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
