"""Clips in the folder layout that VBench's own scripts read.

VBench cannot be installed beside us (it pins numpy 1 and transformers 4.33). Export the clips, then
run it in an environment of its own::

    vbench evaluate --videos_path FOLDER --dimension subject_consistency
    vbench evaluate --videos_path FOLDER --dimension motion_smoothness --mode custom_input

The files are ``<prompt>-<index>.mp4``, the index from 0 to 4: the standard mode looks for exactly
these five of every prompt of its suite, the custom mode reads the prompt off the name.
``FOLDER-prompts.json`` maps names to prompts for its ``--prompt_file``. It lies beside the folder,
since VBench takes the ending of the first file it finds for the ending of the videos.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from reelrl.zoo.door import door

CLIPS_PER_PROMPT = 5
LONGEST_NAME = 255
"""Bytes that a file name may have on common file systems."""


def file_name(prompt: str, index: int) -> str:
    """VBench's name of the clip of a prompt.

    Raises:
        ValueError: for a prompt that no file can be named after, or that VBench would read
            otherwise.
    """
    name = f"{prompt}-{index}.mp4"
    if not prompt or prompt != prompt.strip() or any(sign in prompt for sign in "/\\\0\n"):
        raise ValueError(f"no file can be named after the prompt {prompt!r}")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(
            f"a file name has at most {LONGEST_NAME} bytes, the prompt {prompt[:40]!r}... "
            f"makes {len(name.encode())}"
        )
    return name


def export(folder: Path, prompts: Sequence[str], videos: Tensor, fps: float = 8.0) -> list[Path]:
    """Write clips for VBench and return their files.

    Args:
        folder: made if it is not there.
        prompts: N prompts; the clips of equal ones are numbered in order.
        videos: (N, F, H, W, 3) in [0, 1], H and W even.
        fps: frame rate, which VBench's dynamic degree reads.

    Raises:
        ValueError: for odd sizes, a frame rate that is none, differing numbers, or a prompt that
            cannot be a file's name.
        ImportError: without the extra ``video``.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be finite and positive, got {fps}")
    if videos.ndim != 5 or videos.shape[2] % 2 or videos.shape[3] % 2:
        raise ValueError(f"expected (N, F, H, W, 3) of even H and W, got {tuple(videos.shape)}")
    if len(prompts) != len(videos):
        raise ValueError(f"got {len(prompts)} prompts and {len(videos)} videos")
    counts: dict[str, int] = {}
    names = []
    for prompt in prompts:
        names.append(file_name(prompt, counts.get(prompt, 0)))
        counts[prompt] = counts.get(prompt, 0) + 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, video in zip(names, videos, strict=True):
        write_mp4(folder / name, video, fps)
    listing = dict(zip(names, prompts, strict=True))
    text = json.dumps(listing, indent=1, ensure_ascii=False)
    listing_file(folder).write_text(text + "\n", encoding="utf-8")
    return [folder / name for name in names]


def listing_file(folder: Path) -> Path:
    """The file beside a folder of clips that maps their names to prompts."""
    return folder.with_name(f"{folder.name}-prompts.json")


def write_mp4(file: Path, video: Tensor, fps: float) -> None:
    """Write a clip (F, H, W, 3) in [0, 1] as H.264 at a quality that leaves no visible trace."""
    from imageio_ffmpeg import write_frames

    frames = video.detach().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().contiguous()
    _, height, width, _ = frames.shape
    writer = write_frames(
        str(file),
        (width, height),
        fps=fps,
        codec="libx264",
        macro_block_size=1,
        output_params=["-crf", "10"],
    )
    writer.send(None)
    for frame in frames:
        writer.send(frame.numpy().tobytes())
    writer.close()


def main(
    prompts: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    model: str = "nano",
    fps: float = 8.0,
    num_steps: int = 10,
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
) -> None:
    """Draw five clips of every prompt of a file and write them for VBench.

    Args:
        prompts: text file with one prompt per line.
        out: folder of the clips.
        model: shipped name or folder of a Wan pipeline.
        fps: frame rate to declare.
        num_steps: denoising steps.
        num_frames: frames of a clip; the defaults are a nano model's size.
        height: pixels from top to bottom.
        width: pixels from left to right.
    """
    from reelrl.envs.models import VideoModel
    from reelrl.zoo.generate import generate

    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be finite and positive, got {fps}")
    lines = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines()]
    repeated = [line for line in lines if line for _ in range(CLIPS_PER_PROMPT)]
    for prompt in repeated:
        file_name(prompt, 0)
    seeds = list(range(len(repeated)))
    clips = generate(
        VideoModel.from_pretrained(model),
        repeated,
        seeds,
        num_steps=num_steps,
        num_frames=num_frames,
        height=height,
        width=width,
    )
    files = export(out, repeated, torch.cat(list(clips)), fps)
    print(f"wrote {len(files)} clips to {out} and their prompts to {listing_file(out)}")


if __name__ == "__main__":
    with door("vbench"):
        tyro.cli(main)
