"""Checkpoints: folders of safetensors and JSON that are either complete or not there.

A checkpoint is written into a hidden folder, flushed to disk, and renamed to its final name; who
reads it checks every file against its digest. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reelrl.envs.models.integrity import file_digest

VERSION = 1
PREFIX = "step_"
REPLACED = ".old"
BEST = "best"
STATE = "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read: damaged, incomplete, or of another version."""


class CheckpointWarning(UserWarning):
    """A checkpoint is passed over for an older one."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        iteration: iterations done.
        tensors: file name without ending -> name -> tensor.
        facts: everything else, as plain JSON values.
    """

    iteration: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]

    @property
    def folder_name(self) -> str:
        """Name of its folder below that of the run's checkpoints."""
        return f"{PREFIX}{self.iteration:08d}"


def save_checkpoint(
    root: Path, checkpoint: Checkpoint, *, keep: int = 2, best: bool = False
) -> Path:
    """Write ``root/step_<iteration>`` and forget old ones.

    Args:
        root: the run's folder of checkpoints; made if it does not exist.
        checkpoint: what to write.
        keep: checkpoints to keep besides the best and this one.
        best: this is the best one so far.

    Returns:
        Its folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left_over in root.glob(".*.tmp"):
        shutil.rmtree(left_over, ignore_errors=True)
    final = root / checkpoint.folder_name
    temporary = root / f".{final.name}.tmp"
    temporary.mkdir()
    _write_files(temporary, checkpoint)
    replaced = final.with_suffix(REPLACED)
    if final.exists():
        # Aside and still listed: a kill in between must not cost the only checkpoint there is.
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(final, replaced)
    os.rename(temporary, final)
    _flush(root)
    shutil.rmtree(replaced, ignore_errors=True)
    if best:
        _write_text(root / f".{BEST}", final.name)
        os.replace(root / f".{BEST}", root / BEST)
        _flush(root)
    _forget(root, keep, final)
    return final


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and check one checkpoint.

    Raises:
        CheckpointError: if it is damaged, incomplete or of another version.
    """
    try:
        state = json.loads((folder / STATE).read_text())
        version = state["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / STATE} cannot be read: {error!r}") from error
    if version != VERSION:
        raise CheckpointError(f"{folder} is of version {version}, expected {VERSION}")
    for name, expected in state["digests"].items():
        path = folder / name
        actual = file_digest(path) if path.is_file() else "no file"
        if actual != expected:
            raise CheckpointError(f"{path} is damaged: expected {expected}, got {actual}")
    tensors = {Path(name).stem: load_file(folder / name) for name in state["digests"]}
    return Checkpoint(state["iteration"], tensors, state["facts"])


def load_latest(root: Path) -> Checkpoint:
    """The newest readable checkpoint below ``root``, or ``root`` itself if it is one.

    Raises:
        CheckpointError: if there is none; names what was wrong with the newest.
    """
    if (root / STATE).exists():
        return load_checkpoint(root)
    problems = []
    for folder in reversed(list_checkpoints(root)):
        try:
            checkpoint = load_checkpoint(folder)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]}; going on from {folder}", CheckpointWarning, stacklevel=2)
        return checkpoint
    raise CheckpointError(problems[0] if problems else f"there is no checkpoint in {root}")


def list_checkpoints(root: Path) -> list[Path]:
    """Folders of all complete checkpoints, oldest first."""
    found = [path for path in root.glob(f"{PREFIX}*") if path.is_dir()]
    return sorted(found, key=lambda path: (path.stem, path.suffix != REPLACED))


def best_checkpoint(root: Path) -> Path | None:
    """Folder of the checkpoint marked best, if there is one."""
    mark = root / BEST
    folder = root / mark.read_text() if mark.exists() else None
    return folder if folder and folder.is_dir() else None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """An optimizer's state as named tensors and plain values."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{key}": value
        for index, entries in state["state"].items()
        for key, value in entries.items()
    }
    return tensors, state["param_groups"]


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: Any
) -> None:
    """Restore what :func:`pack_optimizer` made."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        # Cloned: an optimizer works on the tensors it is given.
        state.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    digests = {}
    for stem, tensors in checkpoint.tensors.items():
        path = folder / f"{stem}.safetensors"
        # Cloned: two names on one storage are refused by the format.
        host = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        save_file(host, path)
        _flush(path)
        digests[path.name] = file_digest(path)
    state = {
        "version": VERSION,
        "iteration": checkpoint.iteration,
        "digests": digests,
        "facts": checkpoint.facts,
    }
    _write_text(folder / STATE, json.dumps(state, indent=1))
    _flush(folder)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
    _flush(path)


def _flush(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(root: Path, keep: int, written: Path) -> None:
    spared = (best_checkpoint(root), written)
    for folder in list_checkpoints(root)[: -max(1, keep)]:
        if folder not in spared:
            shutil.rmtree(folder, ignore_errors=True)
