"""LAION's aesthetic predictors on CLIP embeddings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from reelrl.rewards.base import register_reward
from reelrl.rewards.image.clip import pooled
from reelrl.rewards.image.frames import FrameReward
from reelrl.rewards.image.loading import ImageTransform, read_state, the_file


def affine_of(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The one affine map that a stack of linear layers is, weight (D,) and bias ().

    The published heads have dropout and no activation between their layers: "linearMSE" is five
    layers, VBench's ``sa_0_4`` a single one, and both are w·e + b.

    Raises:
        ValueError: if the tensors are not a stack of linear layers that ends in one number.
    """

    def place(key: str) -> int:
        numbers = re.findall(r"\d+", key)
        return int(numbers[-1]) if numbers else 0

    stems = sorted({key.rsplit(".", 1)[0] if "." in key else "" for key in state}, key=place)
    weight: Tensor | None = None
    bias: Tensor | None = None
    for stem in stems:
        prefix = f"{stem}." if stem else ""
        w, b = (state.get(f"{prefix}{kind}") for kind in ("weight", "bias"))
        if w is None or b is None or w.ndim != 2 or (bias is not None and w.shape[1] != len(bias)):
            raise ValueError(f"expected a stack of linear layers, got {sorted(state)}")
        w, b = w.double(), b.double()
        weight, bias = (w, b) if weight is None or bias is None else (w @ weight, w @ bias + b)
    if weight is None or bias is None or weight.shape[0] != 1:
        raise ValueError(f"expected linear layers that end in one number, got {sorted(state)}")
    return weight[0].float(), bias[0].float()


class AestheticModel(nn.Module):
    """A CLIP vision tower and an affine map of its unit embeddings."""

    weight: Tensor
    bias: Tensor

    def __init__(self, clip: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.clip: Any = clip
        # float32 whatever the tower has: the scores of a group differ in the third digit
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores (M,) of pixels (M, 3, h, w)."""
        features = pooled(self.clip.get_image_features(pixel_values=pixels))
        return functional.normalize(features.float(), dim=-1) @ self.weight + self.bias


@register_reward("aesthetic")
class Aesthetic(FrameReward):
    """LAION's aesthetic score, about 1 to 10.

    On unit embeddings an affine map cannot leave b ± ‖w‖, which become the bounds.

    Args:
        model: folder of the CLIP model.
        head: file of the head, ``.pth`` or ``.safetensors``; by default the one in the model's
            folder with "linear" in its name.
        **config: of :class:`~reelrl.rewards.image.frames.FrameReward`.
    """

    name, bounds = "aesthetic", (-float("inf"), float("inf"))
    formula = "mean_t w·e_t + b, e_t = CLIP(x_t)/‖CLIP(x_t)‖"
    source = "christophschuhmann/improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE"
    weights, license, memory_gb = "openai/clip-vit-large-patch14", "MIT AND Apache-2.0", 0.9

    def __init__(
        self, model: str | Path | None = None, *, head: str | Path | None = None, **config: Any
    ) -> None:
        self._head = head
        super().__init__(model, **config)
        self.transform = ImageTransform.from_pretrained(self.folder)
        size, centre = float(self.module.weight.norm()), float(self.module.bias)
        self.bounds = self.bounds_of((centre - size, centre + size))

    def load(self, folder: Path) -> AestheticModel:
        """A ``CLIPModel`` with the head on top."""
        from transformers import CLIPModel

        clip = self.pretrained(CLIPModel, folder)
        patterns = ("*linear*.pth", "*linear*.safetensors")
        head = Path(self._head) if self._head is not None else the_file(folder, *patterns)
        weight, bias = affine_of(read_state(head))
        if len(weight) != clip.config.projection_dim:
            raise ValueError(
                f"the head {head.name} takes embeddings of {len(weight)}, "
                f"the model makes {clip.config.projection_dim}"
            )
        return AestheticModel(clip, weight, bias)

    def score_frames(self, frames: Tensor, texts: Tensor) -> Tensor:
        """Scores (M,) of frames (M, H, W, 3)."""
        scores: Tensor = self.module(self.transform(frames).to(self.dtype))
        return scores
