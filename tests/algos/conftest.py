"""A trainable video model of a few hundred weights, and environments made of it."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from torch import nn

import reelrl  # noqa: F401  (registers the ids)
from reelrl.envs.models import VideoModel
from reelrl.envs.scoring import RewardFacts
from reelrl.rewards import Reward
from reelrl.rewards.adaptive import AdaptiveReward

PROMPTS = ["dark", "dim", "bright", "brightest"]


class TinyTransformer(nn.Module):
    """Pulls every latent cell towards a value it computes from cell, level and prompt."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.to_q = nn.Linear(4, 8)
        self.to_k = nn.Linear(8, 2)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, latent, sigma, embedding):
        cells = latent.movedim(1, -1)
        facts = torch.stack([sigma, embedding[:, 0, 0]], dim=-1).to(latent.dtype)
        facts = facts[:, None, None, None].expand(*cells.shape[:-1], 2)
        hidden = self.dropout(torch.tanh(self.to_q(torch.cat([cells, facts], dim=-1))))
        return latent + self.to_k(hidden).movedim(-1, 1)


class TinyModel(VideoModel):
    """Clips of 5 frames of 8x8 pixels from latents (2, 3, 2, 2), by a sigmoid and repetition."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.name = "tiny"
        self.device = torch.device("cpu")
        self.max_prompt_tokens = 4
        self.transformer = TinyTransformer(dropout)
        self.batches: list[int] = []

    def encode(self, prompts):
        lengths = torch.tensor([len(prompt) / 10 for prompt in prompts])
        return lengths[:, None, None].repeat(1, self.max_prompt_tokens, 3)

    def velocity(self, latent, sigma, embedding):
        self.batches.append(len(latent))
        return self.transformer(latent, sigma, embedding).float()

    def decode(self, latent):
        frames = latent.sigmoid().repeat_interleave(2, dim=2)[:, :, :-1]
        grey = frames.mean(dim=1).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        return grey[..., None].repeat(1, 1, 1, 1, 3)

    def latent_shape(self, num_frames, height, width):
        return 2, (num_frames - 1) // 2 + 1, height // 4, width // 4


class Brightness(Reward):
    name = "brightness"
    bounds = (0.0, 1.0)

    def score(self, videos, prompts, infos):
        return videos.flatten(1).mean(dim=1)


class Contrast(Reward):
    name = "contrast"
    bounds = (0.0, 1.0)

    def score(self, videos, prompts, infos):
        return videos.flatten(1).std(dim=1)


class Flaky(Brightness):
    """Cannot score clips of the prompts whose numbers it is given."""

    name = "flaky"

    def __init__(self, fails=(1,)) -> None:
        self.fails = fails

    def score(self, videos, prompts, infos):
        bad = torch.tensor([info["prompt_id"] in self.fails for info in infos])
        return torch.where(bad, torch.nan, super().score(videos, prompts, infos))


class Familiar(AdaptiveReward):
    """How unlike the rollouts so far a clip is; learns their brightness."""

    name, bounds, settings = "familiar", (-2.0, 2.0), "1"

    def __init__(self) -> None:
        self.level = torch.tensor(0.5)

    def score(self, videos, prompts, infos):
        return 2 * (videos.flatten(1).mean(dim=1) - self.level).abs()

    def adapt(self, videos, prompts, generator):
        self.level = videos.float().mean() / 255
        self.moved_on(self.version + 1)
        return {"level": float(self.level)}

    def state_dict(self):
        return {"version": torch.tensor(self.version), "level": self.level}

    def load_state_dict(self, state):
        self.level = state["level"].clone()
        self.moved_on(int(state["version"]))


@pytest.fixture
def facts_of():
    """Facts of components in [0, 1] of which more is better: ``facts_of("a", "b")``."""

    def make(*names):
        return RewardFacts(names, ((0.0, 1.0),) * len(names), (1.0,) * len(names))

    return make


@pytest.fixture
def tiny_model():
    return TinyModel()


@pytest.fixture
def tiny_types():
    """The classes themselves, for tests that need other settings."""
    return {"model": TinyModel, "brightness": Brightness, "contrast": Contrast, "flaky": Flaky}


@pytest.fixture
def make_env(tiny_model):
    """The native batch over the tiny model: ``make_env(8, num_steps=3)``."""

    def make(num_envs=8, env_id="reelrl/TextToVideo-v0", **changes):
        arguments = {
            "model": tiny_model,
            "prompts": PROMPTS,
            "rewards": [Brightness(), Contrast()],
            "num_steps": 4,
            "num_frames": 5,
            "height": 8,
            "width": 8,
            "output": "torch",
            "autoreset_mode": "Disabled",
        }
        return gym.make_vec(env_id, num_envs=num_envs, **{**arguments, **changes})

    return make


@pytest.fixture
def nano_env():
    """The shipped model's environment, with a model of its own: ``nano_env(4)``."""

    def make(num_envs=2, **changes):
        arguments = {"num_steps": 4, "output": "torch", "autoreset_mode": "Disabled", **changes}
        return gym.make_vec("reelrl/MovingShapes-v0", num_envs=num_envs, **arguments)

    return make
