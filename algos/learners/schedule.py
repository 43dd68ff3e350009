"""Learning rates over a run."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def rate_factor(iteration: int, schedule: Schedule, total: int | None, warmup: int = 0) -> float:
    r"""Share of the full learning rate in an iteration.

    It rises linearly over ``warmup`` iterations. With :math:`p` the share of the rest that is done,
    it then stays 1, falls as :math:`1 - p`, or as :math:`(1 + \cos \pi p) / 2`.

    Args:
        iteration: number of it, from 0.
        schedule: how it falls.
        total: iterations of the run; after them the factor stays at its last value.
        warmup: iterations in which it rises.
    """
    if iteration < warmup:
        # Never 0, which would waste the first iteration.
        return (iteration + 1) / (warmup + 1)
    if schedule == "constant" or total is None:
        return 1.0
    done = min(iteration, total - 1) - warmup
    share = max(0.0, done / max(1, total - warmup))
    return 1 - share if schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
