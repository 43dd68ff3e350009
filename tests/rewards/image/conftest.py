"""Tiny models of the published classes with random weights, saved as the real ones are.

transformers is imported where it is used: the test of RAFT also runs beside a torchvision that
transformers cannot import.
"""

import string

import pytest
import torch

from reelrl.rewards.moving_shapes.world import sample_clips

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def clip_tokenizer():
    """CLIP's tokenizer over single letters: every word is spelt out."""
    from transformers import CLIPTokenizer

    signs = [*string.ascii_lowercase, *string.digits, *".,'-"]
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


def clip_config(vocabulary):
    from transformers import CLIPConfig

    special = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    return CLIPConfig(
        projection_dim=24,
        text_config={
            **TOWER,
            **special,
            "num_attention_heads": 2,
            "vocab_size": vocabulary,
            "max_position_embeddings": 77,
            "projection_dim": 24,
        },
        vision_config={
            **TOWER,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 24,
        },
    )


def spread(model, seed=0, scale=0.3):
    """Random weights large enough that different inputs give different outputs."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim:
            parameter.data = parameter.data + scale * torch.randn(
                parameter.shape, generator=generator
            ) / max(1.0, parameter.shape[-1] ** 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = clip_tokenizer()
    # The model draws its first weights itself; with unlucky ones every score is 0.
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = CLIPModel(clip_config(len(tokenizer)))
    spread(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder = tmp_path_factory.mktemp("siglip")
    words = ["<pad>", "<unk>", "a", "red", "blue", "circle", "square", "moving", "right", "fast"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=64,
        model_input_names=["input_ids"],  # as SigLIP's own, which knows no mask
    )
    config = SiglipConfig(
        text_config={
            **TOWER,
            "num_attention_heads": 2,
            "vocab_size": len(words),
            "max_position_embeddings": 64,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": 0,
            "projection_size": 32,
        },
        vision_config={**TOWER, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
    )
    model = spread(SiglipModel(config))
    model.logit_scale.data.fill_(1.0)
    model.logit_bias.data.fill_(-0.5)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["vit", "dinov2"])
def dino_folder(request, tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp(request.param)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if request.param == "vit":
        config = ViTConfig(**shape, intermediate_size=64, image_size=32, patch_size=8)
        model = ViTModel(config, add_pooling_layer=False)
    else:
        model = Dinov2Model(Dinov2Config(**shape, image_size=32, patch_size=8))
    spread(model).save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clips():
    """Six clips of whole bytes, so that they survive a detour over Pillow."""
    clips = sample_clips(6, torch.Generator().manual_seed(0))
    return (clips.videos * 255).round() / 255, clips.captions
