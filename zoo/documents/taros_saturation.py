"""Effect of TaRoS's published formula on a saturated component, and of its options.

Three tables: the weights of a saturated, a fresh and a half-way component under every option; the
beta at which a component that saturates begins to lose weight; and who drives the update, as the
correlation of the final advantage with each component.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reelrl.algos.advantages import RewardBatch, make_estimator

MEMBERS = 16
COMPONENTS = {"saturated": (0.95, 0.01), "fresh": (0.60, 0.20), "half-way": (0.75, 0.10)}
"""Group mean and standard deviation (ddof 0) of each."""

OPTIONS: dict[str, dict[str, Any]] = {
    "published (beta 0.3, slope 1)": {},
    "beta 0.5": {"beta": 0.5},
    "beta 1": {"beta": 1.0},
    "beta 5": {"beta": 5.0},
    "slope 10": {"slope": 10.0},
    "slope 10, temperature 0.1": {"slope": 10.0, "temperature": 0.1},
    "headroom, slope 1": {"h": "headroom"},
    "headroom, slope 5": {"h": "headroom", "slope": 5.0},
    "headroom, slope 10": {"h": "headroom", "slope": 10.0},
    "headroom, slope 10, temperature 0.25": {"h": "headroom", "slope": 10.0, "temperature": 0.25},
    "spread cv": {"spread": "cv"},
    "spread std": {"spread": "std"},
    "self_paced, slope 10": {"direction": "self_paced", "slope": 10.0},
    "self_paced, slope 10, temperature 0.25": {
        "direction": "self_paced",
        "slope": 10.0,
        "temperature": 0.25,
    },
    "third_party_v1": {"preset": "third_party_v1"},
}


def group_with(mean: float, std: float, order: int) -> np.ndarray:
    """(G,) scores of exactly this mean and std (ddof 0), evenly spaced, in a shuffled order."""
    steps = np.arange(MEMBERS) - (MEMBERS - 1) / 2
    steps = np.random.default_rng(order).permutation(steps / steps.std())
    return mean + std * steps


def run(rewards: np.ndarray, names: tuple[str, ...], name: str = "taros", **config: Any) -> Any:
    """Output of an estimator on (P, G, K) rewards with bounds (0, 1)."""
    bounds = np.tile([0.0, 1.0], (len(names), 1))
    return make_estimator(name, **config)(RewardBatch(rewards, names, bounds=bounds))[0]


def weights(order: tuple[str, ...], **config: Any) -> dict[str, float]:
    """Weight by component, for one group with the components in this order."""
    columns = [group_with(*COMPONENTS[name], order=i) for i, name in enumerate(order)]
    output = run(np.stack(columns, -1)[None], order, **config)
    return dict(zip(order, map(float, output.component_weights[0]), strict=True))


def weight_table() -> str:
    """Weights under every option, the saturated component first and last."""
    first, last = ("saturated", "fresh", "half-way"), ("fresh", "half-way", "saturated")
    lines = [
        "| option | saturated first: sat / fresh / half | saturated last: sat / fresh / half |",
        "|---|---|---|",
    ]
    for label, config in OPTIONS.items():
        cells = []
        for order in (first, last):
            w = weights(order, **config)
            cells.append(" / ".join(f"{w[name]:.3f}" for name in first))
        lines.append(f"| {label} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def hoyer(mean: float, std: float) -> float:
    """Hoyer sparsity of a non-negative group from its mean and std: a function of std / mean."""
    root = MEMBERS**0.5
    return float(root / (root - 1) * (1 - 1 / (1 + (std / mean) ** 2) ** 0.5))


def break_even(start: tuple[float, float], slope: float, tau: float = 0.75) -> float:
    """The beta above which going from ``start`` to (0.95, 0.01) lowers a component's utility."""

    def h(mean: float) -> float:
        return float(1 / (1 + np.exp(-slope * (mean - tau))))

    end = (0.95, 0.01)
    return float((h(end[0]) - h(start[0])) / (hoyer(*start) - hoyer(*end)))


def break_even_table() -> str:
    """Break-even betas of typical starts; the paper's beta is 0.1 to 0.5."""
    starts = ((0.60, 0.10), (0.60, 0.20), (0.60, 0.30), (0.50, 0.50), (0.90, 0.10))
    lines = [
        "| from (mean, std) to (0.95, 0.01) | slope 1 | slope 5 | slope 10 |",
        "|---|---|---|---|",
    ]
    for start in starts:
        cells = " | ".join(f"{break_even(start, slope):.2f}" for slope in (1.0, 5.0, 10.0))
        lines.append(f"| ({start[0]:.2f}, {start[1]:.2f}) | {cells} |")
    return "\n".join(lines)


def drivers_table(groups: int = 4000) -> str:
    """Correlation of the advantage with each component, over independent Gaussian groups."""
    rng = np.random.default_rng(0)
    order = tuple(COMPONENTS)
    columns = [rng.normal(*COMPONENTS[name], size=(groups, MEMBERS)) for name in order]
    rewards = np.stack(columns, -1)
    rows: dict[str, tuple[str, dict[str, Any]]] = {
        "raw sum, equal weights (grpo)": ("grpo", {}),
        "normalise, then sum (gdpo)": ("gdpo", {}),
        "taros published": ("taros", {}),
        "taros slope 10, temperature 0.1": ("taros", {"slope": 10.0, "temperature": 0.1}),
        "taros headroom, slope 10": ("taros", {"h": "headroom", "slope": 10.0}),
        "sa_mrpo": ("sa_mrpo", {}),
    }
    lines = [
        "| estimator | saturated: corr, influence | fresh | half-way |",
        "|---|---|---|---|",
    ]
    for label, (name, config) in rows.items():
        diagnostics = run(rewards, order, name, **config).diagnostics
        pairs = zip(diagnostics["advantage_corr"], diagnostics["influence"], strict=True)
        cells = " | ".join(f"{corr:.2f}, {100 * share:.1f} %" for corr, share in pairs)
        lines.append(f"| {label} | {cells} |")
    return "\n".join(lines)


def main(out: Path | None) -> None:
    """Print the three tables; with a folder, write them there."""
    text = "\n\n".join(
        [
            "Weights of three components: saturated (mean 0.95, std 0.01), fresh (0.60, 0.20), "
            "half-way (0.75, 0.10); G = 16",
            weight_table(),
            "Beta above which a component loses utility by saturating (tau 0.75)",
            break_even_table(),
            "Who drives the update: correlation with the advantage, and share of the spread",
            drivers_table(),
        ]
    )
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "taros_saturation.md").write_text(text + "\n", encoding="utf-8")
