"""What every test runs under: no network, one thread, no wall-clock limit on property tests.

REELRL_DEFAULT_DTYPE=float64 is another default of torch, which must change nothing.

Also a random Wan folder, for tests of what takes one.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
import shapes

# Before anything imports the library: shapes in signatures are checked in every test.
shapes.install()

# A notebook may have set another one; `.ci/run` runs a part of the tests under float64.
torch.set_default_dtype(getattr(torch, os.environ.get("REELRL_DEFAULT_DTYPE", "float32")))

# Threads of small operations wait for each other by spinning: on a busy machine that is slower
# than one thread by an order of magnitude.
torch.set_num_threads(1)

# Shared machines stall for seconds at a time: a deadline would test the neighbours.
settings.register_profile("reelrl", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("reelrl")


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory):
    """A random Wan 2.1 pipeline with the real compression: 4 frames and 8x8 pixels per latent."""
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )
    from transformers import UMT5Config, UMT5EncoderModel

    from reelrl.zoo.shipped.nano.architecture import build_tokenizer

    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[0, 1, 1]
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=16, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    folder = tmp_path_factory.mktemp("wan") / "tiny"
    WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=encoder,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory):
    """A DINOv2 of random weights, large enough that its tokens tell pictures apart."""
    import torch
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    model, generator = Dinov2Model(config), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 28, "width": 28},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder
