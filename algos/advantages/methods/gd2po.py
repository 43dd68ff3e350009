"""GD2PO: leave samples out on which the components disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.masked import Masked, safe_divide
from reelrl.algos.advantages.methods.gdpo import VectorConfig
from reelrl.algos.advantages.norm import GroupStats, NormSpec, normalise
from reelrl.algos.advantages.pipeline import Estimator, normalise_first
from reelrl.algos.advantages.post import drop, keep_ratio
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.types import State
from reelrl.checks import Ge

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@register_estimator("gd2po")
class GD2PO(Estimator):
    """z_k per group; drop conflicting samples; times the keep ratio; whiten the kept samples.

    A sample conflicts if some z_k > margin and some z_l < -margin. The kept set has no zero mean
    per group, and with many components "hard" drops nearly everything.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(VectorConfig):
        """Settings of GD2PO.

        Attributes:
            mode: "hard" drops every conflicting sample; "snr" only where |sum z| / sum |z| < tau.
            tau: that threshold; 0.8 in the released scripts, 0.2 in the config's default.
            margin: the dead zone of the conflict test.
        """

        group: NormSpec = field(default=NormSpec(eps=1e-6))
        batch: NormSpec | None = field(
            default=NormSpec("batch", "batch", eps=1e-8, eps_mode="insqrt")
        )
        mode: Literal["hard", "snr"] = "snr"
        tau: float = 0.8
        margin: Annotated[float, Ge(0)] = 0.0

    source: ClassVar[str] = "arXiv 2606.16771"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "scripts": {"mode": "snr", "tau": 0.8},
        "config": {"mode": "snr", "tau": 0.2},
        "hard": {"mode": "hard"},
    }

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Filter between the two normalisations."""
        config = self.config
        signal = normalise_first(work, work.weights, config.group)
        conflict = self.conflicts(_without_noise(work, signal.terms.values), 10 * work.tol)
        keep = ~conflict & signal.advantages.present
        ratio = keep_ratio(keep.to(work.scores.values.dtype), signal.advantages.present)
        kept = Masked.of(signal.advantages.values * ratio, keep)
        if config.batch is not None:
            tokens = work.tokens(config.tokens)
            kept = normalise(
                kept, config.batch, tol=work.tol, tokens=tokens, gather=work.gather
            ).out
        # A dropped sample was scored all the same: it has advantage 0, and is not missing.
        whole = Masked(kept.values, signal.advantages.mask)
        return drop(replace(signal, advantages=whole), keep), state

    def conflicts(
        self, z: Float[Tensor, "*sample K"], slack: float = 0.0
    ) -> Bool[Tensor, " *sample"]:
        """(..., K) component advantages -> (...) True where the sample is to be dropped.

        A ratio that is less than ``slack`` below the threshold equals it up to rounding.
        """
        margin = self.config.margin
        mixed: Tensor = (z > margin).any(-1) & (z < -margin).any(-1)
        if self.config.mode == "hard":
            return mixed
        cancelled: Tensor = safe_divide(z.sum(-1).abs(), z.abs().sum(-1)) < self.config.tau - slack
        return mixed & cancelled


def _without_noise(work: Work, z: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """Z with exact zeros where a score is its group's mean up to rounding, which has no sign."""
    stats = GroupStats.of(work.scores)
    return torch.where(stats.centred.abs() <= work.tol * stats.top, 0.0, z)
