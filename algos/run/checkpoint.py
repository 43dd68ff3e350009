"""Checkpoints: folders of safetensors and JSON that are either complete or not there.

A checkpoint is written into a hidden folder, flushed to disk, and renamed to its final name; who
reads it checks every file against its digest. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reelrl.envs.models.integrity import file_digest
from reelrl.files import sync, write_tensors, write_text

VERSION = 2
OLDEST = 1
"""Checkpoints of this version have no digest of their state; they are still read."""
PREFIX = "step_"
REPLACED = ".old"
ASIDE = "set_aside_"
BEST = "best"
STATE = "state.json"
TENSORS = ".safetensors"
_OWN = re.compile(r"(?:step_(\d+)|\.step_(\d+)\.old)", re.ASCII)
"""A checkpoint, and one that was being replaced; every other name is the user's."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read: damaged, incomplete, or of another version."""


class CheckpointWarning(UserWarning):
    """A checkpoint is passed over for an older one."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

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
        """Name of its folder below the folder of the run's checkpoints."""
        return f"{PREFIX}{self.iteration:08d}"


def save_checkpoint(
    root: Path, checkpoint: Checkpoint, *, keep: int = 2, best: bool = False
) -> Path:
    """Write ``root/step_<iteration>`` and forget old ones.

    Args:
        root: the run's folder of checkpoints; made if it does not exist.
        checkpoint: the checkpoint to write.
        keep: checkpoints to keep besides the best and this one.
        best: this is the best one so far.

    Returns:
        Its folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left_over in root.glob(f".{PREFIX}*.tmp"):
        shutil.rmtree(left_over, ignore_errors=True)
    final = root / checkpoint.folder_name
    temporary = root / f".{final.name}.tmp"
    try:
        temporary.mkdir()
        _write_files(temporary, checkpoint)
    except BaseException:
        # Half a checkpoint would keep the disk full.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    replaced = root / f".{final.name}{REPLACED}"
    if final.exists():
        # Aside and still listed: a kill in between must not cost the only checkpoint there is.
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(final, replaced)
    os.rename(temporary, final)
    sync(root)
    shutil.rmtree(replaced, ignore_errors=True)
    if best:
        write_text(root / BEST, final.name)
        sync(root)
    _forget(root, keep, final)
    return final


def load_checkpoint(folder: Path, needed: Collection[str] = ()) -> Checkpoint:
    """Read and check one checkpoint.

    Args:
        folder: of the checkpoint.
        needed: names of facts that must be there.

    Raises:
        CheckpointError: if it is damaged, incomplete or of another version.
    """
    path = folder / STATE
    try:
        state = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}") from error
    _check_state(path, state, needed)
    _check_files(folder, state["digests"])
    try:
        tensors = {Path(name).stem: load_file(folder / name) for name in state["digests"]}
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error!r}") from error
    return Checkpoint(state["iteration"], tensors, state["facts"])


def load_latest(root: Path, needed: Collection[str] = ()) -> Checkpoint:
    """The newest readable checkpoint below ``root``, or ``root`` itself if it is one.

    Args:
        root: of :func:`save_checkpoint`, or the folder of one checkpoint.
        needed: see :func:`load_checkpoint`.

    Raises:
        CheckpointError: if there is none; names the fault of the newest.
    """
    if (root / STATE).exists():
        return load_checkpoint(root, needed)
    problems = []
    for folder in reversed(list_checkpoints(root)):
        try:
            checkpoint = load_checkpoint(folder, needed)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]}; going on from {folder}", CheckpointWarning, stacklevel=2)
        return checkpoint
    raise CheckpointError(problems[0] if problems else f"there is no checkpoint in {root}")


def list_checkpoints(root: Path) -> list[Path]:
    """Folders of all complete checkpoints, oldest first; ``step_`` and digits alone are one."""
    numbered = [(number_of(path), path) for path in root.glob("*step_*") if path.is_dir()]
    found = [(number, path) for number, path in numbered if number is not None]
    # Of a checkpoint and the one that it replaces the new one comes last.
    return [path for _, path in sorted(found, key=lambda pair: (pair[0], pair[1].name[0] != "."))]


def number_of(folder: Path) -> int | None:
    """Iterations done at a checkpoint, as its folder's name says; None if it is no checkpoint."""
    match = _OWN.fullmatch(folder.name)
    return int(match[1] or match[2]) if match else None


def set_aside(root: Path, iteration: int) -> Path | None:
    """Move all checkpoints after an iteration into a folder of their own.

    A run that goes on from an older checkpoint leaves its newer ones: taken as the newest, they
    would bring the abandoned run back.

    Args:
        root: of :func:`save_checkpoint`.
        iteration: from which the run goes on.

    Returns:
        The new folder, ``set_aside_<n>`` below ``root``; None if there was nothing to move.
    """
    newer = [path for path in list_checkpoints(root) if (number_of(path) or 0) > iteration]
    if not newer:
        return None
    best = best_checkpoint(root)
    aside = next(p for n in range(1, 10**9) if not (p := root / f"{ASIDE}{n}").exists())
    aside.mkdir()
    if best in newer:
        (root / BEST).unlink()
    # Newest first: after a kill in between the older ones are still in order.
    for path in reversed(newer):
        os.rename(path, aside / path.name)
    sync(root)
    return aside


def best_checkpoint(root: Path) -> Path | None:
    """Folder of the checkpoint marked best, if there is one."""
    try:
        folder = root / (root / BEST).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return folder if folder in list_checkpoints(root) else None


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
    """Restore a result of :func:`pack_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        # Cloned: an optimizer works on the tensors it is given.
        state.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    digests = {}
    for stem, tensors in checkpoint.tensors.items():
        path = folder / f"{stem}{TENSORS}"
        write_tensors(path, tensors)
        digests[path.name] = file_digest(path)
    state = {
        "version": VERSION,
        "iteration": checkpoint.iteration,
        "digests": digests,
        "facts": checkpoint.facts,
    }
    # Read back first: keys that are numbers come back as texts, and the digest is over the values
    # as read.
    state = json.loads(json.dumps(state))
    write_text(folder / STATE, json.dumps({"digest": _digest(state), **state}, indent=1))
    sync(folder)


def _digest(state: Mapping[str, Any]) -> str:
    """SHA-256 of a state without its digest, whatever its blanks and the order of its keys."""
    plain = {key: value for key, value in state.items() if key != "digest"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _check_state(path: Path, state: Any, needed: Collection[str]) -> None:
    """Refuse a state that is not whole, or not the one that was written."""

    def expect(holds: bool, what: str) -> None:
        if not holds:
            raise CheckpointError(f"{path} is damaged: expected {what}")

    expect(isinstance(state, dict), f"a mapping, got {type(state).__name__}")
    version = state.get("version")
    if version not in range(OLDEST, VERSION + 1) or isinstance(version, bool):
        raise CheckpointError(f"{path} is of version {version!r}, expected {OLDEST} to {VERSION}")
    if version > OLDEST or "digest" in state:
        found = state.get("digest")
        expect(found == (own := _digest(state)), f"its digest to be {own}, got {found!r}")
    iteration, digests, facts = (state.get(key) for key in ("iteration", "digests", "facts"))
    expect(type(iteration) is int and iteration >= 0, f"an iteration from 0 on, got {iteration!r}")
    named = number_of(path.parent)
    expect(named in (None, iteration), f"iteration {named} as the folder says, got {iteration}")
    expect(
        isinstance(digests, dict)
        and all(Path(n).name == n and n.endswith(TENSORS) for n in digests),
        f"digests of files of the folder, got {digests!r}",
    )
    expect(isinstance(facts, dict), f"facts as a mapping, got {type(facts).__name__}")
    missing = sorted(set(needed) - facts.keys())
    expect(not missing, f"the facts {', '.join(missing)}, which are missing")


def _check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse files that differ from their digests, and files that no digest is known of."""
    for name, expected in digests.items():
        path = folder / name
        try:
            actual = file_digest(path) if path.is_file() else "no file"
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if actual != expected:
            raise CheckpointError(f"{path} is damaged: expected {expected}, got {actual}")
    unknown = sorted({path.name for path in folder.glob(f"*{TENSORS}")} - digests.keys())
    if unknown:
        raise CheckpointError(f"{folder / STATE} is damaged: it has no digest of {unknown[0]}")


def _forget(root: Path, keep: int, written: Path) -> None:
    spared = (best_checkpoint(root), written)
    for folder in list_checkpoints(root)[: -max(1, keep)]:
        if folder not in spared:
            shutil.rmtree(folder, ignore_errors=True)
