"""How likely frames are free of artifacts, by a linear probe on a frozen model of pictures.

"Understanding Reward Hacking in Text-to-Image Reinforcement Learning" (Hong et al. 2026, arXiv
2601.03468) finds that policies drift to pictures with artifacts whatever they are rewarded for, and
adds a small classifier of them to the reward as a regulariser. Neither that model nor its data are
published. This is another classifier in its place. ``python -m reelrl.zoo.shipped.artifact_probe``
trains it on artifacts that can be drawn; whether it knows others has not been tested.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reelrl.rewards.base import register_reward
from reelrl.rewards.image.clip import pooled
from reelrl.rewards.image.frames import FrameReward
from reelrl.rewards.image.loading import ImageTransform, read_state

HEAD_FILE = "artifact_head.safetensors"


class PictureEncoder:
    """Unit features of frames, by a ``CLIPModel`` or the class token of a ``Dinov2Model``.

    Args:
        folder: of the model, its image processor beside it.
        dtype: of the model.
    """

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import AutoModel

        self.model: Any = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=dtype
        )
        self.model.requires_grad_(False).eval()
        self.dtype, own = dtype, ImageTransform.from_pretrained(folder)
        # Uncropped: an artifact at the border is one.
        side = own.crop or own.size
        side = (side, side) if isinstance(side, int) else side
        self.transform = replace(own, size=side, crop=None)

    def __call__(self, frames: Tensor) -> Tensor:
        """Unit features (M, D) of frames (M, H, W, 3)."""
        pixels = self.transform(frames).to(self.dtype)
        if hasattr(self.model, "get_image_features"):
            features = pooled(self.model.get_image_features(pixel_values=pixels))
        else:
            features = self.model(pixel_values=pixels).last_hidden_state[:, 0]
        return functional.normalize(features.float(), dim=-1)


@register_reward("artifact_free")
class ArtifactFree(FrameReward):
    r"""Probability that a frame is free of the artifacts a linear probe was trained on.

    To be added to the reward that is optimised, with a small weight (arXiv 2601.03468 calls it a
    regulariser): by itself it asks neither for the caption nor for motion.

    No head is published or shipped, since none can be without the encoder's weights:
    ``python -m reelrl.zoo.shipped.artifact_probe MODEL`` trains one in the model's folder.

    Args:
        model: folder of a ``CLIPModel`` or ``Dinov2Model``.
        head: file of the probe, by default ``artifact_head.safetensors`` beside the model.
        **config: of :class:`~reelrl.rewards.image.frames.FrameReward`.

    Raises:
        FileNotFoundError: without model or head.
        ValueError: for a head on other features.
    """

    name, bounds = "artifact_free", (0.0, 1.0)
    formula = "mean_t σ(w·e_t + b), e_t = f(x_t)/‖f(x_t)‖"
    source = "role as in Hong et al. 2026 (arXiv 2601.03468); the classifier is our own"
    weights, license, memory_gb = "facebook/dinov2-base", "Apache-2.0", 0.2

    def __init__(
        self, model: str | Path | None = None, *, head: str | Path | None = None, **config: Any
    ) -> None:
        self._head = head
        super().__init__(model, **config)

    def load(self, folder: Path) -> nn.Module:
        """The encoder's model, and the probe."""
        file = folder / HEAD_FILE if self._head is None else Path(self._head)
        if not file.is_file():
            raise FileNotFoundError(
                f"no probe {file}: train one by "
                f"python -m reelrl.zoo.shipped.artifact_probe {folder}"
            )
        self.encoder = PictureEncoder(folder, self.dtype)
        state = read_state(file)
        self.head = (state["weight"].float(), state["bias"].float())
        model: nn.Module = self.encoder.model
        return model

    def score_frames(self, frames: Tensor, texts: Tensor) -> Tensor:
        """Probabilities (M,) of frames (M, H, W, 3)."""
        features = self.encoder(frames)
        weight, bias = (tensor.to(features.device) for tensor in self.head)
        if features.shape[1] != len(weight):
            raise ValueError(
                f"the probe takes features of {len(weight)}, the model makes {features.shape[1]}"
            )
        return torch.sigmoid(features @ weight + bias)
