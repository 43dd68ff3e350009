"""Where a run's numbers go: metrics.jsonl for programs, TensorBoard and one line for people."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reelrl.envs.rendering import encode_gif
from reelrl.files import write_text

if TYPE_CHECKING:
    from jaxtyping import UInt8

METRICS = "metrics.jsonl"


class RunLogWarning(UserWarning):
    """A line of a run's log cannot be read."""


class RunLog:
    """The log of one run.

    Args:
        folder: gets ``metrics.jsonl`` and the TensorBoard files; None keeps no files.
        start: first iteration to come; lines of it and later ones, from before a resume, are cut
            off, so that the file is always one curve.
    """

    def __init__(self, folder: Path | None, start: int = 0) -> None:
        self.folder = folder
        self._board: Any = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        kept = [row for row in read_metrics(folder) if row["iteration"] < start]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._board = _open_board(folder, start)

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write one iteration's numbers, named ``group/name``."""
        if self.folder is None:
            return
        # JSON knows no nan; a missing value is null.
        clean = {k: float(v) if np.isfinite(v) else None for k, v in values.items()}
        with (self.folder / METRICS).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"iteration": iteration, **clean}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, iteration)

    def histogram(self, iteration: int, name: str, values: Tensor) -> None:
        """Write a distribution, without numbers that are not finite."""
        finite = values[values.isfinite()]
        if self._board is not None and len(finite):
            self._board.add_histogram(name, finite.float().cpu(), iteration)

    def video(self, iteration: int, name: str, videos: UInt8[Tensor, "V F H W 3"]) -> None:
        """Write clips (V, F, H, W, 3) uint8 as one animation, side by side.

        TensorBoard's videos are GIFs among the pictures; ``add_video`` makes them with a module
        that newer releases of moviepy do not have.
        """
        if self._board is None or not len(videos):
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        joined = torch.cat(list(videos), dim=2).numpy()
        _, height, width, channels = joined.shape
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=encode_gif(joined),
        )
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._board.file_writer.add_summary(summary, iteration)

    def close(self) -> None:
        """Flush the open files."""
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's ``metrics.jsonl``; a last line cut short by a kill is left out.

    A line that cannot be read elsewhere in the file is left out with a :class:`RunLogWarning`.
    """
    path = folder / METRICS
    rows = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode("utf-8"))
            row["iteration"] + 0
        except (ValueError, KeyError, TypeError, RecursionError):
            if number < len(lines):
                warnings.warn(
                    f"line {number} of {path} is damaged and left out: {line[:60]!r}",
                    RunLogWarning,
                    stacklevel=2,
                )
            continue
        rows.append(row)
    return rows


def _open_board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start)
