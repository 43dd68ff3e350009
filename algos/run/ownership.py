"""The owner of a run folder: one process at a time writes into it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from reelrl.algos.run.distributed import Ranks

try:
    import fcntl
except ImportError:  # Windows has no flock.
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
_HELD: dict[Path, int] = {}
"""Folder -> how many times this process has it: a command and the trainer in it both ask."""


class FolderInUse(ValueError):
    """Another process is at work in the folder."""


@contextmanager
def owned(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes into a run folder; several times within one is fine.

    The operating system gives the folder free when the process ends, however it ends.

    Args:
        folder: made if it does not exist.
        wait: until another process has left it, in place of an error.

    Raises:
        FolderInUse: if another process has it; names process and machine.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    key = folder.resolve()
    if _HELD.get(key) or fcntl is None:
        _HELD[key] = _HELD.get(key, 0) + 1
        try:
            yield
        finally:
            _HELD[key] -= 1
        return
    # Never truncated before it is ours: the text names the process that has it.
    with (folder / LOCK).open("a+", encoding="utf-8") as lock:
        _take(lock.fileno(), folder, wait)
        lock.truncate(0)
        lock.write(f"{os.getpid()} {socket.gethostname()}\n")
        lock.flush()
        _HELD[key] = 1
        try:
            yield
        finally:
            _HELD[key] -= 1
            if [path.name for path in folder.iterdir()] == [LOCK]:
                # Nothing came of it.
                (folder / LOCK).unlink()
                if made:
                    folder.rmdir()


@contextmanager
def owned_by(ranks: Ranks, folder: Path | None) -> Iterator[None]:
    """Let processes that train together own a folder through the writing one; None means no folder.

    Raises:
        FolderInUse: on all of them, if others have it.
    """
    with ExitStack() as stack:
        problem = ""
        if ranks.is_main and folder is not None:
            try:
                stack.enter_context(owned(folder))
            except FolderInUse as error:
                problem = str(error)
        # The others would wait for a process that is gone.
        if found := next(filter(None, ranks.exchange(problem)), ""):
            raise FolderInUse(found)
        yield


def _take(descriptor: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
            return  # Some network file systems lock nothing; then nothing can be known.
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        text = (folder / LOCK).read_text(encoding="utf-8", errors="replace").split()
        who = f"process {text[0]} on {text[1]}" if len(text) == 2 else "another process"
        raise FolderInUse(
            f"{folder} is in use by {who}: wait for it, or choose another folder"
        ) from None
