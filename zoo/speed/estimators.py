"""Speed of the estimators: ``python -m reelrl.zoo.speed.estimators``.

One call on 100,000 groups of 16 with 5 components, against a plain Python loop over lists and a
NumPy loop over groups, and how the cost grows with the number of groups. Times are the best and the
median of several calls; threads are torch's (set OMP_NUM_THREADS).
"""

from __future__ import annotations

import math
import statistics
from functools import partial

import numpy as np
import torch

from reelrl.algos.advantages import RewardBatch, make_estimator
from reelrl.zoo.speed.stopwatch import times

NAMES = ("grpo", "gdpo", "taros")
GROUPS, MEMBERS, COMPONENTS = 100_000, 16, 5
SIZES = (3_125, 6_250, 12_500, 25_000, 50_000, 100_000)
LOOP_GROUPS = 500
REPEATS = 9


Groups = list[list[list[float]]]
"""Rewards by group, member and component."""


def batch(groups: int) -> RewardBatch:
    """Uniform float64 rewards with bounds (0, 1)."""
    rewards = np.random.default_rng(0).random((groups, MEMBERS, COMPONENTS))
    names = tuple(f"r{k}" for k in range(COMPONENTS))
    return RewardBatch(rewards, names, bounds=np.tile([0.0, 1.0], (COMPONENTS, 1)))


def _z(values: list[float], eps: float) -> list[float]:
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return [(v - mean) / (std + eps) if std > 1e-12 else 0.0 for v in values]


def loop_grpo(groups: Groups) -> list[list[float]]:
    """GRPO as one would write it first."""
    return [_z([sum(row) for row in group], 1e-8) for group in groups]


def loop_gdpo(groups: Groups) -> list[float]:
    """GDPO likewise."""
    sums = []
    for group in groups:
        columns = [_z(list(column), 0.0) for column in zip(*group, strict=True)]
        sums += [sum(row) for row in zip(*columns, strict=True)]
    return _z(sums, 1e-8)


def loop_taros(groups: Groups) -> list[list[float]]:
    """TaRoS likewise."""
    out, root = [], math.sqrt(MEMBERS)
    for group in groups:
        columns = list(zip(*group, strict=True))
        sparse = [
            (root - sum(map(abs, c)) / math.sqrt(sum(x * x for x in c))) / (root - 1)
            for c in columns
        ] + [0.0]
        utility = [
            1 / (1 + math.exp(0.75 - sum(c) / len(c))) + 0.3 * (sparse[k] - sparse[k + 1])
            for k, c in enumerate(columns)
        ]
        weights = [math.exp(u) for u in utility]
        weights = [w / sum(weights) for w in weights]
        total = [sum(w * r for w, r in zip(weights, row, strict=True)) for row in group]
        out.append(_z(total, 1e-8))
    return out


def numpy_grpo(groups: np.ndarray) -> list[np.ndarray]:
    """One group at a time in NumPy, as trainers that collect groups by prompt do."""
    sums = [group.sum(1) for group in groups]
    return [(s - s.mean()) / (s.std(ddof=1) + 1e-8) for s in sums]


def numpy_gdpo(groups: np.ndarray) -> np.ndarray:
    """GDPO likewise."""
    total = np.stack([((g - g.mean(0)) / g.std(0, ddof=1)).sum(1) for g in groups])
    advantages: np.ndarray = (total - total.mean()) / (total.std(ddof=1) + 1e-8)
    return advantages


def numpy_taros(groups: np.ndarray) -> list[np.ndarray]:
    """TaRoS likewise."""
    sums, root = [], math.sqrt(MEMBERS)
    for group in groups:
        ratio = np.abs(group).sum(0) / np.sqrt((group**2).sum(0))
        sparse = np.append((root - ratio) / (root - 1), 0.0)
        h = 1 / (1 + np.exp(0.75 - group.mean(0)))
        weights = np.exp(h + 0.3 * (sparse[:-1] - sparse[1:]))
        sums.append(group @ (weights / weights.sum()))
    return [(s - s.mean()) / (s.std(ddof=1) + 1e-8) for s in sums]


NUMPY = {"grpo": numpy_grpo, "gdpo": numpy_gdpo, "taros": numpy_taros}
LOOPS = {"grpo": loop_grpo, "gdpo": loop_gdpo, "taros": loop_taros}


def speed_table() -> str:
    """One call at full size against both loops, whose cost is linear, on a part of it."""
    whole, part = batch(GROUPS), batch(LOOP_GROUPS)
    rewards = np.asarray(part.rewards)
    factor = GROUPS / LOOP_GROUPS
    lines = [
        f"| {GROUPS:,} x {MEMBERS} x {COMPONENTS} | best ms | median ms | list loop ms | "
        "NumPy loop ms | times faster than lists / NumPy (best) |",
        "|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        found = [took.wall for took in times(partial(make_estimator(name), whole), REPEATS)]
        lists = factor * min(times(partial(LOOPS[name], rewards.tolist()), 3)).wall
        arrays = factor * min(times(partial(NUMPY[name], rewards), 3)).wall
        best, median = min(found), statistics.median(found)
        lines.append(
            f"| {name} | {1e3 * best:.0f} | {1e3 * median:.0f} | {1e3 * lists:.0f} | "
            f"{1e3 * arrays:.0f} | {lists / best:.0f} / {arrays / best:.0f} |"
        )
    return "\n".join(lines)


def growth_table() -> str:
    """Best time by number of groups, and the exponent of a power law fitted to it."""
    lines = [
        "| groups | " + " | ".join(f"{n:,}" for n in SIZES) + " | exponent |",
        "|---" * (len(SIZES) + 2) + "|",
    ]
    for name in NAMES:
        estimator = make_estimator(name)
        best = [min(times(partial(estimator, batch(n)), REPEATS)).wall for n in SIZES]
        exponent = np.polyfit(np.log(SIZES), np.log(best), 1)[0]
        cells = " | ".join(f"{1e3 * t:.1f}" for t in best)
        lines.append(f"| {name} (ms) | {cells} | {exponent:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(speed_table(), end="\n\n")
    print(growth_table())


if __name__ == "__main__":
    main()
