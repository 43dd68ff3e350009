"""TeleBoost's joint reward in advantage space: the direction that raises every component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.methods.gdpo import VectorConfig
from reelrl.algos.advantages.norm import NormSpec, normalise
from reelrl.algos.advantages.pipeline import Estimator, normalise_first
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.simplex import min_norm_weights
from reelrl.algos.advantages.types import Gather, State

if TYPE_CHECKING:
    from jaxtyping import Float


@register_estimator("adv_min_norm")
class AdvMinNorm(Estimator):
    """c = argmin over the simplex of |sum_k c_k w_k A_k|^2 over the batch; A = sum_k c_k w_k A_k.

    Two components of unit variance always get 1/2 each; otherwise the one that conflicts with the
    rest is favoured. A component without any spread is left out, or it alone would be the minimum.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(VectorConfig):
        """Like :class:`VectorConfig`, ddof 1 with epsilon 1e-8."""

        group: NormSpec = field(default=NormSpec(eps=1e-8))

    source: ClassVar[str] = "TeleBoost, arXiv 2602.07595 (abstract)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Solve for the batch's weights, then sum."""
        config = self.config
        parts = normalise(
            work.scores, config.group, tol=work.tol, per_component=True, gather=work.gather
        )
        weighted = parts.out.values * _spread_weights(work)
        gram = advantage_gram(weighted, work.gather)
        weights = work.weights * min_norm_weights(gram, gram.diagonal() > 0)
        return normalise_first(work, weights, config.group, config.batch, config.tokens), state


def advantage_gram(
    advantages: Float[Tensor, "P G ... K"], gather: Gather | None
) -> Float[Tensor, "K K"]:
    """Q_kl = sum over samples of A_k A_l: (P, G[, T], K) -> (K, K), over all ranks."""
    flat = advantages.reshape(-1, advantages.shape[-1])
    gram = flat.T @ flat
    return gram if gather is None else gather(gram[None]).sum(0)


def _spread_weights(work: Work) -> Float[Tensor, "... K"]:
    """Static weights, ready to multiply (P, G, [T,] K)."""
    weights = work.weights
    extra = work.scores.values.ndim - weights.ndim
    return weights if weights.ndim == 1 else weights.reshape(len(weights), *[1] * extra, -1)
