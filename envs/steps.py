r"""One step of a kernel on a batch: draw it, score it, compare it.

The tables of :mod:`reelrl.envs.kernels` are applied here. Everything is computed in float32 or
better, whatever the latents are stored in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from reelrl.envs.kernels import Coefficients

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

Reduction = Literal["mean", "sum", "sum_sqrt_d"]


@dataclass(frozen=True)
class Step:
    """The Gaussian a kernel gives N samples.

    Attributes:
        mean: (N, ...) float32 or better.
        step_std: (N,) of the same dtype; zero where the step is deterministic.
    """

    mean: Float[Tensor, "N ..."]
    step_std: Float[Tensor, " N"]


def rows_like(
    values: Shaped[Tensor, " N"], like: Shaped[Tensor, "N ..."]
) -> Shaped[Tensor, "N ..."]:
    """One number per row, (N,), in the shape (N, 1, ...) that broadcasts over ``like`` (N, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def advance(
    coefficients: Coefficients, latent: Float[Tensor, "N ..."], output: Float[Tensor, "N ..."]
) -> Step:
    """The next latent's distribution.

    Args:
        coefficients: one row per sample, (N,).
        latent: (N, ...) of any floating dtype; half precision is computed in float32.
        output: (N, ...) model output.

    Returns:
        mean (N, ...) and step_std (N,) in float32 or, for float64 latents, float64.
    """
    # A mean in half precision would lose the small change of one step.
    dtype = torch.promote_types(latent.dtype, torch.float32)
    rows = coefficients.to(latent.device, dtype)
    a, b = rows_like(rows.latent_weight, latent), rows_like(rows.output_weight, latent)
    return Step(a * latent.to(dtype) + b * output.to(dtype), rows.step_std)


def sample(
    step: Step, noise: Float[Tensor, " N *rest"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, " N *rest"]:
    """Draw the next latent from standard normal ``noise`` (N, ...), rounded to ``dtype``.

    Score, store and replay this rounded value and no other.
    """
    spread = rows_like(step.step_std, step.mean)
    return (step.mean + spread * noise.to(step.mean.dtype)).to(dtype)


def log_prob(
    step: Step, value: Float[Tensor, "N ..."], reduction: Reduction = "mean"
) -> Float[Tensor, " N"]:
    r"""Log-density of ``value`` (N, ...) under the Gaussian, reduced over the D dimensions.

    Args:
        step: the distribution.
        value: the next latent as stored; any floating dtype.
        reduction: ``"sum"`` is the log-density itself. ``"mean"``, the field's habit, is 1/D of it:
            the ratio of two means is not a likelihood ratio and its expectation falls below 1.
            ``"sum_sqrt_d"`` divides by :math:`\sqrt D` and leaves the spread of a log-ratio
            independent of the resolution.

    Returns:
        (N,) float64; ``nan`` where the step is deterministic and has no density.
    """
    std = step.step_std.double()
    squares = _squares(step.mean, value) / torch.where(std > 0, std, 1.0) ** 2
    count = value[0].numel()
    # It cancels in a ratio of one kernel, but not between kernels of different widths.
    normaliser = std.log() + 0.5 * math.log(2 * math.pi)
    total = torch.where(std > 0, -0.5 * squares - count * normaliser, torch.nan)
    return _reduced(total, count, reduction)


def gaussian_kl(step: Step, reference: Step, reduction: Reduction = "mean") -> Float[Tensor, " N"]:
    r"""Divergence :math:`\lVert\mu - \mu_\mathrm{ref}\rVert^2 / (2\,\mathrm{step\_std}^2)`.

    Exact for two Gaussians of one kernel at one step, whose widths are equal.

    Returns:
        (N,) float64; ``nan`` where the step is deterministic.
    """
    std = step.step_std.double()
    squares = _squares(step.mean, reference.mean) / torch.where(std > 0, std, 1.0) ** 2
    total = torch.where(std > 0, 0.5 * squares, torch.nan)
    return _reduced(total, step.mean[0].numel(), reduction)


def _squares(
    mean: Float[Tensor, " N *rest"], value: Float[Tensor, " N *rest"]
) -> Float[Tensor, " N"]:
    """Squared distance (N,), summed in float64: a sum over a video latent outgrows float32."""
    # The stored value may be in half precision; the mean decides the precision of the difference.
    difference = value.to(mean.dtype) - mean
    return difference.square().flatten(1).sum(dim=1, dtype=torch.float64)


def _reduced(total: Float[Tensor, " N"], count: int, reduction: Reduction) -> Float[Tensor, " N"]:
    divisors = {"sum": 1.0, "mean": float(count), "sum_sqrt_d": math.sqrt(count)}
    if reduction not in divisors:
        raise ValueError(f"reduction must be one of {', '.join(divisors)}, got {reduction!r}")
    return total / divisors[reduction]
