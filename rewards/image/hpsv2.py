"""HPSv2.1 on transformers' CLIP: the published open_clip checkpoint with its tensors renamed.

The checkpoint is an open_clip ViT-H/14. open_clip needs a torchvision that fits torch, and the
``hpsv2`` package lacks a file of its tokenizer; renaming a hundred tensors needs neither.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from reelrl.rewards.base import register_reward
from reelrl.rewards.image.clip import OPEN_CLIP_H14, TextImageReward
from reelrl.rewards.image.loading import read_state, the_file

HEADS = 16
"""Attention heads of both towers of ViT-H/14."""
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_TOP = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an open_clip model by the names of ``transformers.CLIPModel``.

    Raises:
        ValueError: for a tensor that an open_clip ViT does not have.
    """
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", key)
        if block:
            tower = "vision_model" if block[1] else "text_model"
            out.update(_block(f"{tower}.encoder.layers.{block[2]}", block[3], value))
        elif key in ("visual.proj", "text_projection"):
            name = "visual_projection" if key == "visual.proj" else "text_projection"
            out[f"{name}.weight"] = value.T.contiguous()
        elif key != "attn_mask":
            out[_renamed(key, _TOP)] = value
    return out


def _block(layer: str, key: str, value: Tensor) -> dict[str, Tensor]:
    if key.startswith("attn.in_proj_"):
        kind = key.removeprefix("attn.in_proj_")
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{layer}.self_attn.{p}_proj.{kind}": part.contiguous() for p, part in parts}
    return {f"{layer}.{_renamed(key, _BLOCK)}": value}


def _renamed(key: str, names: dict[str, str]) -> str:
    stem, _, kind = key.rpartition(".")
    if key in names:
        return names[key]
    if stem in names:
        return f"{names[stem]}.{kind}"
    raise ValueError(f"expected an open_clip ViT, got a tensor {key!r}")


def config_of(state: dict[str, Tensor]) -> Any:
    """The ``CLIPConfig`` of an open_clip ViT with 16 heads, read off its shapes."""
    from transformers import CLIPConfig

    def layers(prefix: str) -> int:
        stem = f"{prefix}transformer.resblocks."
        return len({k.removeprefix(stem).split(".")[0] for k in state if k.startswith(stem)})

    places, wide = state["visual.positional_embedding"].shape
    patch = state["visual.conv1.weight"].shape[-1]
    common = {"hidden_act": "gelu", "num_attention_heads": HEADS}
    width = state["ln_final.weight"].shape[0]
    return CLIPConfig(
        projection_dim=state["text_projection"].shape[1],
        text_config={
            **common,
            "hidden_size": width,
            "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": layers(""),
            "vocab_size": state["token_embedding.weight"].shape[0],
            "max_position_embeddings": state["positional_embedding"].shape[0],
            "projection_dim": state["text_projection"].shape[1],
            # open_clip pools at the end token, which has the highest id of the vocabulary
            "bos_token_id": state["token_embedding.weight"].shape[0] - 2,
            "eos_token_id": state["token_embedding.weight"].shape[0] - 1,
        },
        vision_config={
            **common,
            "hidden_size": wide,
            "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": layers("visual."),
            "patch_size": patch,
            "image_size": patch * int((places - 1) ** 0.5),
            "projection_dim": state["visual.proj"].shape[1],
        },
    )


@register_reward("hpsv2")
class HPSv2(TextImageReward):
    """HPSv2.1: CLIP tuned on people's rankings; 0.2 to 0.4 in practice.

    ``model`` is a folder with the published ``HPS_v2.1_compressed.pt``. As in the authors' code a
    frame is fitted by its long side and padded with black, where CLIP crops.

    Args:
        model: that folder.
        **config: of :class:`~reelrl.rewards.image.clip.TextImageReward`.

    Raises:
        ValueError: for an argument out of its range.
        FileNotFoundError: if the weights are not there.
    """

    name, bounds = "hpsv2", (-1.0, 1.0)
    formula = "mean_t cos(f(x_t), f(c))"
    source = "Wu et al. 2023; tgxs002/HPSv2, hpsv2/img_score.py"
    weights, license, memory_gb = "xswu/HPSv2", "Apache-2.0", 2.0
    processor = OPEN_CLIP_H14

    def __init__(self, model: str | Path | None = None, **config: Any) -> None:
        super().__init__(model, **config)
        side = self.module.config.vision_config.image_size
        self.transform = replace(self.transform, size=side, crop=None, pad=True)

    def load(self, folder: Path) -> Any:
        """A ``CLIPModel`` with the tensors of the checkpoint."""
        from transformers import CLIPModel

        state = read_state(the_file(folder, "HPS_v2.1*.pt", "*.pt", "*.safetensors"))
        model = CLIPModel(config_of(state))
        model.load_state_dict(rename(state))
        return model.to(self.dtype)

    def from_cosine(self, cosine: Tensor) -> Tensor:
        """The cosine itself."""
        return cosine
