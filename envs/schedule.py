r"""The noise levels of a denoising episode, computed here and never read off a scheduler.

Schedulers truncate timesteps to integers or shift twice, so their first level is 0.9999 and their
last step is wasted; a stochastic kernel divides by :math:`1 - \sigma` and cannot afford either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def sigma_schedule(num_steps: int, shift: float = 1.0) -> Float[Tensor, " levels"]:
    r"""Noise levels :math:`\sigma_0 = 1 > \dots > \sigma_N = 0`.

    Uniform levels :math:`u` become :math:`s u / (1 + (s - 1) u)` (Esser et al. 2024, eq. 23),
    computed as :math:`u / (u + (1 - u) / s)` because that form is exact at both ends. More of the
    steps are spent at high noise as ``shift`` :math:`s` grows.

    Args:
        num_steps: N, at least 1.
        shift: s > 0; 1 is uniform.

    Returns:
        (N + 1,) float64, exactly 1 first and exactly 0 last, strictly decreasing.

    Raises:
        ValueError: if ``num_steps`` or ``shift`` is out of range.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift must be positive and finite, got {shift}")
    level = torch.arange(num_steps, -1, -1, dtype=torch.float64, device="cpu") / num_steps
    return level / (level + (1 - level) / shift)
