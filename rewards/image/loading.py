"""Where weights and picture preparation come from: a local folder, else the hub's local cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's codes, which the files of image processors hold."""


def local_folder(source: str | Path, download: bool = False) -> Path:
    """The folder that holds a model: itself, or the cached snapshot of a repository of the hub.

    Args:
        source: folder, or repository such as ``openai/clip-vit-base-patch32``.
        download: fetch files that are not cached; otherwise the network is never asked.

    Raises:
        FileNotFoundError: if there is no local copy and ``download`` is False.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except (OSError, ValueError) as error:
        if download:
            return Path(snapshot_download(str(source)))
        raise FileNotFoundError(
            f"no local copy of {str(source)!r}: give model= the folder that holds it, or "
            "download=True to fetch it from the hub"
        ) from error


def read_state(file: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or a pickled checkpoint, of the latter tensors alone."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    pickled = torch.load(file, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = pickled.get("state_dict", pickled)
    return state


def the_file(folder: Path, *patterns: str) -> Path:
    """The one file of the folder that matches the first pattern that any matches.

    Raises:
        FileNotFoundError: if there is none, or several.
    """
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise FileNotFoundError(f"expected one {pattern} in {folder}, got {names}")
    raise FileNotFoundError(f"expected {' or '.join(patterns)} in {folder}, got none")


@dataclass(frozen=True)
class ImageTransform:
    """Frames to a model's pixels, as its image processor does it, but in torch.

    On the device of the frames, in one batch, and with gradients; against Pillow's way it spares
    the rounding to bytes between steps.

    Attributes:
        size: (height, width) to stretch to, or the short side, which keeps the aspect ratio; with
            ``pad`` the long side.
        crop: (height, width) of the centre that is kept; None keeps all.
        mean: subtracted per channel.
        std: divided by per channel.
        mode: "bilinear" or "bicubic".
        antialias: widen the kernel when shrinking.
        pad: fit the long side and fill up to a square with black, the frame in the middle.

    Raises:
        ValueError: if a frame is to be padded to anything but a square.
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "bicubic"
    antialias: bool = True
    pad: bool = False

    def __post_init__(self) -> None:
        if self.pad and (isinstance(self.size, tuple) or self.crop is not None):
            raise ValueError(
                f"pad needs one size, the long side, and no crop; got {self.size} and {self.crop}"
            )

    @classmethod
    def from_pretrained(cls, folder: Path) -> ImageTransform:
        """From ``preprocessor_config.json``, or ``processor_config.json`` of newer saves.

        Raises:
            FileNotFoundError: if the folder has neither.
            ValueError: for a kind of resizing that this class does not know.
        """
        config = _processor_config(folder)
        resample = int(config.get("resample", 3))
        if resample not in RESAMPLING or not config.get("do_resize", True):
            raise ValueError(
                f"{folder}: expected bilinear or bicubic resizing, got resample={resample}, "
                f"do_resize={config.get('do_resize')}"
            )
        crop = config.get("crop_size") if config.get("do_center_crop") else None
        return cls(
            size=_size(config["size"]),
            crop=None if crop is None else _square(_size(crop)),
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
            mode=RESAMPLING[resample],
        )

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (M, H, W, 3) in [0, 1] to pixels (M, 3, h, w)."""
        height, width = frames.shape[1:3]
        target = self._target(height, width)
        planes = frames.movedim(-1, 1)
        if target != (height, width):
            planes = functional.interpolate(
                planes, size=target, mode=self.mode, antialias=self.antialias
            ).clamp(0, 1)
        if self.crop is not None:
            top, left = (target[0] - self.crop[0]) // 2, (target[1] - self.crop[1]) // 2
            planes = planes[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        if self.pad:
            planes = _squared(planes)
        mean, std = planes.new_tensor([self.mean, self.std])[..., None, None].unbind()
        return (planes - mean) / std

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a frame of that size before it is cropped or padded."""
        if isinstance(self.size, tuple):
            return self.size
        return (_long if self.pad else _short)(self.size, height, width)


def _processor_config(folder: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            config: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            processor: dict[str, Any] = config.get("image_processor", config)
            return processor
    raise FileNotFoundError(
        f"{folder} has no preprocessor_config.json and no processor_config.json"
    )


def _size(value: int | dict[str, int]) -> int | tuple[int, int]:
    if isinstance(value, int):
        return value
    if "shortest_edge" in value:
        return int(value["shortest_edge"])
    return int(value["height"]), int(value["width"])


def _square(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _short(side: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) with that short side, the long one rounded down as transformers does."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _long(side: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) with that long side, the short one rounded as open_clip does."""
    scale = side / max(height, width)
    return round(height * scale), round(width * scale)


def _squared(planes: Tensor) -> Tensor:
    """Planes (M, 3, h, w) in the middle of black squares, of an odd gap less before than after."""
    height, width = planes.shape[-2:]
    down, across = max(width - height, 0), max(height - width, 0)
    return functional.pad(planes, (across // 2, across - across // 2, down // 2, down - down // 2))
