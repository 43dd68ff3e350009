"""One gradient per reward component, and their balanced combination (MARBLE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

if TYPE_CHECKING:
    from jaxtyping import Float


def gradient_per_component(
    backward: Callable[[int], None], parameters: Sequence[Parameter], count: int
) -> list[list[Tensor]]:
    """Gradients of K losses and, last, of the terms that belong to no component (the penalty).

    Args:
        backward: leaves the gradient of loss k on the parameters; -1 is the penalty.
        parameters: the weights of the gradients.
        count: K.
    """
    found = []
    for k in [*range(count), -1]:
        for parameter in parameters:
            parameter.grad = None
        backward(k)
        found.append([_gradient(parameter) for parameter in parameters])
    return found


def gram_matrix(gradients: Sequence[Sequence[Tensor]]) -> Float[Tensor, "K K"]:
    """(K, K) float64 inner products of K gradients."""
    rows = [[_inner(a, b) for b in gradients] for a in gradients]
    return torch.stack([torch.stack(row) for row in rows])


def overflowed(gradients: Sequence[Sequence[Tensor]]) -> bool:
    """True if any entry of K gradients is not finite; waits for the device once."""
    finite = [part.isfinite().all() for gradient in gradients for part in gradient]
    return not bool(torch.stack(finite).all())


def balanced(
    gradients: Sequence[Sequence[Tensor]], alphas: Float[Tensor, " K"], gram: Float[Tensor, "K K"]
) -> list[Tensor]:
    r"""The combined gradient of MARBLE (2605.06507); without a gradient a component has no part.

    .. math:: \Bigl(\sum_k \alpha_k \frac{g_k}{\lVert g_k \rVert}\Bigr)
        \mathrm{mean}_k \lVert g_k \rVert

    Args:
        gradients: K gradients.
        alphas: (K,) on the simplex.
        gram: (K, K) of :func:`gram_matrix`.
    """
    # Rounding may leave a tiny negative number where a gradient is 0.
    norms = gram.diagonal().clamp(min=0).sqrt()
    valid = norms.isfinite() & (norms > 0)
    mean = torch.where(valid, norms, 0.0).sum() / valid.sum().clamp(min=1)
    scales = torch.where(valid, alphas.to(norms) / torch.where(valid, norms, 1.0) * mean, 0.0)
    # A gradient that is not finite has scale zero, and zero times infinity is nan.
    clean = [[part.nan_to_num(0.0, 0.0, 0.0) for part in gradient] for gradient in gradients]
    return [
        torch.stack([s.to(p.dtype) * p for s, p in zip(scales, parts, strict=True)]).sum(dim=0)
        for parts in zip(*clean, strict=True)
    ]


def _gradient(parameter: Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Float[Tensor, ""]:
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()
