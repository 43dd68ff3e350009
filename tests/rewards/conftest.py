"""Tiny real Qwen2-VL and Qwen2.5-VL models with tokenizer and processor files, made offline."""

from __future__ import annotations

import json

import pytest
import torch

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["yes", "no", "Yes", "No"]
PATCHES = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "size": {"shortest_edge": 64, "longest_edge": 1024},
}


def make_tokenizer(extra=()):
    """One token per byte, the special tokens, and a few whole words."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in [*SPECIAL, *extra]])
    backend.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_config(model_type, tokenizer):
    import transformers

    ids = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": 2,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "hidden_size": 32,
    }
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer),
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [1, 1, 2],
            "rope_theta": 1e6,
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if model_type == "qwen2_vl":
        name, more = "Qwen2VLConfig", {"embed_dim": 32, "mlp_ratio": 2}
    else:
        name = "Qwen2_5_VLConfig"
        more = {
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 16,
        }
    return getattr(transformers, name)(
        text_config=text,
        vision_config=vision | more,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )


def write_folder(folder, model_type, extra=(), model_class=None, change=None):
    """A model folder as published ones are: weights, config, tokenizer, processor files."""
    import transformers

    tokenizer = make_tokenizer(extra)
    classes = {
        "qwen2_vl": transformers.Qwen2VLForConditionalGeneration,
        "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    }
    torch.manual_seed(0)
    model = (model_class or classes[model_type])(make_config(model_type, tokenizer)).eval()
    # Random heads of the usual scale cannot tell clips apart by more than rounding.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
        if change:
            change(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(PATCHES))
    return folder


@pytest.fixture(scope="session")
def make_vlm(tmp_path_factory):
    """``make_vlm("qwen2_5_vl")``: a fresh folder with a tiny random model of that class."""

    def make(model_type, **changes):
        return write_folder(tmp_path_factory.mktemp(model_type), model_type, **changes)

    return make


@pytest.fixture(scope="session")
def qwen2_vl(make_vlm):
    return make_vlm("qwen2_vl")


@pytest.fixture(scope="session")
def qwen2_5_vl(make_vlm):
    return make_vlm("qwen2_5_vl")


@pytest.fixture
def random_clips():
    """``random_clips(3)``: (3, F, H, W, 3) in [0, 1] from an own generator."""

    def make(count, frames=6, height=16, width=24, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(count, frames, height, width, 3, generator=generator)

    return make
