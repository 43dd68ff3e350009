"""HPSv2.1 against open_clip's forward pass, written out with torch's own attention."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer

from reelrl.rewards import make_reward
from reelrl.rewards.image.hpsv2 import HEADS, config_of, rename

WIDTH, PATCH, SIDE, LENGTH, EMBED, LAYERS = 32, 8, 32, 77, 24, 2


class Block(nn.Module):
    """A residual attention block by open_clip's names."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.resblocks = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBED))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer()

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).mT
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """The two towers of an open_clip ViT model, by the names of its checkpoints."""

    def __init__(self, vocabulary):
        super().__init__()
        self.visual = Visual()
        self.transformer = Transformer()
        self.token_embedding = nn.Embedding(vocabulary, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, EMBED))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))

    def encode_text(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), ids.argmax(dim=-1)] @ self.text_projection


@pytest.fixture(scope="module")
def published(tmp_path_factory, clip_folder):
    """A folder as the published one, and the model behind it."""
    torch.manual_seed(0)
    model = OpenClip(len(AutoTokenizer.from_pretrained(clip_folder))).eval()
    folder = tmp_path_factory.mktemp("hps")
    torch.save({"state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    torch.save({"state_dict": {}}, folder / "HPS_v2_compressed.pt")
    return folder, model


@pytest.mark.parametrize("wide", [False, True])
def test_it_scores_as_open_clip_does(published, clip_folder, clips, wide):
    folder, model = published
    videos, prompts = clips
    if wide:  # of the model's width already, so that only the black above and below is added
        videos = videos[:, :, 8:24]
    reward = make_reward("hpsv2", model=folder, processor=clip_folder)
    values = reward(videos, prompts).values
    tokenizer = reward.tokenizer
    ids = torch.zeros(len(prompts), LENGTH, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens = tokenizer(prompt)["input_ids"]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        texts = functional.normalize(model.encode_text(ids), dim=-1)
        square = torch.zeros(*videos.shape[:2], SIDE, SIDE, 3)
        square[:, :, 8:24] = videos if wide else videos[:, :, 8:24]
        pixels = (((square if wide else videos) - mean) / std).flatten(0, 1).movedim(-1, 1)
        images = functional.normalize(model.visual(pixels), dim=-1).reshape(*videos.shape[:2], -1)
    expected = (images * texts[:, None]).sum(-1).mean(1)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
    assert values.std() > 0.01


def test_every_tensor_finds_its_place(published):
    from transformers import CLIPModel

    state = published[1].state_dict()
    theirs = set(CLIPModel(config_of(state)).state_dict())
    assert set(rename({**state, "attn_mask": torch.zeros(1)})) == theirs


def test_another_kind_of_checkpoint_is_refused(published):
    with pytest.raises(ValueError, match=r"expected an open_clip ViT, got a tensor 'head\.weight'"):
        rename({**published[1].state_dict(), "head.weight": torch.zeros(1)})


def test_the_shapes_of_the_published_model_give_its_config():
    """ViT-H/14 of open_clip: 32 layers of 1280 for pictures, 24 of 1024 for texts."""
    shapes = {
        "visual.positional_embedding": (257, 1280),
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.proj": (1280, 1024),
        "positional_embedding": (77, 1024),
        "token_embedding.weight": (49408, 1024),
        "text_projection": (1024, 1024),
        "ln_final.weight": (1024,),
    }
    for prefix, count, width in (("visual.", 32, 1280), ("", 24, 1024)):
        for i in range(count):
            name = f"{prefix}transformer.resblocks.{i}.mlp.c_fc.weight"
            shapes[name] = (4 * width, width)
    config = config_of({k: torch.empty(s, device="meta") for k, s in shapes.items()})
    text, vision = config.text_config, config.vision_config
    assert (vision.image_size, vision.patch_size, vision.num_hidden_layers) == (224, 14, 32)
    assert (text.num_hidden_layers, text.hidden_size, text.eos_token_id) == (24, 1024, 49407)
    assert vision.hidden_size // vision.num_attention_heads == 80
    assert text.hidden_size // text.num_attention_heads == 64
    assert vision.hidden_act == text.hidden_act == "gelu"
