"""Which clips of a batch are compared: every pass with every other clip, of whatever prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs (i, j) of N clips by kind, each an (N, N) bool mask; no clip meets itself.

    Attributes:
        win_lose: i passed and j failed, so i should score higher.
        win_tie: both passed.
        lose_tie: both failed.
    """

    win_lose: Tensor
    win_tie: Tensor
    lose_tie: Tensor


def pairs_of(passed: Tensor) -> Pairs:
    r"""The pairs of a batch of labels.

    SoliReward draws from :math:`W \times (W \cup L)`, wins W and losses L of any prompts: N labels
    give :math:`|W| (N - 1)` pairs, and scores become comparable across prompts. Two losses are not
    compared there, since one may be worse than the other; the mask is for the ablation that does.
    A tie is in the mask in both orders.

    Args:
        passed: (N,) bool.

    Raises:
        ValueError: for labels of another shape or dtype.
    """
    if passed.ndim != 1 or passed.dtype != torch.bool:
        raise ValueError(
            f"expected Pass/Fail labels (N,) of bool, got {passed.dtype} {tuple(passed.shape)}"
        )
    failed = ~passed
    other = ~torch.eye(len(passed), dtype=torch.bool, device=passed.device)
    return Pairs(
        win_lose=passed[:, None] & failed,
        win_tie=passed[:, None] & passed & other,
        lose_tie=failed[:, None] & failed & other,
    )
