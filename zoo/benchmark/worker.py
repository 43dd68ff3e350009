"""The processes that a benchmark works with: told to stop by one pipe, and gone with their parent.

The parent holds the only writing end of a pipe, and each worker reads it in a thread. The pipe ends
when the parent closes it, or dies in whatever way. A worker then finishes its iteration, saves and
ends. The system closes the pipes of a dead process, so nobody has to tell the workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from reelrl.algos.run.signals import Interruption, Stopped, exit_code, handle, interruptible
from reelrl.zoo.imports import import_again
from reelrl.zoo.streams import last_streams

T = TypeVar("T")
_busy = threading.Lock()
"""Held during work of this process that must not be cut off."""


@contextmanager
def workers(jobs: int, imports: Sequence[str] = ()) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes of one thread each, which end with this context and with this process.

    An error in the context, or a signal, lets each worker finish its iteration and save. A second
    signal ends them at once.

    Args:
        jobs: number of processes.
        imports: modules that each of them needs.
    """
    # Not forked: a forked process inherits locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    heard, lifeline = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=enter, initargs=(heard, imports)
    )
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        lifeline.close()
        _wait_for(pool)
        raise
    finally:
        lifeline.close()
        heard.close()


def _wait_for(pool: ProcessPoolExecutor) -> None:
    try:
        pool.shutdown(cancel_futures=True)
    except (KeyboardInterrupt, Stopped):
        for process in multiprocessing.active_children():
            process.kill()
        raise


def enter(heard: Connection, imports: Sequence[str]) -> None:
    """Make this process a worker.

    Args:
        heard: the reading end of the parent's pipe.
        imports: modules that register its rewards and estimators.
    """
    # The cores are busy with the other runs.
    torch.set_num_threads(1)
    last_streams()
    # A group and a parent may both pass on one signal.
    interruption = Interruption(patient=True)
    handle(interruption)
    threading.Thread(target=_watch, args=(heard, interruption), daemon=True).start()
    import_again(imports)


def _watch(heard: Connection, interruption: Interruption) -> None:
    """End this process when the parent's pipe does, but not in the middle of an iteration."""
    try:
        heard.recv_bytes()
    except (EOFError, OSError):
        interruption(signal.SIGTERM)
    with _busy:
        os._exit(exit_code(signal.SIGTERM))


def finish(function: Callable[..., T], *arguments: Any) -> T:
    """A function's result; a worker that is to stop calls it no more, and waits for its end.

    Args:
        function: looks at :func:`~reelrl.algos.run.signals.interruptible` now and then.
        *arguments: its own.

    Raises:
        Stopped: if this process is to stop.
    """
    with _busy, interruptible() as interruption:
        if interruption.number:
            raise Stopped(interruption.number)
        return function(*arguments)
