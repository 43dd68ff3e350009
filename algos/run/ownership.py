"""The owner of a run folder: one process at a time writes into it, and one thread of it."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reelrl.algos.run.distributed import Ranks

try:
    import fcntl
except ImportError:  # Windows has no flock.
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
UNKNOWN = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)
"""Errors by which a network file system says that it locks nothing; then nothing can be known."""


@dataclass
class _Holder:
    """Who has a folder in this process, and how often: a command and its trainer both ask."""

    process: int
    thread: int
    count: int = 1


_HELD: dict[Path, _Holder] = {}


class FolderInUse(ValueError):
    """Somebody else is at work in the folder."""


@contextmanager
def owned(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only one that writes into a run folder; several times within one thread is fine.

    The operating system gives the folder free when the process ends, however it ends.

    Args:
        folder: made if it does not exist.
        wait: until another process has left it, in place of an error.

    Raises:
        FolderInUse: if another process or thread has it; names process and machine.
    """
    key = folder.absolute()
    holder = _HELD.get(key)
    # A forked child has the table of its parent, and not its folders.
    if holder is not None and holder.process == os.getpid():
        if holder.thread != threading.get_ident():
            raise FolderInUse(f"{folder} is in use by another thread: choose another folder")
        holder.count += 1
        try:
            yield
        finally:
            holder.count -= 1
        return
    made = not folder.exists()
    with _locked(folder, wait):
        _HELD[key] = _Holder(os.getpid(), threading.get_ident())
        try:
            yield
        finally:
            del _HELD[key]
            _leave(folder, made)


@contextmanager
def owned_by(ranks: Ranks, folder: Path | None) -> Iterator[None]:
    """Let processes that train together own a folder, through the one that writes.

    Args:
        ranks: the processes.
        folder: of the run; None means that nothing is written.

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


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file of a folder."""
    if fcntl is None:
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        # Never truncated before it is ours: the text names the process that has it.
        with (folder / LOCK).open("a+", encoding="utf-8") as lock:
            _take(lock, folder, wait)
            if not _is_there(lock, folder):
                continue  # Whoever had it before has removed it meanwhile.
            lock.truncate(0)
            lock.write(f"{os.getpid()} {socket.gethostname()}\n")
            lock.flush()
            yield
            return


def _take(lock: IO[str], folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in UNKNOWN:
            return
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        lock.seek(0)
        text = lock.read().split()
        who = f"process {text[0]} on {text[1]}" if len(text) == 2 else "another process"
        raise FolderInUse(
            f"{folder} is in use by {who}: wait for it, or choose another folder"
        ) from None


def _is_there(lock: IO[str], folder: Path) -> bool:
    """Whether the open lock file is still the one in the folder."""
    try:
        found = (folder / LOCK).stat()
    except FileNotFoundError:
        return False
    own = os.fstat(lock.fileno())
    return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)


def _leave(folder: Path, made: bool) -> None:
    """Remove a lock that nothing came into the folder beside, and the folder if it is ours."""
    try:
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            if made:
                folder.rmdir()
    except OSError:
        return  # Somebody is faster; an empty folder is no harm.
