"""Which denoising steps of an iteration draw noise, and which clips share their way up to where.

Both are decided once per iteration, from seed and iteration alone: a window drawn per clip would
make the members of a group incomparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal

import numpy as np

from reelrl.checks import Ge, check_fields

WindowMode = Literal["all", "random", "sliding", "none"]


@dataclass(frozen=True)
class RolloutConfig:
    """How clips are drawn.

    Steps outside of the window are deterministic (Euler) and not trained.

    Attributes:
        window: ``"all"`` candidate steps; a ``"random"`` subset of ``window_size`` of them
            (Flow-GRPO-Fast, DanceGRPO); a ``"sliding"`` run of ``window_size`` of them that moves
            on by one every ``window_stride`` iterations and starts over at the end (MixGRPO); or
            ``"none"``: every step is deterministic, and the rollout has clips and no transitions.
        window_size: steps in the window; of no effect for ``"all"`` and ``"none"``.
        window_stride: iterations that a sliding window stays.
        first_step: index of the first step that may be stochastic.
        last_step: index of the last step that may be; None means the last step of the schedule.
        initial_noise: ``"independent"``, or ``"shared"`` by the members of a group, who then also
            share the deterministic steps before the window, computed once for all of them.
        branch_steps: steps at which each node gets ``branches`` children (BranchGRPO). Members of a
            group are the leaves of one tree from one noise; other steps draw one noise per node.
        branches: children of a node at a branching step.
        dense: also score deterministic completions from every step of the window (DenseGRPO,
            TP-GRPO).
        keep_means: store the mean of every step, for losses that compare distributions.
        keep_videos: finished clips to store, the first of the batch.

    Raises:
        ValueError: for a value out of range.
    """

    window: WindowMode = "all"
    window_size: Annotated[int, Ge(1)] = 2
    window_stride: Annotated[int, Ge(1)] = 1
    first_step: int = 0
    last_step: int | None = None
    initial_noise: Literal["independent", "shared"] = "independent"
    branch_steps: tuple[int, ...] = ()
    branches: Annotated[int, Ge(2)] = 2
    dense: bool = False
    keep_means: bool = False
    keep_videos: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.branch_steps)) < len(self.branch_steps):
            raise ValueError(f"branch_steps must be different steps, got {self.branch_steps}")
        if self.window == "none":
            self._refuse_what_needs_noise()

    def _refuse_what_needs_noise(self) -> None:
        """Without a stochastic step, clips of one initial noise are one clip."""
        wanted = {
            "initial_noise": self.initial_noise == "shared",
            "branch_steps": bool(self.branch_steps),
            "dense": self.dense,
            "keep_means": self.keep_means,
        }
        if found := [name for name, asked in wanted.items() if asked]:
            raise ValueError(
                f"window 'none' has no stochastic step, which {', '.join(found)} "
                f"need{'s' if len(found) == 1 else ''}: got {getattr(self, found[0])!r}"
            )


@dataclass(frozen=True)
class Plan:
    """One iteration's decision.

    Attributes:
        steps: the S stochastic and trained steps, ascending; none if every step is deterministic.
        blocks: (T + 1,). ``blocks[t]`` is how many consecutive group members still share one latent
            before step t: G is all of them, 1 is each on its own. ``blocks[T]`` is always 1.
    """

    steps: tuple[int, ...]
    blocks: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """True if members of a group share any of their way."""
        return self.blocks[0] > 1


def make_plan(
    config: RolloutConfig, stochastic: Sequence[bool], group_size: int, seed: int, iteration: int
) -> Plan:
    """The plan of an iteration.

    Args:
        config: how clips are drawn.
        stochastic: (T,) True where the kernel has a density.
        group_size: G.
        seed: of the run.
        iteration: counts from 0.

    Raises:
        ValueError: if no step can be stochastic, the window does not fit, or the tree does not
            have G leaves.
    """
    if config.window == "none":
        return Plan((), (1,) * (len(stochastic) + 1))
    last = len(stochastic) - 1 if config.last_step is None else config.last_step
    candidates = [
        t for t, noisy in enumerate(stochastic) if noisy and config.first_step <= t <= last
    ]
    if not candidates:
        raise ValueError(
            f"rollout.first_step to rollout.last_step: no step from {config.first_step} to {last} "
            f"of {len(stochastic)} is stochastic"
        )
    steps = _window(config, candidates, seed, iteration)
    return Plan(steps, _blocks(config, steps, len(stochastic), group_size))


def _window(
    config: RolloutConfig, candidates: list[int], seed: int, iteration: int
) -> tuple[int, ...]:
    if config.window == "all":
        return tuple(candidates)
    places = len(candidates) - config.window_size + 1
    if places < 1:
        raise ValueError(
            f"a window of {config.window_size} steps does not fit into the {len(candidates)} "
            f"candidates {candidates}"
        )
    if config.window == "sliding":
        start = iteration // config.window_stride % places
        return tuple(candidates[start : start + config.window_size])
    # Of seed and iteration alone: every process draws the same window.
    rng = np.random.default_rng([seed, iteration])
    return tuple(sorted(rng.choice(candidates, config.window_size, replace=False).tolist()))


def _blocks(
    config: RolloutConfig, steps: tuple[int, ...], num_steps: int, group_size: int
) -> tuple[int, ...]:
    if not config.branch_steps:
        if config.initial_noise == "independent":
            return (1,) * (num_steps + 1)
        # Members stay one latent up to the first stochastic step, which is the first to part them.
        apart = steps[0] + 1
        return (group_size,) * apart + (1,) * (num_steps + 1 - apart)
    outside = sorted(set(config.branch_steps) - set(steps))
    if outside:
        raise ValueError(f"branch_steps {outside} are not among the stochastic steps {steps}")
    leaves = config.branches ** len(config.branch_steps)
    if leaves != group_size:
        raise ValueError(
            f"{len(config.branch_steps)} branchings by {config.branches} make {leaves} leaves, "
            f"but the group size is {group_size}"
        )
    divisors = [config.branches if t in config.branch_steps else 1 for t in range(num_steps)]
    return tuple(accumulate(divisors, lambda block, by: block // by, initial=group_size))
