"""The declared ``differentiable`` is what happens when one asks for a gradient."""

import pytest
import torch
from torch.nn import functional

from reelrl.rewards import list_rewards, make_reward, reward_class
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.cache import CachedReward
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.rewards.spec import build_reward

NAMES = [
    name
    for name in list_rewards()
    if reward_class(name).differentiable and not reward_class(name).weights
]


@pytest.fixture(scope="module")
def clips():
    """Smooth moving clips with some texture, away from the kinks of absolute values."""
    generator = torch.Generator().manual_seed(1)
    clean = sample_clips(4, generator)
    noise = torch.rand(4, 9, 3, 8, 8, generator=generator)
    cloud = functional.interpolate(noise.flatten(0, 1), size=32, mode="bicubic")
    videos = clean.videos + 0.3 * cloud.reshape(4, 9, 3, 32, 32).movedim(2, -1)
    return videos.clamp(0.02, 0.98).double(), [clean.captions[0]] * 4


@pytest.mark.parametrize("name", ["dynamic_degree", "jpeg_compressibility"])
def test_a_count_has_no_gradient_and_says_so(clips, name):
    videos, prompts = clips
    assert not reward_class(name).differentiable
    scores = make_reward(name).score(videos.clone().requires_grad_(), prompts, [{}] * 4)
    assert not scores.requires_grad


@pytest.mark.parametrize("kind", ["transformed", "asynchronous", "cached", "ensemble", "ctrl_u"])
def test_what_calls_a_component_has_no_gradient_and_says_so(clips, kind, tmp_path):
    inner = make_reward("sharpness")
    assert inner.differentiable
    if kind == "cached":
        inner.fingerprint = "1"
    reward = {
        "transformed": lambda: build_reward({"name": "sharpness", "label": "other"}),
        "asynchronous": lambda: AsyncReward(inner),
        "cached": lambda: CachedReward(inner, tmp_path),
        "ensemble": lambda: make_reward("ensemble", of=["sharpness", "exposure"]),
        "ctrl_u": lambda: make_reward("ctrl_u", of="sharpness", scale=1.0),
    }[kind]()
    videos, prompts = clips
    scores = reward.score(videos.clone().requires_grad_(), prompts, [{}] * 4)
    assert not scores.requires_grad and not reward.differentiable


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_somewhere_on_every_clip(clips, name):
    videos, prompts = clips
    videos = videos.clone().requires_grad_()
    # Shares of a set may sum to a constant: weighted, they do not.
    scores = make_reward(name).score(videos, prompts, [{}] * 4) * torch.arange(1, 5)
    (gradient,) = torch.autograd.grad(scores.sum(), videos)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_gradients_of_flat_clips_are_finite(name, level):
    videos = torch.full((3, 4, 16, 16, 3), level, requires_grad=True)
    make_reward(name).score(videos, ["a"] * 3, [{}] * 3).sum().backward()
    assert videos.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(clips, name):
    videos, prompts = clips
    reward = make_reward(name)
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(videos.shape, generator=generator, dtype=torch.float64)

    def total(x):
        return (reward.score(x, prompts, [{}] * 4) * torch.arange(1, 5)).sum()

    point = videos.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(point), point)
    slope = (gradient * direction).sum().item()
    step = 1e-6
    measured = (total(videos + step * direction) - total(videos - step * direction)) / (2 * step)
    assert slope == pytest.approx(measured.item(), rel=2e-2, abs=1e-6)
