"""ImageReward against BLIP's forward pass, written out from its own checkpoint's names."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from reelrl.rewards import make_reward
from reelrl.rewards.base import RewardWarning
from reelrl.rewards.image.image_reward import (
    LENGTH,
    ImageRewardModel,
    rename_vision,
    text_config,
    vision_config,
)

WIDTH, EYE, PATCH, SIDE, LAYERS, HEAD = 128, 192, 8, 32, 2, 64
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "green", "blue", "yellow",
         "purple", "white", "circle", "square", "triangle", "moving", "left", "right", "up",
         "down", "slowly", "fast"]  # fmt: skip


def linear(state, name, out, width, generator):
    state[f"{name}.weight"] = torch.randn(out, width, generator=generator) / width**0.5
    state[f"{name}.bias"] = 0.3 * torch.randn(out, generator=generator)


def norm(state, name, width, generator):
    state[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
    state[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)


def published_state():
    """Random tensors by the names of ``ImageReward.pt``, those included that no score needs."""
    g, state = torch.Generator().manual_seed(0), {}
    eye, text = "blip.visual_encoder", "blip.text_encoder"
    state[f"{eye}.cls_token"] = torch.randn(1, 1, EYE, generator=g)
    state[f"{eye}.pos_embed"] = torch.randn(1, (SIDE // PATCH) ** 2 + 1, EYE, generator=g)
    state[f"{eye}.patch_embed.proj.weight"] = 0.1 * torch.randn(EYE, 3, PATCH, PATCH, generator=g)
    state[f"{eye}.patch_embed.proj.bias"] = torch.randn(EYE, generator=g)
    norm(state, f"{eye}.norm", EYE, g)
    for i in range(LAYERS):
        block = f"{eye}.blocks.{i}"
        norm(state, f"{block}.norm1", EYE, g)
        norm(state, f"{block}.norm2", EYE, g)
        linear(state, f"{block}.attn.qkv", 3 * EYE, EYE, g)
        linear(state, f"{block}.attn.proj", EYE, EYE, g)
        linear(state, f"{block}.mlp.fc1", 2 * EYE, EYE, g)
        linear(state, f"{block}.mlp.fc2", EYE, 2 * EYE, g)
    embeddings = f"{text}.embeddings"
    state[f"{embeddings}.position_ids"] = torch.arange(40)[None]
    state[f"{embeddings}.word_embeddings.weight"] = torch.randn(len(WORDS), WIDTH, generator=g)
    state[f"{embeddings}.position_embeddings.weight"] = torch.randn(40, WIDTH, generator=g)
    norm(state, f"{embeddings}.LayerNorm", WIDTH, g)
    for i in range(LAYERS):
        layer = f"{text}.encoder.layer.{i}"
        for kind, width in (("attention", WIDTH), ("crossattention", EYE)):
            linear(state, f"{layer}.{kind}.self.query", WIDTH, WIDTH, g)
            linear(state, f"{layer}.{kind}.self.key", WIDTH, width, g)
            linear(state, f"{layer}.{kind}.self.value", WIDTH, width, g)
            linear(state, f"{layer}.{kind}.output.dense", WIDTH, WIDTH, g)
            norm(state, f"{layer}.{kind}.output.LayerNorm", WIDTH, g)
        linear(state, f"{layer}.intermediate.dense", 2 * WIDTH, WIDTH, g)
        linear(state, f"{layer}.output.dense", WIDTH, 2 * WIDTH, g)
        norm(state, f"{layer}.output.LayerNorm", WIDTH, g)
    linear(state, "blip.vision_proj", 16, EYE, g)
    linear(state, "blip.text_proj", 16, WIDTH, g)
    sizes = (WIDTH, 64, 32, 16, 8, 1)
    for place, (width, out) in zip((0, 2, 4, 6, 7), pairwise(sizes), strict=True):
        linear(state, f"mlp.layers.{place}", out, width, g)
    return state


def apply(state, name, x):
    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def normed(state, name, x, eps):
    return functional.layer_norm(
        x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps
    )


def attend(query, key, value, mask=None):
    """(L, W) from heads of 64, one after the other."""
    heads = []
    for q, k, v in zip(*(x.split(HEAD, dim=-1) for x in (query, key, value)), strict=True):
        scores = q @ k.T / math.sqrt(HEAD)
        scores = scores if mask is None else scores.masked_fill(mask[None] == 0, -math.inf)
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, dim=-1)


def see(state, pixels):
    """BLIP's vision tower on one picture (3, h, w)."""
    eye = "blip.visual_encoder"
    proj = f"{eye}.patch_embed.proj"
    patches = functional.conv2d(
        pixels[None], state[f"{proj}.weight"], state[f"{proj}.bias"], stride=PATCH
    )
    x = torch.cat([state[f"{eye}.cls_token"][0], patches[0].flatten(1).T])
    x = x + state[f"{eye}.pos_embed"][0]
    for i in range(LAYERS):
        block = f"{eye}.blocks.{i}"
        qkv = apply(state, f"{block}.attn.qkv", normed(state, f"{block}.norm1", x, 1e-6))
        x = x + apply(state, f"{block}.attn.proj", attend(*qkv.chunk(3, dim=-1)))
        y = apply(state, f"{block}.mlp.fc1", normed(state, f"{block}.norm2", x, 1e-6))
        x = x + apply(state, f"{block}.mlp.fc2", functional.gelu(y))
    return normed(state, f"{eye}.norm", x, 1e-6)


def read(state, ids, mask, seen):
    """BLIP's text encoder on one caption, every layer looking at the picture."""
    text = "blip.text_encoder"
    x = state[f"{text}.embeddings.word_embeddings.weight"][ids]
    x = x + state[f"{text}.embeddings.position_embeddings.weight"][: len(ids)]
    x = normed(state, f"{text}.embeddings.LayerNorm", x, 1e-12)
    for i in range(LAYERS):
        layer = f"{text}.encoder.layer.{i}"
        for kind, other, hidden in (("attention", None, mask), ("crossattention", seen, None)):
            source = x if other is None else other
            q = apply(state, f"{layer}.{kind}.self.query", x)
            k, v = (apply(state, f"{layer}.{kind}.self.{n}", source) for n in ("key", "value"))
            y = apply(state, f"{layer}.{kind}.output.dense", attend(q, k, v, hidden))
            x = normed(state, f"{layer}.{kind}.output.LayerNorm", x + y, 1e-12)
        y = functional.gelu(apply(state, f"{layer}.intermediate.dense", x))
        y = apply(state, f"{layer}.output.dense", y)
        x = normed(state, f"{layer}.output.LayerNorm", x + y, 1e-12)
    return x[0]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as the published one, with a tokenizer of few words beside it."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("image_reward")
    state = published_state()
    torch.save(state, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder, state


def test_it_scores_as_the_published_code_does(published, clips):
    folder, state = published
    videos, prompts = clips[0][:3], clips[1][:3]
    reward = make_reward("image_reward", model=folder)
    values = reward(videos, prompts).values
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    expected = []
    for clip, prompt in zip(videos, prompts, strict=True):
        words = ["[CLS]", *prompt.split(), "[SEP]"]
        mask = torch.tensor([1] * len(words) + [0] * (LENGTH - len(words)))
        ids = torch.tensor([WORDS.index(w) for w in words] + [0] * (LENGTH - len(words)))
        scores = []
        for frame in clip[:]:
            x = read(state, ids, mask, see(state, ((frame - mean) / std).movedim(-1, 0)))
            for place in (0, 2, 4, 6, 7):
                x = apply(state, f"mlp.layers.{place}", x)
            scores.append((x - 0.16717362830052426) / 1.0333394966054072)
        expected.append(torch.stack(scores).mean())
    torch.testing.assert_close(values, torch.stack(expected), atol=2e-5, rtol=1e-4)
    assert values.std() > 0.01


def test_the_caption_counts_and_is_cut_at_35_tokens(published, clips):
    reward = make_reward("image_reward", model=published[0])
    video = clips[0][:1]
    red, blue = (reward(video, [f"a {c} circle"]).values for c in ("red", "blue"))
    assert not torch.equal(red, blue)
    long = ["a " * 33 + tail for tail in ("red", "red circle moving", "blue")]
    with pytest.warns(RewardWarning, match="reads 35 tokens of a caption, got 1 of 1") as caught:
        first, second, third = (reward(video, [text]).values for text in long)
    assert len(caught) == 1
    assert torch.equal(first, second) and torch.equal(first, third)


def test_bounds_hold_for_every_input_of_the_last_norm(published):
    reward = make_reward("image_reward", model=published[0])
    low, high = reward.bounds
    last = reward.module.text.encoder.layer[-1].output.LayerNorm
    slope = reward.module.weight * last.weight
    worst = torch.stack([slope - slope.mean(), slope.mean() - slope, torch.randn_like(slope)])
    scores = last(1e3 * worst) @ reward.module.weight + reward.module.bias
    assert float(scores[0].detach()) == pytest.approx(high, rel=1e-4)
    assert float(scores[1].detach()) == pytest.approx(low, rel=1e-4)
    assert low < float(scores[2].detach()) < high


def test_the_shapes_of_the_published_model_give_its_configs():
    """BLIP's ViT-L/16 at 224 pixels, and BERT base that attends to it."""
    eye = {
        "pos_embed": (1, 197, 1024), "patch_embed.proj.weight": (1024, 3, 16, 16),
        **{f"blocks.{i}.mlp.fc1.weight": (4096, 1024) for i in range(24)},
    }  # fmt: skip
    config = vision_config({k: torch.empty(s, device="meta") for k, s in eye.items()})
    assert (config.image_size, config.patch_size, config.num_hidden_layers) == (224, 16, 24)
    assert (config.num_attention_heads, config.intermediate_size) == (16, 4096)
    assert config.layer_norm_eps == 1e-6 and config.hidden_act == "gelu"
    text = {
        "embeddings.word_embeddings.weight": (30524, 768),
        "embeddings.position_embeddings.weight": (512, 768),
        **{f"encoder.layer.{i}.intermediate.dense.weight": (3072, 768) for i in range(12)},
        "encoder.layer.0.crossattention.self.key.weight": (768, 1024),
    }
    config = text_config({k: torch.empty(s, device="meta") for k, s in text.items()})
    assert (config.num_hidden_layers, config.num_attention_heads) == (12, 12)
    assert (config.vocab_size, config.encoder_hidden_size) == (30524, 1024)
    assert config.layer_norm_eps == 1e-12 and config.hidden_act == "gelu"


def test_another_kind_of_checkpoint_is_refused(published):
    with pytest.raises(ValueError, match=r"expected BLIP's vision tower, got a tensor 'head\.w"):
        rename_vision({"head.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"expected tensors below blip\.visual_encoder\., "):
        ImageRewardModel.of({"visual.proj": torch.zeros(1)}, torch.float32)
    short = {k: v for k, v in published[1].items() if "blocks.1.norm1" not in k}
    with pytest.raises(RuntimeError, match=r"Missing key.*layers\.1\.layer_norm1"):
        ImageRewardModel.of(short, torch.float32)
