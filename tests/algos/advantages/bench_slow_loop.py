"""How much faster the estimators are than the double loops the tests hold them against.

Run ``python tests/algos/advantages/bench_slow_loop.py``. The loops skip missing scores and guard
against float noise as the estimators do, which the bare loops of ``reelrl.zoo.speed.estimators``
do not.
"""

from functools import partial

import numpy as np
import test_slow_loop as loops

from reelrl.algos.advantages import make_estimator
from reelrl.zoo.speed.estimators import COMPONENTS, GROUPS, LOOP_GROUPS, NAMES, REPEATS, batch
from reelrl.zoo.speed.stopwatch import times


def main() -> None:
    """Print the table; the loops' cost is linear, so they run on a part of the groups."""
    weights = [1.0] * COMPONENTS
    loops.K, loops.W, loops.summed.__defaults__ = COMPONENTS, weights, (weights,)
    whole, rewards = batch(GROUPS), np.asarray(batch(LOOP_GROUPS).rewards).tolist()
    print(f"| {GROUPS:,} groups | best ms | test loop ms | times faster |\n|---|---|---|---|")
    for name in NAMES:
        fast = min(times(partial(make_estimator(name), whole), REPEATS)).wall
        slow = min(times(partial(getattr(loops, name), rewards, {}), 3)).wall
        slow *= GROUPS / LOOP_GROUPS
        print(f"| {name} | {1e3 * fast:.0f} | {1e3 * slow:.0f} | {slow / fast:.0f} |")


if __name__ == "__main__":
    main()
