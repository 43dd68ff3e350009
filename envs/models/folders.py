"""Folders of models: the ones that ship, by name, and anyone's diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

from reelrl.envs.models.integrity import INDEX, read_json, verify_checksums

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
SHIPPED = {"nano": "nano-wan", "nano-early": "nano-wan-early"}
"""Names of the models that come with the library -> folder under ``checkpoints``."""


def shipped_name(name_or_path: str | Path) -> str | None:
    """The name of a shipped model, or None; a ``Path`` is a folder, whatever it is called."""
    return name_or_path if isinstance(name_or_path, str) and name_or_path in SHIPPED else None


def resolve_model(name_or_path: str | Path) -> Path:
    """Folder of a shipped model's name or of a local path.

    Raises:
        ValueError: if it is neither.
        FileNotFoundError: if a shipped model's folder is missing.
    """
    name = shipped_name(name_or_path)
    if name is not None:
        folder = CHECKPOINTS / SHIPPED[name]
    else:
        folder = Path(name_or_path)
        if not folder.is_dir():
            raise ValueError(
                f"unknown model {str(name_or_path)!r}: expected one of {', '.join(SHIPPED)} or the "
                "folder of a diffusers pipeline (models are never downloaded)"
            )
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"no diffusers pipeline in {folder}: {INDEX} is missing")
    return folder


def pipeline_class(folder: Path) -> str:
    """Name of the diffusers class that saved the folder, as its index says.

    Raises:
        ValueError: if the index is damaged.
    """
    verify_checksums(folder, INDEX)
    return str(read_json(folder / INDEX).get("_class_name"))
