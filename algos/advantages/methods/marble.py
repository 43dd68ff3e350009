"""MARBLE: balance the components' gradients, and live off the last balance in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.masked import Array, to_tensor
from reelrl.algos.advantages.methods.gdpo import VectorConfig
from reelrl.algos.advantages.norm import NormSpec
from reelrl.algos.advantages.pipeline import Estimator, normalise_first
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.simplex import min_norm_weights
from reelrl.algos.advantages.types import State
from reelrl.checks import Ge, Within

if TYPE_CHECKING:
    from jaxtyping import Float


@register_estimator("marble")
class MARBLE(Estimator):
    """A = sum_k a_k A_k with a = argmin over the simplex of |sum_k a_k w_k g_k / |g_k||^2.

    g_k is the gradient of component k's policy loss. The trainer runs K backward passes when
    :meth:`solve_due` says so, applies (sum_k a_k g_k / |g_k|) * mean_k |g_k|, and gives the Gram
    matrix to :meth:`feedback`. In between one backward with ``advantages`` does, exactly so where
    the loss is affine in the advantage.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(VectorConfig):
        """Settings of MARBLE.

        Attributes:
            rho: weight of the old alphas at each solve; the first solve replaces them.
            alpha_floor: least weight of a component that has a gradient, mixed in after the solve.
            every: steps between two solves.
            warmup: first steps, each with a solve of its own.
        """

        group: NormSpec = field(default=NormSpec(ddof=0, eps=1e-4))
        rho: Annotated[float, Within(0, 1)] = 0.9
        alpha_floor: Annotated[float, Within(0, 1)] = 0.0
        every: Annotated[int, Ge(1)] = 10
        warmup: int = 0

    needs_component_gradients: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv 2605.06507 (abstract and released trainer)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"released": {}}

    def init_state(self, names: Sequence[str]) -> State:
        """Uniform alphas, never solved."""
        alphas = torch.full(
            (len(names),), 1 / max(1, len(names)), dtype=torch.float64, device="cpu"
        )
        return {
            **super().init_state(names),
            "alphas": alphas,
            "solves": torch.zeros((), dtype=torch.int64, device="cpu"),
        }

    def reset(self, state: State, names: Sequence[str], components: Sequence[str]) -> State:
        """The state itself: alphas are of unit gradients, which know no scale."""
        return state

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Component advantages and their sum under the alphas of the state.

        Static weights act in the solve, through ``feedback(weights=...)``, not a second time here.
        """
        config = self.config
        alphas = state["alphas"].to(work.weights.dtype)
        return normalise_first(work, alphas, config.group, config.batch, config.tokens), state

    def solve_due(self, step: int) -> bool:
        """True if this step should run K backward passes and give feedback."""
        start: int = self.config.warmup
        return step < start or (step - start) % int(self.config.every) == 0

    def feedback(
        self, state: State, *, gram: Array | None = None, weights: Array | None = None
    ) -> State:
        """Solve for new alphas and move towards them.

        Args:
            state: the state to follow.
            gram: (K, K) <g_k, g_l>.
            weights: (K,) static weights w.

        Raises:
            ValueError: without a Gram matrix of the right shape.
        """
        count = len(state["alphas"])
        matrix = None if gram is None else to_tensor(gram).to(torch.float64)
        if matrix is None or tuple(matrix.shape) != (count, count):
            got = None if matrix is None else tuple(matrix.shape)
            raise ValueError(f"marble needs a gram of shape {(count, count)}, got {got}")
        static = None if weights is None else to_tensor(weights).to(torch.float64)
        new = balance(matrix, static, self.config.alpha_floor).to(state["alphas"].device)
        mixed = self.config.rho * state["alphas"] + (1 - self.config.rho) * new
        first = state["solves"] == 0
        return {
            **state,
            "alphas": torch.where(first, new, mixed),
            "solves": state["solves"] + 1,
        }


def balance(
    gram: Float[Tensor, "K K"],
    weights: Float[Tensor, " K"] | None = None,
    alpha_floor: float = 0.0,
) -> Float[Tensor, " K"]:
    """Alphas on the simplex that minimise |sum_k alpha_k w_k g_k / |g_k||.

    Components without a finite, nonzero gradient or with weight 0 get 0; a single valid one gets
    everything. A larger weight makes a longer gradient, which the shortest sum takes *less* of. If
    no valid component is left the alphas are uniform, as after a failed solve in the released
    trainer.

    Args:
        gram: (K, K) <g_k, g_l>.
        weights: (K,) static weights; None means all ones.
        alpha_floor: mixed in as alpha := floor + (1 - n floor) alpha over the n valid components.
    """
    norms = gram.diagonal().clamp(min=0.0).sqrt()
    valid = torch.isfinite(norms) & (norms > 0) & torch.isfinite(gram.diagonal())
    valid = valid if weights is None else valid & (weights != 0)
    scale = torch.where(valid, 1 / torch.where(valid, norms, 1.0), 0.0)
    scale = scale if weights is None else scale * weights
    unit = torch.nan_to_num(gram, nan=0.0, posinf=0.0, neginf=0.0) * torch.outer(scale, scale)
    alphas = min_norm_weights(unit, valid)
    floor = torch.clamp(valid.sum() * alpha_floor, max=1.0)
    even = valid / valid.sum().clamp(min=1)
    alphas = floor * even + (1 - floor) * alphas
    return torch.where(valid.any(), alphas, torch.full_like(alphas, 1 / len(alphas)))
