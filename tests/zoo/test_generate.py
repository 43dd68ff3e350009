"""Clips of any size, and a sampler that follows its environment."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from reelrl.envs.models import VideoModel
from reelrl.zoo import generate as generating
from reelrl.zoo.generate import Sampler, generate


def test_the_sampler_of_an_environment_has_its_steps_shift_and_size(wan_folder):
    arguments = {"model": str(wan_folder), "num_steps": 4, "shift": 5.0, "num_frames": 5}
    env = gym.make_vec(
        "reelrl:reelrl/TextToVideo-v0", num_envs=1, width=48, prompts=["a red circle"],
        rewards=["sharpness"], **arguments,
    )  # fmt: skip
    sampler = Sampler.of(env)
    assert (sampler.num_steps, sampler.shift) == (4, 5.0)
    model = env.unwrapped.model
    (clips,) = sampler(model, ["a red circle"], [3])
    assert clips.shape == (1, 5, 32, 48, 3)
    (same,) = generate(model, ["a red circle"], [3], num_steps=4, shift=5.0, num_frames=5, width=48)
    assert torch.equal(clips, same)


def test_large_clips_come_in_smaller_batches_and_are_the_same(monkeypatch):
    model = VideoModel.from_pretrained("nano-early")
    prompts = ["a red circle moving right"] * 3
    (whole,) = generate(model, prompts, [0, 1, 2], num_steps=2)
    monkeypatch.setattr(generating, "CHUNK_NUMBERS", 1)
    parts = list(generate(model, prompts, [0, 1, 2], num_steps=2))
    assert [len(part) for part in parts] == [1, 1, 1]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=0)


def test_one_seed_per_prompt():
    model = VideoModel.from_pretrained("nano-early")
    with pytest.raises(ValueError, match="one seed per prompt, got 1 and 2"):
        next(generate(model, ["a red circle moving right"], [0, 1]))
