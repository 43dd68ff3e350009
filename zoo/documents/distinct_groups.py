"""How many different learning signals an estimator can tell apart, as in GDPO's figures 2 and 3.

All unordered groups of G binary reward vectors of K components are enumerated, and the different
unordered advantage vectors counted: ddof 1, no epsilon, no batch normalisation (arXiv 2601.05242).
The paper prints the curves of figure 3 without numbers; these are the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement, product
from pathlib import Path

import numpy as np

from reelrl.algos.advantages import Estimator, NormSpec, RewardBatch, make_estimator

GROUP_SIZES = (2, 3, 4, 5, 6, 7, 8)
COMPONENT_COUNTS = (1, 2, 3, 4, 5)


def estimators() -> dict[str, Estimator]:
    """The three rows of the tables."""
    exact = NormSpec(ddof=1, eps=0.0)
    return {
        "GRPO": make_estimator("grpo", group=exact),
        "GRPO w/o std": make_estimator("dr_grpo"),
        "GDPO": make_estimator("gdpo", group=exact, batch=None),
    }


def binary_groups(members: int, components: int) -> np.ndarray:
    """(P, G, K) every multiset of G vectors of {0, 1}^K once."""
    vectors = np.array(list(product((0.0, 1.0), repeat=components)))
    picks = list(combinations_with_replacement(range(len(vectors)), members))
    groups: np.ndarray = vectors[np.array(picks)]
    return groups


def distinct(estimator: Estimator, members: int, components: int, decimals: int = 9) -> int:
    """Number of different unordered advantage vectors over all binary groups.

    Args:
        estimator: without a batch normalisation, so that groups do not see each other.
        members: G.
        components: K.
        decimals: advantages that agree to so many places are the same.
    """
    rewards = binary_groups(members, components)
    names = tuple(f"r{k}" for k in range(components))
    advantages = estimator(RewardBatch(rewards, names))[0].advantages
    # Adding zero turns the -0.0 that rounding leaves into 0.0.
    ordered = np.sort(np.round(advantages, decimals) + 0.0, axis=1)
    return len(np.unique(ordered, axis=0))


def tables() -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Counts by row: over group sizes at K = 2, and over component counts at G = 4."""
    rows = estimators()
    by_size = {name: [distinct(e, g, 2) for g in GROUP_SIZES] for name, e in rows.items()}
    by_count = {name: [distinct(e, 4, k) for k in COMPONENT_COUNTS] for name, e in rows.items()}
    return by_size, by_count


def markdown(corner: str, header: Sequence[int], rows: dict[str, list[int]]) -> str:
    """One table."""
    lines = [
        f"| {corner} | " + " | ".join(map(str, header)) + " |",
        "|---" * (len(header) + 1) + "|",
    ]
    lines += [f"| {name} | " + " | ".join(map(str, counts)) + " |" for name, counts in rows.items()]
    return "\n".join(lines)


def plot(by_size: dict[str, list[int]], by_count: dict[str, list[int]], path: Path) -> None:
    """Both tables as curves, like figure 3."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels = (
        (axes[0], GROUP_SIZES, by_size, "group size G (K = 2)"),
        (axes[1], COMPONENT_COUNTS, by_count, "components K (G = 4)"),
    )
    for axis, steps, rows, label in panels:
        for name, counts in rows.items():
            axis.plot(steps, counts, marker="o", label=name)
        axis.set_xlabel(label)
        axis.set_ylabel("distinct advantage groups")
        axis.set_xticks(steps)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(out: Path | None) -> None:
    """Print both tables; with a folder, write them and the plot there."""
    by_size, by_count = tables()
    text = "\n\n".join(
        [
            "Distinct advantage groups over all groups of binary reward vectors",
            markdown("K=2, G=", GROUP_SIZES, by_size),
            markdown("G=4, K=", COMPONENT_COUNTS, by_count),
        ]
    )
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "distinct_groups.md").write_text(text + "\n", encoding="utf-8")
        plot(by_size, by_count, out / "distinct_groups.png")
