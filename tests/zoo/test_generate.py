"""Clips of any size, and a sampler that follows its environment."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from reelrl.envs.models import VideoModel
from reelrl.envs.schedule import sigma_schedule
from reelrl.zoo import generate as generating
from reelrl.zoo.generate import Sampler, generate, shift_of


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 3.0, 5.25, 17.0])
@pytest.mark.parametrize("num_steps", [2, 3, 10, 50])
def test_the_shift_comes_back_from_the_levels_as_it_was_given(shift, num_steps):
    assert shift_of(sigma_schedule(num_steps, shift)) == shift


def test_levels_of_no_shift_are_refused():
    assert shift_of(sigma_schedule(1, 7.0)) == 1.0
    with pytest.raises(ValueError, match="expected the noise levels of a shifted schedule"):
        shift_of(torch.tensor([1.0, 0.9, 0.1, 0.0]))


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
