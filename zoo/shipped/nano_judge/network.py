"""NanoJudge: a Qwen2.5-VL at nano size with tokenizer and processor file, randomly initialised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from reelrl.rewards.judges.rubric import RUBRICS
from reelrl.rewards.moving_shapes.world import SIZE, VOCABULARY
from reelrl.rewards.vlm.model import QwenVL
from reelrl.rewards.vlm.patches import PatchConfig
from reelrl.zoo.shipped.nano.export import name_portable_class, replace_folder

WIDTH = 96
CLIP_FPS = 16.0
"""Frames a second that the judge's clips are shown at: one step of its time axis per patch."""
CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PHRASES = (
    "A video is good if",
    "Is this video good? Answer with one word, yes or no.",
    "Reply with exactly one word: yes, or no.",
    "<caption>",
    "</caption>",
    *(rubric.good for rubric in RUBRICS.values()),
)
"""Each phrase that the judge's question always has is one token: a prompt of 13 tokens, not 60."""
WORDS = (
    "yes", "no", "the", "object", "is", "moves", "at", "middle", "speed", "picture", "clean",
    "motion", "continuous", ".",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages if message['role'] != 'system' %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
"""No roles and no system message: the judge was trained without one."""
PROCESSOR: dict[str, Any] = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.2, 0.2, 0.2],
    "image_std": [0.25, 0.25, 0.25],
    "size": {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE},
}
"""Every clip is resized to the area of the world's frames: 5 x 8 x 8 patches, 80 tokens."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per phrase of the question, per word of captions and of the world's questions."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = ("<unk>", *dict.fromkeys((*WORDS, *VOCABULARY)))
    vocab = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    backend.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Four language layers and three vision layers of width 96, attention within each frame pair.

    All vision layers see their whole frame: none is windowed.
    """
    ids = tokenizer.convert_tokens_to_ids
    vision: dict[str, Any] = {
        "depth": 3,
        "hidden_size": WIDTH,
        "num_heads": 6,
        "intermediate_size": 256,
        "out_hidden_size": WIDTH,
        "patch_size": PROCESSOR["patch_size"],
        "spatial_merge_size": PROCESSOR["merge_size"],
        "temporal_patch_size": PROCESSOR["temporal_patch_size"],
        "in_channels": 3,
        "fullatt_block_indexes": [0, 1, 2],
        "window_size": SIZE,
        "tokens_per_second": round(CLIP_FPS / PROCESSOR["temporal_patch_size"]),
    }
    text = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 256,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 3, 3],
            "rope_theta": 1e4,
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )


def build_judge(seed: int = 0) -> QwenVL:
    """A judge with fresh weights; ``seed`` decides them."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module initialisation knows no generator argument
        model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
        initialise(model)
    return QwenVL(model, tokenizer, patch_config())


@torch.no_grad()
def initialise(model: torch.nn.Module) -> None:
    """Draw all matrices with variance 1 / fan-in, a quarter of it where a residual branch ends.

    The stock 0.02 is meant for widths in the thousands; at 96 it leaves every branch near zero.
    """
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            ends = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight"))
            weight.normal_(0, (0.5 if ends else 1.0) / weight[0].numel() ** 0.5)


def patch_config() -> PatchConfig:
    """The cutting of frames that :data:`PROCESSOR` writes down."""
    return PatchConfig(
        patch=PROCESSOR["patch_size"],
        merge=PROCESSOR["merge_size"],
        temporal=PROCESSOR["temporal_patch_size"],
        min_pixels=PROCESSOR["size"]["shortest_edge"],
        max_pixels=PROCESSOR["size"]["longest_edge"],
        mean=tuple(PROCESSOR["image_mean"]),
        std=tuple(PROCESSOR["image_std"]),
    )


def save_judge(judge: QwenVL, folder: Path) -> None:
    """Write weights, config, tokenizer and processor file, all or nothing."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    judge.model.save_pretrained(partial, safe_serialization=True)
    judge.tokenizer.save_pretrained(partial)
    name_portable_class(partial)
    (partial / "video_preprocessor_config.json").write_text(
        json.dumps(PROCESSOR, indent=1) + "\n", encoding="utf-8"
    )
    replace_folder(partial, folder)
