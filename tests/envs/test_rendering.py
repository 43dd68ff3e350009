"""Frames, contact sheets, and Gymnasium's recorders on top of them."""

from __future__ import annotations

import os
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch

from reelrl.envs.rendering import contact_sheet
from reelrl.envs.task import to_uint8
from reelrl.envs.wrappers import VectorVelocityAction, VelocityAction


@pytest.mark.parametrize(
    ("frames", "grid"), [(1, (1, 1)), (4, (2, 2)), (5, (2, 3)), (9, (3, 3)), (81, (3, 3))]
)
def test_contact_sheets_show_frames_in_reading_order(frames, grid):
    video = np.arange(frames, dtype=np.uint8)[:, None, None, None].repeat(4, 1)
    video = video.repeat(6, 2).repeat(3, 3)
    sheet = contact_sheet(video)
    rows, columns = grid
    assert sheet.shape == (4 * rows, 6 * columns, 3)
    cells = sheet.reshape(rows, 4, columns, 6, 3)[:, 0, :, 0, 0].ravel()
    shown = min(frames, 9)
    assert cells[0] == 0
    assert cells[shown - 1] == frames - 1
    assert (np.diff(cells[:shown].astype(int)) > 0).all()
    assert (cells[shown:] == 0).all()


def test_a_picture_of_the_decoded_latent(make_single):
    env = make_single(render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.ones(env.action_space.shape, np.float32))
    state = env.unwrapped.state
    video = to_uint8(env.unwrapped.model.decode(state.latent))[0].numpy()
    assert (env.render() == contact_sheet(video)).all()


def test_frames_of_the_clip(make_single):
    env = make_single(render_mode="rgb_array_list", num_steps=1)
    env.reset(seed=0)
    *_, info = env.step(env.action_space.sample())
    frames = env.render()
    assert len(frames) == 5
    assert (np.stack(frames) == info["video"]).all()
    assert frames[0].dtype == np.uint8


def test_the_clean_estimate_is_shown_where_one_is_known(make_single, tiny_model):
    """A perfect velocity knows the clip from the first step on: every picture is the last one."""
    env = VelocityAction(make_single(render_mode="rgb_array", model=tiny_model))
    observation, info = env.reset(seed=0)
    pictures = [env.render()]
    for _ in range(4):
        embedding = env.unwrapped.embeddings[[info["prompt_id"]]]
        latent = torch.from_numpy(observation["latent"])[None]
        velocity = tiny_model.velocity(latent, torch.from_numpy(observation["sigma"]), embedding)
        observation, *_ = env.step(velocity[0].numpy())
        pictures.append(env.render())
    assert (pictures[0] != pictures[-1]).any()
    for picture in pictures[1:]:
        assert abs(picture.astype(int) - pictures[-1]).max() <= 1


def test_the_estimate_is_forgotten_at_the_next_plain_step(make_single):
    env = make_single(render_mode="rgb_array")
    env.reset(seed=0)
    env.unwrapped.clean_estimate = torch.zeros(1, 2, 3, 2, 2)
    env.step(env.action_space.sample())
    assert env.unwrapped.clean_estimate is None


@pytest.mark.parametrize("mode", ["rgb_array", "rgb_array_list"])
def test_the_batch_renders_one_per_sub_env(make_batch, mode):
    envs = VectorVelocityAction(make_batch(3, render_mode=mode, num_steps=2))
    envs.reset(seed=0)
    for _ in range(4):
        envs.step(envs.action_space.sample())
        pictures = envs.render()
        assert len(pictures) == 3
        assert np.asarray(pictures[0]).shape == (
            (16, 24, 3) if mode == "rgb_array" else (5, 8, 8, 3)
        )


def test_no_render_mode_is_a_warning(make_single):
    env = make_single().unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def record(env, steps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env.reset(seed=0)
        for _ in range(steps):
            env.step(env.action_space.sample())
        env.close()


def test_record_video_works_on_both_faces(make_single, make_batch, tmp_path):
    pytest.importorskip("moviepy")
    single = make_single(render_mode="rgb_array", num_steps=2, height=32, width=32)
    env = gym.wrappers.RecordVideo(single, str(tmp_path / "one"), episode_trigger=lambda _: True)
    record(env, 2)
    assert len(os.listdir(tmp_path / "one")) >= 1
    batch = make_batch(4, render_mode="rgb_array", num_steps=2, height=32, width=32)
    envs = gym.wrappers.vector.RecordVideo(batch, str(tmp_path / "four"), video_length=2)
    record(envs, 4)
    assert [name for name in os.listdir(tmp_path / "four") if name.endswith(".mp4")]


def test_pixels_beyond_their_range_do_not_wrap_around():
    pixels = torch.tensor([-0.01, 0.0, 0.5, 1.0, 1.01, 3.0, -2.0])
    before = pixels.clone()
    assert to_uint8(pixels).tolist() == [0, 0, 128, 255, 255, 255, 0]
    assert torch.equal(pixels, before)
