"""Patches against the PIL processor of transformers, frame choices against their closed forms."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from reelrl.rewards.vlm.patches import (
    PatchConfig,
    fit_size,
    frames_by_count,
    frames_by_rate,
    to_patches,
)

SMALL = PatchConfig(patch=4, min_pixels=64, max_pixels=1024)


def stock(config):
    return Qwen2VLImageProcessorPil(
        patch_size=config.patch,
        merge_size=config.merge,
        temporal_patch_size=config.temporal,
        image_mean=config.mean,
        image_std=config.std,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
    )


@given(st.integers(20, 2000), st.integers(20, 2000))
def test_sizes_are_those_of_transformers(height, width):
    config = PatchConfig()
    theirs = smart_resize(height, width, 28, config.min_pixels, config.max_pixels)
    assert fit_size(height, width, config) == theirs


def test_an_impossible_frame_is_refused():
    with pytest.raises(ValueError, match="at most 200 times as long as wide, got 10x2001"):
        fit_size(10, 2001, PatchConfig())


def test_patches_are_those_of_the_stock_processor(random_clips):
    # Each frame twice is what the stock image processor makes of a still picture.
    frames = (random_clips(3, 1, 16, 24) * 255).round() / 255
    ours, grid = to_patches(frames.repeat(1, 2, 1, 1, 1), SMALL)
    pictures = [(frame[0].numpy() * 255).astype(np.uint8) for frame in frames]
    theirs = stock(SMALL)(pictures, return_tensors="pt")
    assert theirs["image_grid_thw"].tolist() == [list(grid)] * 3
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=1e-5, rtol=0)


def test_resized_patches_differ_from_pils_by_its_rounding_to_bytes(random_clips):
    frames = random_clips(1, 1, 50, 70)
    ours, grid = to_patches(frames.repeat(1, 2, 1, 1, 1), SMALL)
    picture = (frames[0, 0].numpy() * 255).round().astype(np.uint8)
    theirs = stock(SMALL)([picture], return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape and grid[1] * 4 < 50
    step = 1 / 255 / min(SMALL.std)
    assert (ours - theirs).abs().max() < 2 * step


def test_order_of_patches_by_a_plain_loop(random_clips):
    clip = random_clips(1, 3, 16, 24)
    ours, (t, y, x) = to_patches(clip, SMALL)
    frames = torch.cat([clip[0], clip[0, -1:]])
    mean, std = torch.tensor(SMALL.mean), torch.tensor(SMALL.std)
    rows = []
    for it in range(t):
        for iy in range(0, y, 2):
            for ix in range(0, x, 2):
                for row in (iy, iy + 1):
                    for column in (ix, ix + 1):
                        block = frames[
                            2 * it : 2 * it + 2,
                            4 * row : 4 * row + 4,
                            4 * column : 4 * column + 4,
                        ]
                        rows.append(((block - mean) / std).permute(3, 0, 1, 2).flatten())
    torch.testing.assert_close(ours, torch.stack(rows), atol=1e-6, rtol=0)


def test_t30_bytes_are_never_made(random_clips):
    """A change of a tenth of a grey level reaches the patches."""
    clip = random_clips(1, 2, 16, 16) * 0.5
    moved, _ = to_patches(clip + 1e-4, SMALL)
    still, _ = to_patches(clip, SMALL)
    assert (moved - still).min() > 0


@pytest.mark.parametrize(
    ("total", "clip_fps", "expected"),
    [
        (81, 16, [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]),  # 10.125 -> 10 frames
        (9, 8, [0, 3, 5, 8]),  # fewer than 4 at 2 fps
        (3, 8, [0, 2]),  # an odd clip gives an even number
        (2, 8, [0, 1]),
    ],
)
def test_t31_frames_by_rate(total, clip_fps, expected):
    assert frames_by_rate(total, clip_fps, 2.0) == expected


@given(st.integers(2, 300), st.floats(1, 60), st.floats(0.5, 8))
def test_frames_by_rate_keeps_both_ends_and_the_order(total, clip_fps, sample_fps):
    index = frames_by_rate(total, clip_fps, sample_fps)
    assert index[0] == 0 and index[-1] == total - 1
    assert index == sorted(set(index)) and len(index) % 2 == 0


def test_frames_by_count():
    assert frames_by_count(5, 8) == [0, 1, 2, 3, 4]
    assert frames_by_count(9, 3) == [0, 4, 8]


def test_processor_files(tmp_path):
    assert PatchConfig.from_folder(tmp_path) == PatchConfig()
    image = {"patch_size": 7, "image_mean": [0, 0, 0], "min_pixels": 1, "max_pixels": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(image))
    read = PatchConfig.from_folder(tmp_path)
    assert (read.patch, read.mean) == (7, (0, 0, 0))
    assert read.min_pixels == 128 * 28 * 28  # a range for images is not one for videos
    video = {"size": {"shortest_edge": 64, "longest_edge": 128}}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(video))
    assert PatchConfig.from_folder(tmp_path).max_pixels == 128
