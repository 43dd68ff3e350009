"""The scalar family: sum the components, then centre and scale the sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.norm import NormSpec
from reelrl.algos.advantages.pipeline import Estimator, GroupBatchConfig, sum_first
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.types import State

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class ScalarConfig(GroupBatchConfig):
    """Settings of the scalar family, which normalises the sum s.

    Attributes:
        nan: a missing score pulls its clip nowhere ("skip"), or counts as 0 ("zero", TRL's
            ``nansum``): then the clip is worst or best by where 0 lies on the scale.
    """

    nan: Literal["skip", "zero"] = "skip"


class Scalar(Estimator):
    """s = sum_k w_k r_k, normalised as the config says."""

    Config: ClassVar[type] = ScalarConfig

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Sum, then normalise."""
        return sum_as(self.config, work, work.weights), state


def sum_as(config: ScalarConfig, work: Work, weights: Float[Tensor, "*P K"]) -> Signal:
    """Sum with ``weights`` and normalise as the settings of the scalar family say."""
    return sum_first(work, weights, config.group, config.batch, config.tokens, nan=config.nan)


def _group(ddof: int, eps: float, **kw: Any) -> dict[str, Any]:
    return {"group": NormSpec(ddof=ddof, eps=eps, **kw)}


@register_estimator("grpo")
class GRPO(Scalar):
    """A = (s - mean_g s) / std_g s: Group Relative Policy Optimization."""

    source: ClassVar[str] = "DeepSeekMath, arXiv 2402.03300"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": _group(1, 0.0),
        "dancegrpo": _group(1, 1e-8),
        "pref_grpo": _group(1, 1e-8),
        "mixgrpo": _group(1, 1e-8),
        "trl": {**_group(1, 1e-4), "nan": "zero"},
        "trl_batch": {"group": NormSpec(scale="batch", ddof=1, eps=1e-4), "nan": "zero"},
        "verl": _group(1, 1e-6, singleton="raw"),
        "openrlhf": _group(1, 1e-9),
        "nemo": _group(1, 1e-6, eps_mode="where"),
        "nemo_loo": _group(1, 1e-6, eps_mode="where", baseline="loo", scale="loo"),
        "flow_grpo": _group(0, 1e-4),
        "flow_factory": _group(0, 1e-6, eps_mode="floor"),
        "cosmos": _group(0, 1e-6),
        "unirl": _group(0, 1e-8, eps_mode="insqrt"),
        "arena_rl": _group(1, 1e-6),
    }


@register_estimator("dr_grpo")
class DrGRPO(Scalar):
    """A = s - mean_g s: GRPO without the division by the std."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Like :class:`ScalarConfig`, unscaled."""

        group: NormSpec = field(default=NormSpec(scale="none"))

    source: ClassVar[str] = "arXiv 2503.20783"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "trl": {"nan": "zero"},
        "cosmos": {},
        "verl": {"group": NormSpec(scale="none", singleton="raw")},
    }


@register_estimator("rloo")
class RLOO(Scalar):
    """A_i = s_i - mean_{j != i} s_j = G / (G - 1) (s_i - mean_g s): leave-one-out baseline."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Like :class:`ScalarConfig`, with the leave-one-out baseline and no scale."""

        group: NormSpec = field(default=NormSpec(baseline="loo", scale="none"))

    source: ClassVar[str] = "arXiv 2402.14740"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "trl": {"nan": "zero"},
        "trl_norm": {"batch": NormSpec("batch", "batch", ddof=1, eps=1e-4), "nan": "zero"},
        "verl": {"group": NormSpec(baseline="loo", scale="none", singleton="raw")},
    }


_VERL = NormSpec("batch", "batch", ddof=1, eps=1e-8, eps_mode="insqrt")
_WHITEN = {
    "verl": _VERL,
    "nemo": NormSpec("batch", "batch", ddof=0, eps=1e-8, eps_mode="clampvar"),
    "openrlhf": NormSpec("batch", "batch", ddof=0, eps=1e-8, eps_mode="clampvar"),
}


@register_estimator("reinforce_pp")
class ReinforcePP(Scalar):
    """A = (s - mean_B s) / std_B s over the whole batch; group means are not zero."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Like :class:`ScalarConfig`: nothing per group, everything per batch."""

        group: NormSpec = field(default=NormSpec(baseline="none", scale="none"))
        batch: NormSpec | None = field(
            default=NormSpec("batch", "batch", eps=1e-8, eps_mode="insqrt")
        )

    source: ClassVar[str] = "arXiv 2501.03262"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "verl": {"batch": _WHITEN["verl"], "credit": "return_to_go"},
        "nemo": {"batch": _WHITEN["nemo"]},
        "openrlhf": {"batch": _WHITEN["openrlhf"]},
    }


@register_estimator("reinforce_pp_baseline")
class ReinforcePPBaseline(Scalar):
    """Subtract the group mean, then divide by the batch std of the differences."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Like :class:`ScalarConfig`: centred per group, whitened per batch."""

        group: NormSpec = field(default=NormSpec(scale="none"))
        batch: NormSpec | None = field(
            default=NormSpec("batch", "batch", eps=1e-8, eps_mode="insqrt")
        )

    source: ClassVar[str] = "arXiv 2501.03262"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "batch": spec,
            "group": NormSpec(scale="none", singleton="raw" if name == "verl" else "zero"),
        }
        for name, spec in _WHITEN.items()
    }


@register_estimator("global_std")
class GlobalStd(Scalar):
    """A = (s - mean_g s) / (std_B s + eps): group baseline, scale of the batch's raw rewards."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Like :class:`ScalarConfig`, scaled by the batch."""

        group: NormSpec = field(default=NormSpec(scale="batch", ddof=0, eps=1e-4))

    source: ClassVar[str] = "Flow-GRPO global_std=True, arXiv 2505.05470"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "flow_grpo": {},
        "trl": {"group": NormSpec(scale="batch", ddof=1, eps=1e-4), "nan": "zero"},
        "verl_omni": {"group": NormSpec(scale="batch", ddof=1, eps=1e-4)},
        "unirl": {"group": NormSpec(scale="batch", ddof=0, eps=1e-8, eps_mode="insqrt")},
    }
