"""Identity of a model folder: digests of its files, checked before a file is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reelrl.files import write_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn

CHECKSUMS = "checksums.json"
INDEX = "model_index.json"
"""The file by which diffusers knows the folder of a pipeline."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Record the digest of every file below ``folder`` in its ``checksums.json``."""
    write_text(folder / CHECKSUMS, json.dumps(_digests(folder), indent=1) + "\n")


def verify_checksums(folder: Path, component: str) -> None:
    """Check the files of one component against ``checksums.json``; no record means no check.

    Args:
        folder: of the model.
        component: name of a folder below it, or of a file in it.

    Raises:
        FileNotFoundError: if a recorded file is missing.
        ValueError: if a file differs from its record, or the record does not know it; names
            expected and actual digest.
    """
    recorded = _recorded(folder)
    if recorded is None:
        return
    own = {n: d for n, d in recorded.items() if n == component or n.startswith(f"{component}/")}
    for name, expected in own.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"model folder {folder} is incomplete: {name} is missing "
                f"(expected sha256 {expected})"
            )
        actual = file_digest(path)
        if actual != expected:
            raise ValueError(
                f"{path} is damaged: expected sha256 {expected}, got {actual}; "
                f"restore the file, or remove {CHECKSUMS} if you changed it yourself"
            )
    # A further file may be read in place of a recorded one.
    if unknown := sorted(set(_names(folder, component)) - own.keys()):
        raise ValueError(
            f"{folder / unknown[0]} is not in {CHECKSUMS}: remove the file, or record it"
        )


def verify_facts(folder: Path) -> None:
    """Check the small files that say how weights are to be read, before anything is read.

    Raises:
        FileNotFoundError: if a recorded file is missing.
        ValueError: if a file differs from its record.
    """
    for name in _recorded(folder) or ():
        if name.endswith((".json", ".txt", ".model")):
            verify_checksums(folder, name)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no mapping; names the file.
    """
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: expected JSON, got {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: expected a mapping, got {type(value).__name__}")
    return value


def folder_digest(folder: Path) -> str:
    """SHA-256 over all files of a pipeline's components, hexadecimal.

    The folder's place and name are not in it, nor are files that no component reads, such as a
    model card.
    """
    recorded = _recorded(folder)
    index = read_json(folder / INDEX)
    parts = {INDEX, *(n for n, kind in index.items() if isinstance(kind, list) and kind[0])}
    digests = _digests(folder) if recorded is None else recorded
    lines = [f"{n} {d}\n" for n, d in sorted(digests.items()) if n.split("/")[0] in parts]
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def module_digest(experts: Mapping[str, nn.Module], without: Collection[str] = ()) -> str:
    """SHA-256 over names, shapes and bytes of the weights of some networks, hexadecimal.

    Args:
        experts: networks by name.
        without: names of parameters to leave out.
    """
    digest = hashlib.sha256()
    for expert, module in sorted(experts.items()):
        for name, tensor in sorted(module.state_dict().items()):
            if name in without:
                continue
            host = tensor.detach().cpu().contiguous()
            digest.update(f"{expert} {name} {host.dtype} {tuple(host.shape)}\n".encode())
            # As bytes: NumPy knows no bfloat16.
            digest.update(host.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _recorded(folder: Path) -> dict[str, str] | None:
    """Digest by file as ``checksums.json`` records them; None without a record."""
    record = folder / CHECKSUMS
    return read_json(record) if record.exists() else None


def _digests(folder: Path) -> dict[str, str]:
    names = _names(folder, "")
    return {name: file_digest(folder / name) for name in names}


def _names(folder: Path, component: str) -> list[str]:
    """Files of a component by their names below the folder, without hidden ones."""
    found = [p for p in (folder / component).rglob("*") if p.is_file()]
    names = [p.relative_to(folder) for p in sorted(found)]
    return [
        name.as_posix()
        for name in names
        if name.name != CHECKSUMS and not any(part.startswith(".") for part in name.parts)
    ]
