"""VBench's quality, semantic and total score, over the dimensions that were measured.

VBench (Huang et al. 2024) has sixteen dimensions. Its own script scores a missing one as zero;
here a missing one is named, its score is left out, and the total exists only when nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from reelrl.rewards.base import RewardOutput


@dataclass(frozen=True)
class Dimension:
    """One of VBench's dimensions.

    Attributes:
        low: raw score that counts as 0.
        high: raw score that counts as 1.
        rewards: our components that measure it, the most faithful first.
        scale: factor from our component to the raw score.
        note: where our component is not VBench's; empty if it is.
        weight: in the mean of its group.
    """

    low: float = 0.0
    high: float = 1.0
    rewards: tuple[str, ...] = ()
    scale: float = 1.0
    note: str = ""
    weight: float = 1.0


QUALITY: dict[str, Dimension] = {
    "subject_consistency": Dimension(0.1462, 1.0, ("subject_consistency",)),
    "background_consistency": Dimension(0.2615, 1.0, ("background_consistency",)),
    "temporal_flickering": Dimension(
        0.6293, 1.0, ("temporal_flicker",), note="VBench asks it of still scenes only"
    ),
    "motion_smoothness": Dimension(
        0.706, 0.9975, ("linear_smoothness",), note="linear interpolation in place of AMT-S"
    ),
    "aesthetic_quality": Dimension(
        rewards=("aesthetic",), scale=0.1, note="VBench's with the head sa_0_4_vit_l_14_linear"
    ),
    "imaging_quality": Dimension(),
    "dynamic_degree": Dimension(
        rewards=("raft_dynamic_degree", "dynamic_degree"),
        note="VBench's with RAFT; dynamic_degree has Lucas-Kanade",
        weight=0.5,
    ),
}
SEMANTIC: dict[str, Dimension] = {
    "object_class": Dimension(),
    "multiple_objects": Dimension(),
    "human_action": Dimension(),
    "color": Dimension(),
    "spatial_relationship": Dimension(),
    "scene": Dimension(high=0.8222),
    "appearance_style": Dimension(
        0.0009, 0.2855, ("clip_score",), 0.01, "of the name of the style as the prompt"
    ),
    "temporal_style": Dimension(high=0.364),
    "overall_consistency": Dimension(high=0.364),
}
DIMENSIONS: dict[str, Dimension] = {**QUALITY, **SEMANTIC}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0


@dataclass(frozen=True)
class VBenchScore:
    """VBench's aggregate, as far as its dimensions were measured.

    Attributes:
        normalised: score of every measured dimension, 0 and 1 being VBench's bounds.
        quality: weighted mean over the measured quality dimensions; nan without any.
        semantic: likewise over the semantic ones.
        missing: dimensions that were not measured.
    """

    normalised: dict[str, float]
    quality: float
    semantic: float
    missing: tuple[str, ...]

    @property
    def total(self) -> float:
        """(4 quality + semantic) / 5, nan unless all sixteen dimensions were measured."""
        if self.missing:
            return math.nan
        weighted = QUALITY_WEIGHT * self.quality + SEMANTIC_WEIGHT * self.semantic
        return weighted / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)

    def __str__(self) -> str:
        """Every score with the number of dimensions it stands on, and the missing ones by name."""
        parts = []
        for name, group in (("quality", QUALITY), ("semantic", SEMANTIC)):
            seen = sum(dimension in self.normalised for dimension in group)
            parts.append(f"{name} {getattr(self, name):.4f} over {seen} of {len(group)} dimensions")
        parts.append(f"total {self.total:.4f}")
        missing = f"; not measured: {', '.join(self.missing)}" if self.missing else ""
        return ", ".join(parts) + missing


def aggregate(raw: Mapping[str, float]) -> VBenchScore:
    """VBench's aggregation (``scripts/cal_final_score.py``) of raw scores by dimension.

    Raises:
        ValueError: for a name that is no dimension of VBench, or a score that is not finite.
    """
    for name, value in raw.items():
        if name not in DIMENSIONS:
            known = ", ".join(DIMENSIONS)
            raise ValueError(f"VBench has no dimension {name!r}; it has {known}")
        if not math.isfinite(value):
            raise ValueError(f"the score of {name!r} must be finite, got {value}")
    normalised = {
        name: (float(raw[name]) - d.low) / (d.high - d.low)
        for name, d in DIMENSIONS.items()
        if name in raw
    }

    def mean(group: Mapping[str, Dimension]) -> float:
        weights = {name: d.weight for name, d in group.items() if name in normalised}
        total = sum(weights[name] * normalised[name] for name in weights)
        return total / sum(weights.values()) if weights else math.nan

    missing = tuple(name for name in DIMENSIONS if name not in raw)
    return VBenchScore(normalised, mean(QUALITY), mean(SEMANTIC), missing)


def raw_scores(outputs: Mapping[str, RewardOutput]) -> dict[str, float]:
    """Raw scores by dimension from the outputs of our components by their names.

    Components that measure no dimension are passed over; of two that measure the same, the more
    faithful one counts.

    Raises:
        ValueError: if a clip has no score, which a mean would hide.
    """
    raw: dict[str, float] = {}
    for dimension, entry in DIMENSIONS.items():
        name = next((name for name in entry.rewards if name in outputs), None)
        if name is None:
            continue
        output = outputs[name]
        failed = int((~output.valid).sum())
        if failed or not len(output.valid):
            raise ValueError(f"{failed} of {len(output.valid)} clips have no score of {name!r}")
        raw[dimension] = entry.scale * float(output.values.double().mean())
    return raw
