"""VideoAlign's network, and reading it from either kind of folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, Qwen2VLForConditionalGeneration

from reelrl.rewards.vlm.model import QwenVL, load_weights, model_folder, open_tokenizer
from reelrl.rewards.vlm.patches import PatchConfig

PRESENT_NAMES = {
    "key_mapping": {
        r"^visual\.": "model.visual.",
        r"^model\.(?!language_model\.|visual\.)": "model.language_model.",
    }
}
"""Weights were called otherwise before transformers 4.52, and on disk they still are; it renames
the weights of its own classes only."""


# transformers is read without types.
class VideoAlignModel(Qwen2VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen2-VL with ``rm_head``, a linear map from the hidden width to one number."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.rm_head = nn.Linear(config.text_config.hidden_size, 1, bias=False)


def open_videoalign(
    folder: Path,
    base: Path | None,
    *,
    tokens: Sequence[str],
    max_pixels: int,
    dtype: torch.dtype,
    device: str,
) -> QwenVL:
    """The model of a folder, ours or the published one.

    Args:
        folder: holds ``config.json`` and weights, or the published checkpoint.
        base: folder of Qwen2-VL-2B-Instruct, which the published one needs.
        tokens: at which the axes are read; they are added to the tokenizer of ``base``.
        max_pixels: largest area of a frame.
        dtype: of the weights.
        device: of the model.

    Raises:
        ValueError: if the published folder comes without ``base``, or with a head of another size.
        FileNotFoundError: if there are no weights in it.
    """
    if (folder / "config.json").is_file():
        model = load_weights(VideoAlignModel, folder, dtype=dtype, **PRESENT_NAMES)
        tokenizer, source = open_tokenizer(folder), folder
    else:
        model, tokenizer, source = _open_published(folder, base, tokens, dtype)
    patches = PatchConfig.from_folder(source)
    low = min(patches.min_pixels, max_pixels)
    patches = replace(patches, min_pixels=low, max_pixels=min(patches.max_pixels, max_pixels))
    return QwenVL(model.to(device), tokenizer, patches)


def _open_published(
    folder: Path, base: Path | None, tokens: Sequence[str], dtype: torch.dtype
) -> tuple[VideoAlignModel, Any, Path]:
    weights = sorted(folder.glob("checkpoint-*/model.pth"))
    if not weights:
        raise FileNotFoundError(f"{folder} holds neither config.json nor checkpoint-*/model.pth")
    if base is None:
        raise ValueError("the published folder needs base=, the folder of Qwen2-VL-2B-Instruct")
    base = model_folder(base)
    # weights_only: a pickle may run code when it is read, a dict of tensors may not.
    state = torch.load(weights[-1], map_location="cpu", weights_only=True, mmap=True)
    facts = json.loads((folder / "model_config.json").read_text(encoding="utf-8"))
    state = merge_lora(state, lora_scale(facts.get("peft_lora_config") or {}))
    rows = next(v.shape[0] for k, v in state.items() if k.endswith("embed_tokens.weight"))
    outputs = len(state["rm_head.weight"])
    if outputs != 1:
        raise ValueError(f"expected a head of one output, got {outputs}")
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    config.text_config.vocab_size = rows
    model = load_weights(
        VideoAlignModel, None, config=config, state_dict=state, dtype=dtype, **PRESENT_NAMES
    )
    own = weights[-1].parent / "tokenizer"
    tokenizer = open_tokenizer(own if own.is_dir() else base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return model, tokenizer, base


def lora_scale(settings: Mapping[str, Any]) -> float:
    """Factor on the product of the two low-rank factors: alpha / r, or alpha / √r."""
    rank: float = settings.get("lora_r", 16)
    alpha: float = settings.get("lora_alpha", 32)
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def merge_lora(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights of a model with low-rank adapters, merged into plain weights.

    :math:`W + s B A` for every layer that has factors A and B; names lose the parts that ``peft``
    added.

    Raises:
        ValueError: for adapters of another kind.
    """
    plain = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    odd = [key for key in plain if "lora_embedding" in key or "lora_magnitude" in key]
    if odd:
        raise ValueError(f"expected low-rank factors of linear layers only, got {odd[0]}")
    merged = {}
    for key, value in plain.items():
        if ".lora_A." in key or ".lora_B." in key or ".original_module." in key:
            continue
        b, a = (
            plain.get(key.replace("base_layer.weight", f"lora_{side}.default.weight"))
            for side in "BA"
        )
        if ".base_layer.weight" in key and b is not None and a is not None:
            value = (value.float() + scale * b.float() @ a.float()).to(value.dtype)
        merged[re.sub(r"\.(base_layer|modules_to_save\.default)\.", ".", key)] = value
    return merged
