"""The vector family: normalise every component in its group, then sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from reelrl.algos.advantages.batch import Signal, Work, valid_mask
from reelrl.algos.advantages.masked import Masked
from reelrl.algos.advantages.norm import NormSpec
from reelrl.algos.advantages.pipeline import (
    Estimator,
    GroupBatchConfig,
    normalise_first,
    sum_first,
)
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.types import State

_WHITEN = NormSpec("batch", "batch", ddof=1, eps=1e-8, eps_mode="insqrt")


@dataclass(frozen=True, kw_only=True)
class VectorConfig(GroupBatchConfig):
    """Settings of the vector family: ``group`` is of each component, ``batch`` of their sum."""


class Vector(Estimator):
    """A = sum_k w_k normalise(r_k), normalised again over the batch if the config says so."""

    Config: ClassVar[type] = VectorConfig

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Normalise, then sum."""
        config = self.config
        signal = normalise_first(work, work.weights, config.group, config.batch, config.tokens)
        return signal, state


@register_estimator("gdpo")
class GDPO(Vector):
    """Eq. 4 A_k = z_g(r_k); eq. 7 S = sum_k w_k A_k; eq. 6 A = (S - mean_B S) / (std_B S + eps)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(VectorConfig):
        """Settings of GDPO.

        Attributes:
            nan: a missing score is skipped ("skip"), or scored zero before normalising ("zero",
                the first released code).
            single_batch_norm: normalise over the batch even if K = 1; the TRL fork falls back to
                GRPO there.
            use_weights: False ignores static weights (the released verl fork).
            components: (fewest, most) components taken; None for no limit.
        """

        group: NormSpec = field(default=NormSpec(eps=0.0))
        batch: NormSpec | None = field(default=NormSpec("batch", "batch", eps=1e-8))
        nan: Literal["skip", "zero"] = "skip"
        single_batch_norm: bool = True
        use_weights: bool = True
        components: tuple[int, int | None] = (1, None)

    source: ClassVar[str] = "arXiv 2601.05242"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "trl": {"group": NormSpec(eps=1e-4), "batch": NormSpec("batch", "batch", eps=1e-4)},
        "nvlabs_trl": {
            "group": NormSpec(eps=1e-4),
            "batch": NormSpec("batch", "batch", eps=1e-4),
            "nan": "zero",
            "single_batch_norm": False,
        },
        "nvlabs_verl": {
            "group": NormSpec(eps=1e-6, singleton="raw"),
            "batch": _WHITEN,
            "use_weights": False,
            "components": (2, 2),
        },
        "verl": {"group": NormSpec(eps=1e-6, singleton="raw"), "batch": _WHITEN},
        "nemo": {
            "group": NormSpec(eps=1e-6, eps_mode="where"),
            "batch": NormSpec("batch", "batch", eps=0.0),
            "components": (2, None),
        },
        "nemo_loo": {
            "group": NormSpec("loo", "loo", eps=1e-6, eps_mode="where"),
            "batch": NormSpec("batch", "batch", eps=0.0),
            "components": (2, None),
        },
        "flow_factory": {
            "group": NormSpec(ddof=0, eps=1e-6, eps_mode="floor"),
            "batch": NormSpec("batch", "batch", ddof=0, eps=1e-6, eps_mode="floor"),
        },
        "pref_grpo_repo": {
            "group": NormSpec(eps=1e-8),
            "batch": NormSpec("batch", "batch", eps=1e-8),
        },
    }
    presets = {**presets, "nvlabs": presets["nvlabs_trl"]}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Normalise each component, sum, normalise over the batch."""
        config, count = self.config, len(work.names)
        fewest, most = config.components
        if count < fewest or (most is not None and count > most):
            raise ValueError(
                f"this preset of 'gdpo' takes {fewest} to {most or 'any number of'} components, "
                f"got {count}: {work.names}"
            )
        if config.nan == "zero":
            work = work.with_scores(_score_zero(work))
        weights = work.weights if config.use_weights else torch.ones_like(work.weights)
        if count == 1 and not config.single_batch_norm:
            # The fork then takes GRPO's path: the weight meets the epsilon, so it matters.
            return sum_first(work, weights, config.group), state
        return normalise_first(work, weights, config.group, config.batch, config.tokens), state


@register_estimator("advantage_sum")
class AdvantageSum(Vector):
    """A = sum_k w_k z_g(r_k) without a batch normalisation: MO-GRPO and others."""

    source: ClassVar[str] = "MO-GRPO, arXiv 2509.22047 (abstract); MixGRPO and Pref-GRPO code"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mo_grpo": {"group": NormSpec(eps=0.0)},
        "mixgrpo": {"group": NormSpec(eps=1e-8)},
        "pref_grpo": {"group": NormSpec(eps=1e-8)},
    }


@register_estimator("dancegrpo")
class DanceGRPO(Vector):
    """Per-component advantages, each clipped, each with its own loss; the losses are weighted.

    ``advantages`` is the weighted sum, whose gradient agrees with the per-component losses only
    while the policy ratio is 1.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(VectorConfig):
        """Like :class:`VectorConfig`, with the per-component clip of the released trainer."""

        group: NormSpec = field(default=NormSpec(eps=1e-8, clip=5.0))

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.batch is not None:
                raise ValueError(
                    "dancegrpo has one loss per component, which a normalisation of their sum "
                    f"never reaches: batch must be None, got {self.batch}"
                )

    loss_mode: ClassVar[str] = "per_component"
    source: ClassVar[str] = "DanceGRPO train_grpo_hunyuan.py, arXiv 2505.07818"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hunyuan": {},
        "hunyuan_best_of_8": {"post": ({"name": "best_of_n", "n": 8, "scope": "batch"},)},
    }


def _score_zero(work: Work) -> Masked:
    """Missing scores become zeros, except where the whole sample is invalid."""
    return Masked.of(work.scores.values, valid_mask(work.batch, work.scores.values))
