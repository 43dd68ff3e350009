"""ImageReward on transformers' BLIP: the published checkpoint with its tensors renamed.

The ``image-reward`` package carries a BLIP of its own that no longer imports beside a current
transformers. The model is transformers' own, up to names and one constant: its vision tower's
layers normalise with an epsilon of 1e-6, transformers' default is 1e-5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reelrl.rewards.base import register_reward
from reelrl.rewards.image.aesthetic import affine_of
from reelrl.rewards.image.frames import FrameReward
from reelrl.rewards.image.loading import ImageTransform, local_folder, read_state, the_file

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw scores on the authors' validation set; the published scores are z-scores."""
LENGTH = 35
"""Tokens of a caption, padded or cut."""
TOKENIZER = "google-bert/bert-base-uncased"
HEAD_WIDTH = 64
VISION_EPS = 1e-6
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

VISION, TEXT, MLP = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def rename_vision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of BLIP's own vision tower by the names of ``transformers.BlipVisionModel``.

    Raises:
        ValueError: for a tensor that it does not have.
    """
    return {_vision_name(key): value for key, value in state.items()}


def _vision_name(key: str) -> str:
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
    names, stem = (_BLOCK, block[2]) if block else (_VISION, key)
    prefix = f"encoder.layers.{block[1]}." if block else ""
    if stem in names:
        return prefix + names[stem]
    stem, _, kind = stem.rpartition(".")
    if stem not in names:
        raise ValueError(f"expected BLIP's vision tower, got a tensor {key!r}")
    return f"{prefix}{names[stem]}.{kind}"


def vision_config(state: dict[str, Tensor]) -> Any:
    """The ``BlipVisionConfig`` of a vision tower, read off its shapes."""
    from transformers import BlipVisionConfig

    _, places, width = state["pos_embed"].shape
    patch = state["patch_embed.proj.weight"].shape[-1]
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count(state, r"blocks\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=patch * int((places - 1) ** 0.5),
        patch_size=patch,
        layer_norm_eps=VISION_EPS,
    )


def text_config(state: dict[str, Tensor]) -> Any:
    """The ``BlipTextConfig`` of a text encoder with cross attention, read off its shapes."""
    from transformers import BlipTextConfig

    words, width = state["embeddings.word_embeddings.weight"].shape
    layer = "encoder.layer.0"
    return BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=state[f"{layer}.crossattention.self.key.weight"].shape[1],
        intermediate_size=state[f"{layer}.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_count(state, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
        # Never generated from; they only have to be in the vocabulary.
        bos_token_id=words - 1,
        sep_token_id=words - 1,
        eos_token_id=words - 1,
    )


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return len({match[1] for key in state if (match := re.match(pattern, key))})


class ImageRewardModel(nn.Module):
    """BLIP's towers, the text attending to the picture, and an affine map of the first token.

    The published head is five linear layers with dropout and no activation between them, so one
    affine map; the z-normalisation is part of it.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, vision: nn.Module, text: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.vision: Any = vision
        self.text: Any = text
        # float32 whatever the towers have: the scores of a group differ in the third digit
        self.register_buffer("weight", weight / STD)
        self.register_buffer("bias", (bias - MEAN) / STD)

    @classmethod
    def of(cls, state: dict[str, Tensor], dtype: torch.dtype) -> ImageRewardModel:
        """From the tensors of ``ImageReward.pt``.

        Raises:
            ValueError: if there are not all of them.
        """
        from transformers import BlipTextModel, BlipVisionModel

        vision, text, head = (part_of(state, prefix) for prefix in (VISION, TEXT, MLP))
        if not (vision and text and head):
            raise ValueError(
                f"expected tensors below {VISION}, {TEXT} and {MLP}, got {sorted(state)[:5]}..."
            )
        text.pop("embeddings.position_ids", None)
        eye = BlipVisionModel(vision_config(vision))
        eye.load_state_dict(rename_vision(vision))
        reader = BlipTextModel(text_config(text), add_pooling_layer=False)
        reader.load_state_dict(text)
        return cls(eye.to(dtype), reader.to(dtype), *affine_of(head))

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Scores (M,) of pixels (M, 3, h, w) for token ids and mask (M, L)."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        )
        hidden: Tensor = read.last_hidden_state
        return hidden[:, 0].float() @ self.weight + self.bias

    def bounds(self) -> tuple[float, float]:
        """Bounds that no score can leave.

        The last layer normalises, y = γ u + β with mean(u) = 0 and ‖u‖ at most √D, so w·y stays
        within √D ‖P(w γ)‖ of w·β, P being the projection that takes the mean away.
        """
        norm = self.text.encoder.layer[-1].output.LayerNorm
        slope = self.weight * norm.weight.detach().float()
        centre = float(self.weight @ norm.bias.detach().float() + self.bias)
        reach = len(slope) ** 0.5 * float((slope - slope.mean()).norm())
        return centre - reach, centre + reach


@register_reward("image_reward")
class ImageReward(FrameReward):
    """ImageReward: people's preferences between pictures of one text; -2 to 2 in practice.

    ``model`` is a folder with the published ``ImageReward.pt``.

    Args:
        model: see :class:`~reelrl.rewards.image.frames.FrameReward`.
        processor: folder or repository of the tokenizer; by default beside the model, else from
            ``google-bert/bert-base-uncased``, which the published repository does not hold.
        **config: of :class:`~reelrl.rewards.image.frames.FrameReward`.
    """

    name, bounds = "image_reward", (-float("inf"), float("inf"))
    formula = "mean_t (MLP(BLIP(x_t, c)_0) - 0.16717)/1.03334"
    source = "Xu et al. 2023; THUDM/ImageReward, ImageReward/ImageReward.py"
    weights, license, memory_gb = "THUDM/ImageReward", "Apache-2.0", 0.9

    def __init__(
        self, model: str | Path | None = None, *, processor: str | Path | None = None, **config: Any
    ) -> None:
        super().__init__(model, **config)
        from transformers import AutoTokenizer

        beside = any((self.folder / f).is_file() for f in ("tokenizer.json", "vocab.txt"))
        home = processor or (self.folder if beside else TOKENIZER)
        self.tokenizer = AutoTokenizer.from_pretrained(
            local_folder(home, self.download), local_files_only=True, trust_remote_code=False
        )
        self.bounds = self.bounds_of(self.module.bounds())

    def load(self, folder: Path) -> ImageRewardModel:
        """The model, and the preparation of frames it was trained with."""
        state = read_state(the_file(folder, "ImageReward*.pt", "*.pt", "*.safetensors"))
        module = ImageRewardModel.of(state, self.dtype)
        side = module.vision.config.image_size
        self.transform = ImageTransform(side, (side, side), CLIP_MEAN, CLIP_STD)
        return module

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Token ids and mask of N captions, (N, 2, L) int64: the picture is part of reading."""
        self.tell_cut(self.tokenizer, prompts, LENGTH)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        return torch.stack([tokens["input_ids"], tokens["attention_mask"]], dim=1)

    def score_frames(self, frames: Tensor, texts: Tensor) -> Tensor:
        """Scores (M,) of frames (M, H, W, 3) with the tokens (M, 2, L) of their captions."""
        pixels = self.transform(frames).to(self.dtype)
        scores: Tensor = self.module(pixels, texts[:, 0], texts[:, 1])
        return scores
