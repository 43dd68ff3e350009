"""Pass or fail, by the known truth and by an annotator who errs."""

from __future__ import annotations

import torch
from torch import Tensor


def passes(gold: Tensor, threshold: float) -> Tensor:
    """True labels (N,), bool: gold values (N,) of at least the threshold."""
    return gold >= threshold


def annotated(truth: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    r"""An annotator's labels (N,): each of the true ones (N,) flipped with probability ``noise``.

    Two such annotators agree with probability :math:`(1-p)^2 + p^2`, which is 0.774 at p = 0.13;
    SoliReward's five agree on 77.33 % of their Pass/Fail labels.
    """
    return truth ^ (torch.rand(truth.shape, generator=generator) < noise)
