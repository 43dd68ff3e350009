"""A video model in closed form, counting rewards, and environments made of them."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

import reelrl  # noqa: F401  (registers the ids)
from reelrl.envs.models import VideoModel
from reelrl.rewards import Reward

PROMPTS = ["dark", "dim", "bright"]


class TinyModel(VideoModel):
    """Clips of 5 frames of 8x8 pixels from latents (2, 3, 2, 2), by a sigmoid and repetition.

    Its velocity is exact for data that is one point per prompt: the prompt's length over ten.
    """

    def __init__(self) -> None:
        self.name = "tiny"
        self.device = torch.device("cpu")
        self.max_prompt_tokens = 4
        self.calls = {"encode": 0, "velocity": 0, "decode": 0}

    def check_prompts(self, prompts):
        for prompt in prompts:
            if "?" in prompt:
                raise ValueError(f"prompt {prompt!r} has words that 'tiny' does not know: ?")

    def encode(self, prompts):
        self.calls["encode"] += 1
        lengths = torch.tensor([len(prompt) / 10 for prompt in prompts])
        return lengths[:, None, None].repeat(1, self.max_prompt_tokens, 3)

    def velocity(self, latent, sigma, embedding):
        self.calls["velocity"] += 1
        target = embedding[:, 0, 0].view(-1, 1, 1, 1, 1)
        return (latent - target) / sigma.to(latent.dtype).view(-1, 1, 1, 1, 1)

    def decode(self, latent):
        self.calls["decode"] += 1
        frames = latent.sigmoid().repeat_interleave(2, dim=2)[:, :, :-1]
        grey = frames.mean(dim=1).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        return grey[..., None].repeat(1, 1, 1, 1, 3)

    def latent_shape(self, num_frames, height, width):
        if num_frames % 4 != 1:
            raise ValueError(f"num_frames must be 4k+1, got {num_frames}")
        return 2, (num_frames - 1) // 2 + 1, height // 4, width // 4


class Brightness(Reward):
    name = "brightness"
    bounds = (0.0, 1.0)

    def __init__(self) -> None:
        self.calls = 0

    def score(self, videos, prompts, infos):
        self.calls += 1
        return videos.flatten(1).mean(dim=1)


class Contrast(Reward):
    name = "contrast"
    bounds = (0.0, 1.0)

    def score(self, videos, prompts, infos):
        return videos.flatten(1).std(dim=1)


class Caption(Reward):
    """Depends on the prompt: how close the brightness is to the prompt's length over ten."""

    name = "caption"
    bounds = (-1.0, 0.0)

    def score(self, videos, prompts, infos):
        wanted = torch.tensor([len(prompt) / 10 for prompt in prompts])
        return -(videos.flatten(1).mean(dim=1) - wanted).abs()


def tiny_arguments(**changes):
    arguments = {
        "model": TinyModel(),
        "prompts": PROMPTS,
        "rewards": [Brightness(), Contrast(), Caption()],
        "num_steps": 4,
        "num_frames": 5,
        "height": 8,
        "width": 8,
    }
    return {**arguments, **changes}


@pytest.fixture
def make_single():
    """Make the single environment over the tiny model: ``make_single(num_steps=2)``."""
    return lambda **changes: gym.make("reelrl/TextToVideo-v0", **tiny_arguments(**changes))


@pytest.fixture
def make_batch():
    """Make the batched one: ``make_batch(3, autoreset_mode="Disabled")``."""
    return lambda num_envs, **changes: gym.make_vec(
        "reelrl/TextToVideo-v0", num_envs=num_envs, **tiny_arguments(**changes)
    )


@pytest.fixture
def tiny_model():
    return TinyModel()


@pytest.fixture
def reward_types():
    return {"brightness": Brightness, "contrast": Contrast, "caption": Caption}
