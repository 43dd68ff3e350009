"""VBench's two consistencies: how alike the frames of a clip look to a model of pictures."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.base import register_reward
from reelrl.rewards.image.clip import pooled
from reelrl.rewards.image.frames import ModelReward
from reelrl.rewards.image.loading import ImageTransform


def consistency(features: Tensor) -> Tensor:
    r"""Likeness of every frame to the one before and to the first, (N,).

    :math:`\frac{1}{F-1} \sum_{t=1}^{F-1} \tfrac12 \left[\cos(f_t, f_{t-1})_+ + \cos(f_t,
    f_0)_+\right]` (VBench, ``vbench/subject_consistency.py``).

    Args:
        features: (N, F, D), F at least 2.
    """
    unit = functional.normalize(features.float(), dim=-1)
    before = (unit[:, 1:] * unit[:, :-1]).sum(dim=-1).clamp_min(0)
    first = (unit[:, 1:] * unit[:, :1]).sum(dim=-1).clamp_min(0)
    return ((before + first) / 2).mean(dim=1)


class Consistency(ModelReward):
    """:func:`consistency` of the features of some model; a still clip has 1."""

    bounds, fps_sensitive = (0.0, 1.0), True
    formula = "mean_t (cos(f_t, f_{t-1})₊ + cos(f_t, f_0)₊)/2"

    @abstractmethod
    def embed_frames(self, frames: Tensor) -> Tensor:
        """Features (M, D) of frames (M, H, W, 3)."""

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); nan for single frames."""
        if videos.shape[1] < 2:
            return videos.new_full((len(videos),), torch.nan)
        self.module.to(videos.device)
        frames = torch.split(videos.flatten(0, 1), self.batch_size)
        features = torch.cat([self.embed_frames(part) for part in frames])
        return consistency(features.reshape(*videos.shape[:2], -1))


@register_reward("subject_consistency")
class SubjectConsistency(Consistency):
    """VBench's subject consistency, on a DINO, DINOv2 or DINOv3 vision transformer.

    Frames keep their aspect ratio, the short side as long as the model's pictures, uncropped.
    """

    name = "subject_consistency"
    source = "VBench, vbench/subject_consistency.py, f = class token of DINO ViT-B/16"
    weights, license, memory_gb = "facebook/dino-vitb16", "Apache-2.0", 0.2

    def load(self, folder: Path) -> Any:
        """The transformer, and the preparation of frames beside it."""
        from transformers import AutoModel

        own = ImageTransform.from_pretrained(folder)
        side = own.crop or own.size
        side = side if isinstance(side, int) else min(side)
        self.transform = replace(own, size=side, crop=None, mode="bilinear", antialias=False)
        model = self.pretrained(AutoModel, folder)
        # DINOv2 stretches its position table by itself, ViT when asked to.
        asks = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.extra = {"interpolate_pos_encoding": True} if asks else {}
        return model

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Class tokens (M, D)."""
        pixels = self.transform(frames).to(self.dtype)
        hidden: Tensor = self.module(pixel_values=pixels, **self.extra).last_hidden_state
        return hidden[:, 0]


@register_reward("background_consistency")
class BackgroundConsistency(Consistency):
    """VBench's background consistency, on the picture tower of CLIP."""

    name = "background_consistency"
    source = "VBench, vbench/background_consistency.py, f = CLIP ViT-B/32"
    weights, license, memory_gb = "openai/clip-vit-base-patch32", "MIT", 0.3

    def load(self, folder: Path) -> Any:
        """A ``CLIPModel``, and the preparation of frames beside it."""
        from transformers import CLIPModel

        self.transform = replace(ImageTransform.from_pretrained(folder), antialias=False)
        return self.pretrained(CLIPModel, folder)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Picture embeddings (M, D)."""
        pixels = self.transform(frames).to(self.dtype)
        return pooled(self.module.get_image_features(pixel_values=pixels))
