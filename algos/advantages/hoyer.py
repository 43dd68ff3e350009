"""Hoyer sparsity, the spread measure of TaRoS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reelrl.algos.advantages.masked import Masked, group_count, group_sum_of, safe_divide

if TYPE_CHECKING:
    from jaxtyping import Float


def hoyer(x: Masked) -> Float[Tensor, "P 1 ..."]:
    r"""Hoyer sparsity over the group axis, TaRoS eq. 5 (arXiv 2511.19356).

    .. math:: S = \frac{\sqrt{G} - \|r\|_1 / \|r\|_2}{\sqrt{G} - 1}

    1 for a one-hot group, 0 for a constant one; defined as 0 for an all-zero group and for G = 1.
    For non-negative rewards it is a monotone function of the coefficient of variation; it does not
    see signs, so (-1, 1, -1, 1) and (-2, -2, -2, -2) both give 0.

    Args:
        x: (P, G, ...); missing members do not count.

    Returns:
        (P, 1, ...) in [0, 1].
    """
    l1 = group_sum_of(torch.abs, x.values)
    l2 = group_sum_of(torch.square, x.values).sqrt()
    root = group_count(x).sqrt()
    sparsity = safe_divide(root - safe_divide(l1, l2), (root - 1).clamp(min=0).expand_as(l1))
    return torch.where(l2 == 0, 0.0, sparsity).clamp(0.0, 1.0)
