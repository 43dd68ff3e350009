"""Files that are whole or not there: written beside, flushed to disk, renamed into place."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR)
"""Errors by which a file system says that it does not flush folders: SMB and some FUSE do not."""


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends; a kill or a full disk leaves the old file.

    Args:
        path: of the file; its folder must exist.
        text: all of it.

    Raises:
        OSError: if it cannot be written; nothing is left beside the old file then.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside and put it in place; a kill leaves the old one or the new one.

    Args:
        path: of the folder; its parent must exist.
        write: fills the folder that it is given, which does not exist yet.
    """
    beside, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    if not path.exists() and old.exists():
        # Killed between its two renames: the new folder was complete before the first of them.
        os.rename(beside if beside.exists() else old, path)
    for left_over in (beside, old):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        write(beside)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    share(beside)
    if path.exists():
        os.rename(path, old)
    os.rename(beside, path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file that others may read as the umask says, flushed to disk.

    Args:
        path: of the file; its folder must exist.
        tensors: by name, on any device. Two of them may share memory.
        metadata: texts for the header.

    Raises:
        OSError: if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Cloned: two names on one storage are refused by the format.
    host = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    try:
        save_file(host, path, dict(metadata) if metadata else None)
    except SafetensorError as error:
        # A full disk arrives as the library's own error.
        raise OSError(f"{path} cannot be written: {error}") from error
    sort_header(path)
    share(path)
    sync(path)


def sort_header(path: Path) -> None:
    """Bring the texts in a safetensors header into order: equal contents are equal bytes then.

    The format's writer puts them in an order that differs from process to process.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length).decode("utf-8"))
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        if len(text) <= length:  # Blanks at the end of a header are allowed.
            file.seek(8)
            file.write(text.ljust(length))


def sync(path: Path) -> None:
    """Force a file to disk, and a folder's list of names as far as the file system can.

    Raises:
        OSError: if a file cannot be flushed.
    """
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folder.
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (is_folder and error.errno in UNSYNCED):
            raise


def share(path: Path) -> None:
    """Let others read a file, or all files below a folder, as the umask says.

    Some writers make files that the owner alone can read, whatever the umask.
    """
    mode = 0o666 & ~_umask()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(mode)


def _umask() -> int:
    """The process's mask of permissions, which can be read by setting it alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
