r"""P("yes"), renormalised over yes and no, with a check of how much they hold.

:math:`p = \sigma(\mathrm{LSE}(\ell_{yes}) - \mathrm{LSE}(\ell_{no}))` over the spellings of either
word at the first place of the answer (RewardDance, Wu et al. 2025, reads P("yes") there). A model
that says something else altogether gives a p all the same, so p counts only if the spellings
together hold at least half of the probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

YES, NO = (
    tuple(space + word for space in ("", " ") for word in (w, w.capitalize(), w.upper()))
    for w in ("yes", "no")
)
"""Spellings of either word."""
MIN_MASS = 0.5
MAX_SUM = 1.01
"""Probabilities of different tokens sum to no more than 1, up to a server's rounding."""
MARKS = " \t\n▁Ġ"
"""Blanks, and the signs that tokenizers write for them."""


def yes_of_logits(logits: Tensor, yes: Sequence[int], no: Sequence[int]) -> tuple[Tensor, Tensor]:
    """P(yes), ``nan`` without mass, and the mass, both (n,), of logits (n, V)."""
    share = logits.float().log_softmax(dim=-1)
    found, other = (share[:, list(ids)].logsumexp(dim=-1) for ids in (yes, no))
    mass = found.exp() + other.exp()
    return torch.where(mass >= MIN_MASS, (found - other).sigmoid(), torch.nan), mass


def yes_of_top(top: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """P(yes), ``nan`` without mass, and the mass, of the likeliest tokens a server lists.

    A word that is not listed is at most as likely as the last that is, and has at most what all
    that are listed leave of 1. The smaller of these bounds stands in for it, because zero would
    make p certain.

    Args:
        top: tokens with their natural log-probabilities.

    Raises:
        ValueError: for an empty list, a log-probability that is none, or more than 1 altogether.
    """
    if not top or any(not value <= 1e-6 for _, value in top):
        raise ValueError("the answer's log-probabilities are missing or out of range")
    listed = math.fsum(math.exp(value) for _, value in top)
    if listed > MAX_SUM:
        raise ValueError(f"the answer's probabilities must sum to at most 1, got {listed:.3g}")
    found: dict[str, list[float]] = {"yes": [], "no": []}
    for token, value in top:
        word = token.strip(MARKS).lower()
        if word in found:
            found[word].append(math.exp(value))
    yes, no = sum(found["yes"]), sum(found["no"])
    mass = yes + no
    if mass < MIN_MASS:
        return math.nan, mass
    shares = [math.exp(value) for _, value in top]
    bound = min(*shares, max(0.0, 1 - sum(shares)))
    yes, no = yes or bound, no or bound
    return yes / (yes + no), mass
