import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPModel

from reelrl.rewards import make_reward
from reelrl.rewards.image.aesthetic import affine_of

EMBED = 24


def published_head(seed=0):
    """The layers of sac+logos+ava1-l14-linearMSE, for small embeddings."""
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Linear(EMBED, 64),
        nn.Dropout(0.2),
        nn.Linear(64, 32),
        nn.Dropout(0.2),
        nn.Linear(32, 16),
        nn.Dropout(0.1),
        nn.Linear(16, 8),
        nn.Linear(8, 1),
    ).eval()
    return layers, {f"layers.{key}": value for key, value in layers.state_dict().items()}


def embeddings(folder, videos):
    """Unit embeddings (N, F, D) by hand."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((videos - mean) / std).flatten(0, 1).movedim(-1, 1)
    with torch.no_grad():
        model = CLIPModel.from_pretrained(folder).eval()
        features = model.get_image_features(pixel_values=pixels).pooler_output
    return functional.normalize(features, dim=-1).reshape(*videos.shape[:2], -1)


@pytest.fixture
def folder(clip_folder, tmp_path):
    """A CLIP model with the published head beside it."""
    copy = shutil.copytree(clip_folder, tmp_path / "aesthetic")
    torch.save(published_head()[1], copy / "sac+logos+ava1-l14-linearMSE.pth")
    return copy


def test_it_is_the_stack_of_layers_on_unit_embeddings(folder, clips):
    videos, prompts = clips
    reward = make_reward("aesthetic", model=folder)
    values = reward(videos, prompts).values
    with torch.no_grad():
        expected = published_head()[0](embeddings(folder, videos))[..., 0].mean(1)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
    assert values.std() > 1e-4


def test_the_bounds_are_those_of_any_unit_embedding(folder, clips):
    low, high = make_reward("aesthetic", model=folder).bounds
    layers = published_head()[0]
    units = functional.normalize(torch.randn(20_000, EMBED), dim=-1)
    values = layers(units).detach()
    assert low < values.min() and values.max() < high
    best = units[values[:, 0].argmax()].clone().requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(layers(functional.normalize(best, dim=-1))[0], best)
        best = functional.normalize(best + gradient, dim=-1).detach().requires_grad_()
    assert layers(best).item() == pytest.approx(high, rel=1e-3)


def test_the_bounds_hold_for_weights_that_do_not_sum_to_one(clip_folder, clips, tmp_path):
    head = {"weight": torch.full((1, EMBED), 0.01), "bias": torch.tensor([5.0])}
    torch.save(head, tmp_path / "linear.pth")
    config = {"model": clip_folder, "head": tmp_path / "linear.pth", "lambda_per_frame": 1.0}
    assert make_reward("aesthetic", **config).bounds[0] > 4.9
    reward = make_reward("aesthetic", **config, normalise=False)
    values = reward(*clips).values
    assert reward.bounds[0] == 0 and ((values > 0) & (values < 4.9)).all()


def test_vbenchs_single_layer_is_read_too(clip_folder, clips, tmp_path):
    torch.manual_seed(1)
    head = nn.Linear(EMBED, 1)
    save_file(head.state_dict(), tmp_path / "sa_0_4_vit_l_14_linear.safetensors")
    file = tmp_path / "sa_0_4_vit_l_14_linear.safetensors"
    values = make_reward("aesthetic", model=clip_folder, head=file)(*clips).values
    expected = head(embeddings(clip_folder, clips[0]))[..., 0].mean(1)
    torch.testing.assert_close(values, expected.detach(), atol=1e-4, rtol=0)


def test_a_head_that_is_no_stack_of_linear_layers_is_refused():
    good = published_head()[1]
    assert affine_of(good)[0].shape == (EMBED,)
    for bad in (
        {"layers.0.weight": torch.zeros(3, 3, 3), "layers.0.bias": torch.zeros(3)},
        {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)},
        {k: v for k, v in good.items() if not k.startswith("layers.2")},
        {},
    ):
        with pytest.raises(ValueError, match="linear layers"):
            affine_of(bad)


def test_a_head_for_another_model_and_a_missing_one(clip_folder, tmp_path):
    torch.save(nn.Linear(8, 1).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match="takes embeddings of 8, the model makes 24"):
        make_reward("aesthetic", model=clip_folder, head=tmp_path / "linear.pth")
    with pytest.raises(FileNotFoundError, match=r"\*linear\*\.pth"):
        make_reward("aesthetic", model=clip_folder)
