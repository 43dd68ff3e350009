"""Quadratic programmes on the simplex, small and exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

MAX_COMPONENTS = 12


def min_norm_weights(
    gram: Float[Tensor, "K K"], valid: Bool[Tensor, " K"] | None = None
) -> Float[Tensor, " K"]:
    """Argmin over the simplex of c^T Q c: the shortest vector in a convex hull.

    Every support is solved by its KKT system and the best feasible one wins, which is exact and
    needs no stopping rule, hence no wait for a device. There are 2^K supports, so K is at most 12.

    Args:
        gram: (K, K) positive semi-definite Q, Q_kl = <v_k, v_l>.
        valid: (K,) bool; vectors left out get weight 0. None takes all.

    Returns:
        (K,) weights; all zero if nothing is valid.

    Raises:
        ValueError: for K above 12.
    """
    count = gram.shape[0]
    if count > MAX_COMPONENTS:
        raise ValueError(f"the exact solver takes at most {MAX_COMPONENTS} vectors, got {count}")
    valid = torch.ones_like(gram[0], dtype=torch.bool) if valid is None else valid
    both = valid.unsqueeze(0) & valid.unsqueeze(1)
    gram = torch.where(both, gram, 0.0)
    scale = gram.diagonal().amax()
    gram = gram / torch.where(scale > 0, scale, 1.0)
    candidates, solvable = _solve_supports(gram)
    supports = _supports(count, gram.device)
    feasible = solvable & (candidates >= -1e-10).all(1) & (valid | ~supports).all(1)
    candidates = candidates.clamp(min=0.0)
    candidates = candidates / candidates.sum(1, keepdim=True).clamp(min=1e-300)
    length = torch.einsum("sk,kl,sl->s", candidates, gram, candidates)
    best = torch.where(feasible, length, torch.inf).argmin()
    return torch.where(valid, candidates.index_select(0, best.reshape(1))[0], 0.0)


def _supports(count: int, device: torch.device) -> Bool[Tensor, "supports K"]:
    """(2^K - 1, K) all non-empty subsets, small ones first so that ties end in the fewest terms."""
    codes = sorted(range(1, 2**count), key=lambda code: (code.bit_count(), code))
    bits = [[bool(code >> k & 1) for k in range(count)] for code in codes]
    return torch.tensor(bits, dtype=torch.bool, device="cpu").to(device, non_blocking=True)


def _solve_supports(
    gram: Float[Tensor, "K K"],
) -> tuple[Float[Tensor, "supports K"], Bool[Tensor, " supports"]]:
    """Stationary point of c^T Q c with sum 1 on every support, and whether there is just one."""
    count = gram.shape[0]
    inside = _supports(count, gram.device)
    pair = inside.unsqueeze(1) & inside.unsqueeze(2)
    eye = torch.eye(count, dtype=gram.dtype, device=gram.device)
    system = gram.new_zeros(len(inside), count + 1, count + 1)
    # Outside the support the row says c_k = 0, which keeps every system the same size.
    system[:, :count, :count] = torch.where(pair, gram, 0.0) + eye * (~inside).unsqueeze(2)
    system[:, :count, count] = inside.to(gram.dtype)
    system[:, count, :count] = inside.to(gram.dtype)
    right = gram.new_zeros(len(inside), count + 1, 1)
    right[:, count] = 1.0
    solution, info = torch.linalg.solve_ex(system, right)
    weights = solution[:, :count, 0]
    error = (system @ solution - right).abs().amax((1, 2))
    fine = (info == 0) & torch.isfinite(weights).all(1) & (error < 1e-8)
    return torch.where(fine.unsqueeze(1), weights, 0.0), fine
