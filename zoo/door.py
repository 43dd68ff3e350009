"""The frame around a command: one line for a wrong value, exit codes, lasting streams."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from reelrl.algos.run.signals import Stopped, end_at_once, exit_code, handled_by
from reelrl.zoo.streams import LastingStreams, lasting_streams

FAILED = 1
BAD_VALUE = 2


@contextmanager
def door(name: str = "reelrl") -> Iterator[LastingStreams]:
    """A context for a command; gives the streams that it prints to.

    Args:
        name: of the command, before its messages.

    Raises:
        SystemExit: 2 with one line that names the error; 1 with one line for a run that learned
            nothing, or whose policy cannot act any longer; 130 or 143 if a signal ended the work.
    """
    with lasting_streams() as streams, handled_by(end_at_once):
        try:
            yield streams
        except KeyboardInterrupt:
            print(f"{name}: stopped by Ctrl-C", file=sys.stderr)
            raise SystemExit(exit_code(signal.SIGINT)) from None
        except Stopped as stop:
            print(f"{name}: {stop}", file=sys.stderr)
            raise
        except Exception as error:
            if _is_failed_run(error):
                print(f"{name}: {one_line(error)}", file=sys.stderr)
                raise SystemExit(FAILED) from error
            if not _from_outside(error):
                raise
            print(f"{name}: {one_line(error)}", file=sys.stderr)
            raise SystemExit(BAD_VALUE) from error


def _is_failed_run(error: Exception) -> bool:
    """True for a run that was right to begin and had to end."""
    from reelrl.algos.learners.update import TrainingError

    return isinstance(error, TrainingError)


def _from_outside(error: Exception) -> bool:
    """True for an error that a setting, a file or a disk caused; all else shows its traceback."""
    # Here, because whoever asks for help does not wait for torch.
    from reelrl.algos.run.checkpoint import CheckpointError

    return isinstance(error, ValueError | OSError | SafetensorError | CheckpointError)


def one_line(error: BaseException) -> str:
    """The message of an error in one line, with the path that it is about."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return text
