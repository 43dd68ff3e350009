r"""VideoAlign's VideoReward: three axes read at three special tokens of one forward pass.

The instruction holds the tokens ``<|VQ_reward|>``, ``<|MQ_reward|>`` and ``<|TA_reward|>`` once
each; the last hidden state h at token k gives the logit :math:`w^\top h_k`, one w for all three,
and the published score is :math:`z_k = (w^\top h_k - \mu_k) / \sigma_k` (Liu et al. 2025,
"Improving Video Generation with Human Feedback"; KlingTeam/VideoAlign, ``inference.py`` with
``use_norm``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.base import register_reward
from reelrl.rewards.vlm.model import Query, QwenVL
from reelrl.rewards.vlm.shared import VLMReward, VLMScorer

AXES = ("VQ", "MQ", "TA")
TOKENS = tuple(f"<|{axis}_reward|>" for axis in AXES)
PUBLISHED_STATISTICS = {"VQ": (3.6757, 2.2476), "MQ": (1.1646, 1.3811), "TA": (2.8105, 2.5121)}
"""Axis -> mean and standard deviation of the published model's logits: logit = z * std + mean."""
MAX_PIXELS = 448 * 448
"""Largest area of a frame where ``model_config.json`` is silent."""

OWN_TEMPLATE = f"""Rate this generated video on three separate axes.
Visual quality: is every single frame sharp, well lit, detailed and free of broken shapes?
The visual quality is: {TOKENS[0]}
Motion quality: is the motion smooth, natural and physically possible, and is there enough of it?
The motion quality is: {TOKENS[1]}
Text alignment: does the video show what the caption asks for?
<caption>{{prompt}}</caption>
The text alignment is: {TOKENS[2]}
"""


class VideoAlignScorer(VLMScorer):
    """All three axes.

    Args:
        model: a folder of ours (``save_pretrained``, weights with ``rm_head.weight``), or the
            published one with ``model_config.json`` and ``checkpoint-*/model.pth``.
        base: with the published folder, the folder of Qwen2-VL-2B-Instruct, for its configuration.
        **settings: see :class:`~reelrl.rewards.vlm.shared.VLMScorer`.

    Raises:
        ValueError: if the template does not hold the three tokens once each, in order.
    """

    axes = AXES
    own_template = OWN_TEMPLATE
    published_template = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN in VideoAlign's prompt_template.py"

    def __init__(self, model: str | Path, *, base: str | None = None, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.base = None if base is None else Path(base)
        found = [self.template.count(token) for token in TOKENS]
        places = [self.template.find(token) for token in TOKENS]
        if found != [1, 1, 1] or places != sorted(places):
            raise ValueError(f"the template must hold {', '.join(TOKENS)} once each, in order")
        file = self.folder / "model_config.json"
        facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        data, norm = facts.get("data_config") or {}, facts.get("inference_config") or {}
        if data.get("sample_type", "uniform") != "uniform":
            raise ValueError(f"expected uniform frame sampling, got {data['sample_type']!r}")
        self.sample_fps = float(data.get("fps") or 2.0)
        self.num_frames = data.get("num_frames")
        self.max_pixels = int(data.get("max_frame_pixels") or MAX_PIXELS)
        self.statistics = {
            axis: (
                norm.get(f"{axis}_mean", PUBLISHED_STATISTICS[axis][0]),
                norm.get(f"{axis}_std", PUBLISHED_STATISTICS[axis][1]),
            )
            for axis in AXES
        }

    @property
    def folders(self) -> tuple[Path, ...]:
        """The model's folder and its base's; the base brings configuration and tokenizer."""
        return (self.folder,) if self.base is None else (self.folder, self.base)

    @cached_property
    def vlm(self) -> QwenVL:
        """The model with its reward head, opened when first used."""
        from reelrl.rewards.vlm._videoalign_model import open_videoalign

        return open_videoalign(
            self.folder,
            self.base,
            tokens=TOKENS,
            max_pixels=self.max_pixels,
            dtype=self.dtype,
            device=self.device,
        )

    def score_queries(self, queries: Sequence[Query]) -> Tensor:
        """(n, 3) z-scores."""
        hidden, ids = self.vlm.hidden(queries)
        wanted = self.vlm.tokenizer.convert_tokens_to_ids(list(TOKENS))
        # One of each per row, so the first place is the only one.
        place = torch.stack([(ids == token).int().argmax(dim=1) for token in wanted], dim=1)
        rows = torch.arange(len(ids), dtype=torch.int64, device=ids.device)[:, None]
        logits: Tensor = self.vlm.model.rm_head(hidden[rows, place])[..., 0].float()
        mean, std = logits.new_tensor([self.statistics[axis] for axis in AXES]).unbind(1)
        return (logits - mean) / std


@register_reward("videoalign")
class VideoAlign(VLMReward):
    """VideoAlign overall: sum of the z-scores of visual quality, motion quality and alignment."""

    name = "videoalign"
    bounds = (-float("inf"), float("inf"))
    formula = "z = (wᵀh - μ) / σ at the axis' token; overall: the sum of the three"
    source = "Liu et al. 2025 (VideoAlign); KlingTeam/VideoAlign, inference.py with use_norm"
    weights = "KlingTeam/VideoReward"
    memory_gb = 5.0
    scorer_type = VideoAlignScorer

    def total(self, scores: Tensor) -> Tensor:
        """The published overall score: the sum of the z-scores."""
        return scores.sum(dim=1)


@register_reward("videoalign_vq")
class VideoAlignVQ(VideoAlign):
    """VideoAlign visual quality, z-score: clear, detailed, sound frames."""

    name, axis = "videoalign_vq", "VQ"


@register_reward("videoalign_mq")
class VideoAlignMQ(VideoAlign):
    """VideoAlign motion quality, z-score: stable, natural motion, and enough of it."""

    name, axis = "videoalign_mq", "MQ"


@register_reward("videoalign_ta")
class VideoAlignTA(VideoAlign):
    """VideoAlign text alignment, z-score."""

    name, axis = "videoalign_ta", "TA"
