"""How well frames fit their caption, by models with one tower for pictures and one for texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.base import register_reward
from reelrl.rewards.image.frames import FrameReward
from reelrl.rewards.image.loading import ImageTransform, local_folder

OPEN_CLIP_H14 = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""Holds the tokenizer and image processor of PickScore and HPSv2.1, whose repositories do not."""


def pooled(output: Any) -> Tensor:
    """The embedding: transformers 5 wraps it in a model output, 4 returned the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


class TextImageReward(FrameReward):
    """A function of the cosine of a frame's and its caption's embedding.

    Args:
        model: see :class:`FrameReward`.
        processor: folder or repository of tokenizer and image processor; by default the model's.
        **config: of :class:`FrameReward`.
    """

    processor: str | None = None
    """Repository to take tokenizer and image processor from if the model's folder has none."""

    def __init__(
        self, model: str | Path | None = None, *, processor: str | Path | None = None, **config: Any
    ) -> None:
        self._processor = processor
        super().__init__(model, **config)
        home = self._processor_folder()
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(
            home, local_files_only=True, trust_remote_code=False
        )
        self.transform = ImageTransform.from_pretrained(home)

    def _processor_folder(self) -> Path:
        if self._processor is not None:
            return local_folder(self._processor, self.download)
        own = any((self.folder / f).is_file() for f in ("tokenizer.json", "vocab.json"))
        if own or self.processor is None:
            return self.folder
        return local_folder(self.processor, self.download)

    @abstractmethod
    def from_cosine(self, cosine: Tensor) -> Tensor:
        """Score of a cosine, elementwise."""

    def tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask of prompts, cut at the model's length, as published."""
        length = self.module.config.text_config.max_position_embeddings
        self.tell_cut(self.tokenizer, prompts, length)
        tokens: dict[str, Tensor] = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        return tokens

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings of captions, (N, D)."""
        tokens = {key: value.to(self.module.device) for key, value in self.tokens(prompts).items()}
        features = pooled(self.module.get_text_features(**tokens))
        return functional.normalize(features.float(), dim=-1)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Unit embeddings of frames (M, H, W, 3), (M, D)."""
        pixels = self.transform(frames).to(self.dtype)
        features = pooled(self.module.get_image_features(pixel_values=pixels))
        return functional.normalize(features.float(), dim=-1)

    def score_frames(self, frames: Tensor, texts: Tensor) -> Tensor:
        """Scores (M,) of frames (M, H, W, 3) with the embeddings (M, D) of their captions."""
        return self.from_cosine((self.embed_frames(frames) * texts).sum(dim=-1))


@register_reward("clip_score")
class ClipScore(TextImageReward):
    """CLIPScore: cosine of frame and caption."""

    name, bounds = "clip_score", (0.0, 100.0)
    formula = "mean_t 100 max(cos(CLIP(x_t), CLIP(c)), 0)"
    source = "Hessel et al. 2021, eq. 1, with the factor of torchmetrics"
    weights, license, memory_gb = "openai/clip-vit-base-patch32", "MIT", 0.3

    def load(self, folder: Path) -> Any:
        """A ``CLIPModel``."""
        from transformers import CLIPModel

        return self.pretrained(CLIPModel, folder)

    def from_cosine(self, cosine: Tensor) -> Tensor:
        """100 max(cos, 0)."""
        return 100 * cosine.clamp_min(0)


@register_reward("pick_score")
class PickScore(TextImageReward):
    """PickScore: CLIP tuned on which of two pictures people picked; 18 to 26 in practice."""

    name, bounds = "pick_score", (-100.0, 100.0)
    formula = "mean_t exp(logit scale) cos(f(x_t), f(c))"
    source = "Kirstain et al. 2023, eq. 1; yuvalkirstain/PickScore"
    weights, license, memory_gb = "yuvalkirstain/PickScore_v1", "MIT", 2.0
    processor = OPEN_CLIP_H14

    def load(self, folder: Path) -> Any:
        """A ``CLIPModel``, whose logit scale its training clipped at 100."""
        from transformers import CLIPModel

        return self.pretrained(CLIPModel, folder)

    def from_cosine(self, cosine: Tensor) -> Tensor:
        """The logit of a picture for its text."""
        scale: Tensor = self.module.logit_scale
        return scale.float().exp().clamp_max(100) * cosine


@register_reward("siglip_score")
class SiglipScore(TextImageReward):
    """SigLIP's probability that caption and frame belong together."""

    name, bounds = "siglip_score", (0.0, 1.0)
    formula = "mean_t σ(exp(scale) cos(f(x_t), f(c)) + bias)"
    source = "Zhai et al. 2023, eq. 1"
    weights, license, memory_gb = "google/siglip-so400m-patch14-384", "Apache-2.0", 1.8

    def load(self, folder: Path) -> Any:
        """A ``SiglipModel``, which loads SigLIP 2 of fixed resolution as well."""
        from transformers import SiglipModel

        return self.pretrained(SiglipModel, folder)

    def tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Lower-cased captions padded to the full length, without a mask, as in training."""
        length = self.module.config.text_config.max_position_embeddings
        captions = [prompt.lower() for prompt in prompts]
        self.tell_cut(self.tokenizer, captions, length)
        ids = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )["input_ids"]
        return {"input_ids": ids}

    def from_cosine(self, cosine: Tensor) -> Tensor:
        """Sigmoid of the scaled and shifted cosine."""
        scale, bias = self.module.logit_scale.float().exp(), self.module.logit_bias.float()
        return torch.sigmoid(scale * cosine + bias)
