import json
import re
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.zoo.vbench import export, file_name, main


def prompt_of(name):
    """How VBench's custom mode reads a file's name."""
    return re.sub(r"-\d+$", "", Path(name).stem)


def read(file):
    reader = imageio_ffmpeg.read_frames(str(file))
    meta = next(reader)
    width, height = meta["size"]
    frames = [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]
    return meta, np.stack(frames)


def test_the_folder_is_what_vbench_looks_for(tmp_path):
    clips = sample_clips(4, torch.Generator().manual_seed(0))
    prompts = ["a red circle moving right", "A cat, 4-2, on a mat."] * 2
    files = export(tmp_path / "videos", prompts, clips.videos, fps=16)
    assert [file.name for file in files] == [
        "a red circle moving right-0.mp4",
        "A cat, 4-2, on a mat.-0.mp4",
        "a red circle moving right-1.mp4",
        "A cat, 4-2, on a mat.-1.mp4",
    ]
    assert [prompt_of(file.name) for file in files] == prompts
    listing = json.loads((tmp_path / "videos-prompts.json").read_text())
    assert listing == {file.name: prompt for file, prompt in zip(files, prompts, strict=True)}
    assert {file.suffix for file in (tmp_path / "videos").iterdir()} == {".mp4"}
    for file, video in zip(files, clips.videos, strict=True):
        meta, frames = read(file)
        assert meta["fps"] == 16
        assert frames.shape == (9, 32, 32, 3)
        # 4:2:0 halves the resolution of colour; brightness comes back nearly whole.
        error = frames.mean(-1) / 255 - video.mean(-1).numpy()
        assert np.abs(error).mean() < 0.02


@pytest.mark.parametrize("prompt", ["", " a", "a/b", "a\nb"])
def test_prompts_that_cannot_be_names(prompt):
    with pytest.raises(ValueError, match="no file can be named after"):
        file_name(prompt, 0)


def test_a_long_prompt_names_its_length():
    with pytest.raises(ValueError, match=r"at most 255 bytes, .* makes 306"):
        file_name("x" * 300, 0)


def test_bad_videos(tmp_path):
    with pytest.raises(ValueError, match=r"even H and W, got \(1, 2, 7, 8, 3\)"):
        export(tmp_path, ["a"], torch.zeros(1, 2, 7, 8, 3))
    with pytest.raises(ValueError, match="got 2 prompts and 1 videos"):
        export(tmp_path, ["a", "b"], torch.zeros(1, 2, 8, 8, 3))
    assert list(tmp_path.iterdir()) == []


def test_five_clips_of_every_prompt_of_a_file(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle moving right\n\na blue square moving up\n")
    main(prompts, tmp_path / "out", num_steps=2)
    names = sorted(file.name for file in (tmp_path / "out").glob("*.mp4"))
    assert len(names) == 10
    assert names[:2] == ["a blue square moving up-0.mp4", "a blue square moving up-1.mp4"]
    assert names[-1] == "a red circle moving right-4.mp4"
    assert "wrote 10 clips" in capsys.readouterr().out


def test_clips_of_a_wan_folder_have_the_size_that_is_asked_for(tmp_path, wan_folder):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle moving right\n")
    size = {"num_frames": 5, "height": 48, "width": 64}
    main(prompts, tmp_path / "out", model=str(wan_folder), num_steps=1, **size)
    shapes = {read(file)[1].shape for file in (tmp_path / "out").glob("*.mp4")}
    assert shapes == {(5, 48, 64, 3)}
