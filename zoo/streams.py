"""Standard output and error that may close: who works goes on when nobody reads any more."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)
"""Errors of a stream whose reader is gone: a closed pipe, terminal or descriptor."""


class _Lasting(io.FileIO):
    """A descriptor that takes everything: unwritable output is lost, and nothing raises.

    Attributes:
        error: the first failure; None if there was none.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Number of bytes taken."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            if error.errno in NOBODY_READS:
                # Output past this object, for example by a child process, finds no reader either.
                _open_null(self.fileno())
            return len(memoryview(data))


class LastingStreams:
    """Standard output and error while they last.

    Attributes:
        raw: the descriptors below; none for a stream that is no file.
    """

    def __init__(self) -> None:
        self.raw: list[_Lasting] = []

    def check(self) -> None:
        """Raise if output is lost that somebody would have read.

        Raises:
            OSError: such as of a full disk.
        """
        if sys.stdout is not None:
            sys.stdout.flush()
        for raw in self.raw:
            if raw.error is not None and raw.error.errno not in NOBODY_READS:
                raise raw.error

    def wrap(self, stream: TextIO | None, number: int) -> TextIO | None:
        """A stream of descriptor ``number`` that never raises; others are left as they are."""
        try:
            if stream is not None and stream.fileno() != number:
                return stream
        except (OSError, ValueError):
            return stream  # a test's or a notebook's own
        try:
            os.fstat(number)
        except OSError:
            # Closed by the shell: the next file to be opened would be taken for the stream.
            _open_null(number)
        if stream is not None:
            with suppress(OSError):
                stream.flush()
        raw = _Lasting(number, "w", closefd=False)
        self.raw.append(raw)
        return io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=getattr(stream, "encoding", None) or "utf-8",
            errors="backslashreplace",
            line_buffering=number == 2 or raw.isatty(),
        )


@contextmanager
def lasting_streams() -> Iterator[LastingStreams]:
    """A context in which printing never raises, whatever becomes of the readers."""
    streams = LastingStreams()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        streams.wrap(stream, number) for number, stream in enumerate(before, start=1)
    )
    try:
        yield streams
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        if streams.raw:
            # The originals hold nothing, but are flushed at exit all the same.
            sys.stdout, sys.stderr = before


def last_streams() -> None:
    """Make the streams of this process last to its end, as a worker's must."""
    streams = LastingStreams()
    sys.stdout = streams.wrap(sys.stdout, 1)
    sys.stderr = streams.wrap(sys.stderr, 2)


def _open_null(number: int) -> None:
    """Let a descriptor lead to nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null != number:
        os.dup2(null, number)
        os.close(null)
