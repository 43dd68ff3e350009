"""nano-Wan: the components of a diffusers ``WanPipeline`` at nano size, randomly initialised."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from reelrl.rewards.moving_shapes.world import VOCABULARY

MAX_PROMPT_TOKENS = 16
"""Every prompt is padded to this many tokens, in training and ever after."""
TEXT_WIDTH = 64
LATENT_CHANNELS = 8
SHIFT = 3.0
"""Noise-schedule shift the model is trained for and the saved scheduler samples with."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the MovingShapes vocabulary, lower-cased, ``</s>`` at the end."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ("<pad>", "</s>", "<unk>", *VOCABULARY)
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_PROMPT_TOKENS,
        padding_side="right",
    )


def build_text_encoder() -> UMT5EncoderModel:
    """A two-layer UMT5 encoder of width 64, without dropout: log-probs must not depend on it."""
    config = UMT5Config(
        vocab_size=64,
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


def build_transformer() -> WanTransformer3DModel:
    """Four layers of 4 heads x 32, patches of 1x2x2: 80 tokens for a clip of 9x32x32."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=384,
        num_layers=4,
        rope_max_seq_len=32,
    )


def build_vae(latents_mean: Any = None, latents_std: Any = None) -> AutoencoderKLWan:
    """A Wan VAE over 2x2 pixel patches: 9x32x32 pixels become an 8x5x8x8 latent.

    The two scale factors are declared, not derived: unset, the pipeline would compute latent sizes
    for factors 4 and 8.
    """
    return AutoencoderKLWan(
        patch_size=2,
        in_channels=12,
        out_channels=12,
        base_dim=16,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        z_dim=LATENT_CHANNELS,
        latents_mean=[0.0] * LATENT_CHANNELS if latents_mean is None else list(latents_mean),
        latents_std=[1.0] * LATENT_CHANNELS if latents_std is None else list(latents_std),
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The stock flow-matching Euler scheduler; our own code never reads its noise levels."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def embed(text_encoder: UMT5EncoderModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Prompt embeddings (N, L, D), zero beyond each prompt's length, as ``WanPipeline`` has it."""
    hidden: torch.Tensor = text_encoder(ids, mask).last_hidden_state
    return hidden * mask[..., None]
