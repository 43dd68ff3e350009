"""Settings of a reward model's training, read from a yaml preset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from reelrl.checks import Ge, Within, check_fields
from reelrl.rewards.judges.rubric import RUBRICS, pointwise_text
from reelrl.rewards.soli.folder import Question
from reelrl.rewards.soli.heads import HeadName
from reelrl.zoo.settings import build, override, read_preset

Dimension = Literal["fid", "phys", "align"]
LossName = Literal["bt", "paper", "code", "btt"]
PRESET = "rewards/solireward"
RUBRIC_OF: dict[str, str] = {"fid": "visual", "phys": "motion", "align": "alignment"}
"""Gold axis -> the judge's rubric that asks for it."""


@dataclass(frozen=True)
class DataConfig:
    """The clips.

    Attributes:
        seed: of captions, noise and corruptions.
        train: clips that are trained on.
        held_out: clips of the same sources that are not.
        per_attack: clips of every attack, out of distribution.
        shard: clips per file.
    """

    seed: int = 0
    train: int = 3072
    held_out: int = 1024
    per_attack: int = 32
    shard: int = 64


@dataclass(frozen=True)
class RewardModelConfig:
    """A reward model's training.

    Attributes:
        backbone: folder of the frozen model, of the Qwen2-VL or Qwen2.5-VL class, or the name of
            one that ships.
        dimension: gold axis that is judged.
        head: see :mod:`reelrl.rewards.soli.heads`.
        loss: see :data:`reelrl.rewards.soli.loss.LOSSES`.
        seed: of initial weights, order, dropout and the annotator's errors.
        thresholds: gold value at which a clip passes, by dimension.
        noise: chance that an annotator's label is flipped.
        questions: the question to the model, by dimension, ``{prompt}`` standing for the caption;
            by default the judge's question about the rubric of :data:`RUBRIC_OF`.
        system: its system message; None means the chat template's own.
        num_frames: frames it is shown; None shows all.
        clip_fps: frames a second it is told.
        taps: layers that are read, counted from 1; none given reads all.
        attention_heads: of HPQA.
        dropout: of the reward head.
        learning_rate: peak, after the warm-up; then a half cosine to zero.
        warmup: share of the updates that warm up.
        batch: clips per update; every pair of them is in the loss.
        epochs: passes over the clips.
        save_every: updates between two state files.
        device: where hidden states are computed; heads are trained on the CPU.
        dtype: of the backbone.
        data: the clips.
    """

    backbone: str
    dimension: Dimension = "phys"
    head: HeadName = "hpqa"
    loss: LossName = "paper"
    seed: int = 0
    thresholds: dict[str, Any] = field(default_factory=dict)
    noise: Annotated[float, Within(0, 0.5)] = 0.13
    questions: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    num_frames: int | None = None
    clip_fps: float = 16.0
    taps: tuple[int, ...] = ()
    attention_heads: int = 8
    dropout: float = 0.1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    batch: Annotated[int, Ge(1)] = 64
    epochs: Annotated[int, Ge(1)] = 10
    save_every: Annotated[int, Ge(1)] = 100
    device: str = "cpu"
    dtype: str = "float32"
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dimension not in self.thresholds:
            raise ValueError(
                f"thresholds has no entry for {self.dimension!r}, got {sorted(self.thresholds)}"
            )

    @property
    def threshold(self) -> float:
        """Gold value at which a clip passes."""
        return float(self.thresholds[self.dimension])

    @property
    def question(self) -> Question:
        """How a clip is put to the model."""
        rubric = RUBRICS[RUBRIC_OF[self.dimension]]
        default = pointwise_text(rubric, "{prompt}", written=False)
        template = str(self.questions.get(self.dimension, default))
        return Question(template, self.system, self.num_frames, self.clip_fps)

    @property
    def name(self) -> str:
        """Of the default folder."""
        return f"{self.dimension}-{self.head}-{self.loss}-{self.seed}"

    def plain(self) -> dict[str, Any]:
        """All values, as JSON has them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @property
    def digest(self) -> str:
        """Of the settings; the same for a backbone that has moved."""
        values = {key: value for key, value in self.plain().items() if key != "backbone"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_config(preset: str = PRESET, settings: Sequence[str] = ()) -> RewardModelConfig:
    """Settings of a preset with ``"key=value"`` replacements.

    Raises:
        ValueError: for an unknown preset, key or value.
    """
    return build(RewardModelConfig, override(read_preset(preset), settings))
