"""Checksums of a model folder: written when it is saved, checked before a file is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

CHECKSUMS = "checksums.json"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Record the digest of every file below ``folder`` in its ``checksums.json``."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    digests = {p.relative_to(folder).as_posix(): file_digest(p) for p in files}
    (folder / CHECKSUMS).write_text(json.dumps(digests, indent=1) + "\n")


def verify_checksums(folder: Path, component: str) -> None:
    """Check the files of one component against ``checksums.json``; no record means no check.

    Raises:
        FileNotFoundError: if a recorded file is missing.
        ValueError: if a file differs from its record; names expected and actual digest.
    """
    record = folder / CHECKSUMS
    if not record.exists():
        return
    for name, expected in json.loads(record.read_text()).items():
        if not name.startswith(f"{component}/"):
            continue
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
                "restore the file or train the model again"
            )
