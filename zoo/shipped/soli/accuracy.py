"""How good a reward model is: accuracy, pairs in order, and how far passes lie apart."""

from __future__ import annotations

import torch
from torch import Tensor


def best_threshold(scores: Tensor, labels: Tensor) -> float:
    """The score from which on clips are called Pass with the fewest errors on these labels.

    Bradley-Terry fixes no level, so one is fitted on the training labels. Of equally good
    thresholds it is the middle one.

    Args:
        scores: (N,) floats.
        labels: (N,) bool.
    """
    order = scores.double().sort().values
    edges = torch.cat([order[:1] - 1, (order[1:] + order[:-1]) / 2, order[-1:] + 1])
    called = scores.double()[None] >= edges[:, None]
    right = (called == labels[None]).sum(dim=1)
    best = (right == right.max()).nonzero()[:, 0]
    return float(edges[best[len(best) // 2]])


def pairwise_accuracy(scores: Tensor, truth: Tensor) -> float:
    """Share of (pass, fail) pairs that the scores put in order; ties are half. ``nan`` if none."""
    gap = scores[truth].double()[:, None] - scores[~truth].double()
    if not gap.numel():
        return float("nan")
    return float((gap > 0).double().mean() + (gap == 0).double().mean() / 2)


def measure(scores: Tensor, truth: Tensor, threshold: float) -> dict[str, float]:
    """The numbers of one split.

    ``spread`` is the standard deviation of the scores of passes over the standard deviation of all
    scores: the scale of a Bradley-Terry score is arbitrary, and a normaliser's effect on the passes
    is not.

    Args:
        scores: (N,) floats.
        truth: (N,) true labels, bool.
        threshold: from :func:`best_threshold` on the training split.
    """
    scores = scores.double()
    return {
        "clips": float(len(scores)),
        "passes": float(truth.double().mean()),
        "accuracy": float(((scores >= threshold) == truth).double().mean()),
        "pairwise": pairwise_accuracy(scores, truth),
        "spread": float(scores[truth].std(correction=0) / scores.std(correction=0)),
        "spread_raw": float(scores[truth].std(correction=0)),
        "gap": float(scores[truth].mean() - scores[~truth].mean()),
    }
