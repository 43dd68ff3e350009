"""The folder that a command writes to: there and writable before the work, and gone if it fails."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def writable(folder: Path) -> Iterator[Path]:
    """A context with a folder that can be written to.

    After an error, folders that were made for it and hold nothing are removed again.

    Args:
        folder: made if it is not there.

    Raises:
        OSError: names the folder, if it cannot be made or written to, now or in the context.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        _try_to_write(folder)
        yield folder
    except BaseException as error:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        nameless = isinstance(error, OSError) and error.errno and error.filename is None
        if nameless or isinstance(error, SafetensorError):
            raise OSError(f"{folder}: {' '.join(str(error).split())}") from error
        raise


def _try_to_write(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(folder)) from error
