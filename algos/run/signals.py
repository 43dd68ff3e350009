"""Signals that ask a process to stop: the first lets the present work be saved, the second ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, NoReturn

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)
"""Ctrl-C, and the signals that schedulers, closing terminals and ``sbatch --signal`` send. A system
without one of them, such as Windows, has the others."""

Handler = Callable[[int, FrameType | None], Any]


class Stopped(SystemExit):
    """A signal ended the work; uncaught, it ends the process with the exit code of a signal.

    Args:
        number: of the signal.
        text: message to the user; by default the name of the signal.

    Attributes:
        number: of the signal.
        text: message to the user.
        code: 130 after Ctrl-C and 143 after the others, which a scheduler sends in place of
            SIGTERM.
    """

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(number, text)
        self.number, self.text = number, text or f"stopped by {signal_name(number)}"
        self.code = exit_code(number)

    def __str__(self) -> str:
        return self.text


def exit_code(number: int) -> int:
    """Exit code of a process that a signal has stopped: 130 for Ctrl-C, 143 for the others."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


def signal_name(number: int) -> str:
    """Name of a signal for people."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class Interruption:
    """The signal that asked this process to stop; the handler of all :data:`SIGNALS`.

    Args:
        patient: True lets every signal after the first pass. A process that is told to stop by its
            group and by its parent gets two of them, and both mean the same.

    Attributes:
        number: of the first signal; 0 if there was none.
    """

    def __init__(self, patient: bool = False) -> None:
        self.number, self.patient = 0, patient

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Remember the first signal; a second one ends at once."""
        if self.number and not self.patient:
            end_at_once(number, frame)
        self.number = self.number or int(number)


def end_at_once(number: int, frame: FrameType | None = None) -> NoReturn:
    """The handler that ends whatever is at work.

    Raises:
        KeyboardInterrupt: for Ctrl-C.
        Stopped: for every other signal.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)


@contextmanager
def interruptible(patient: bool = False) -> Iterator[Interruption]:
    """An :class:`Interruption` that gets the signals of this process.

    Inside another such context it is the outer one. A thread that is not the main one gets no
    signals.
    """
    standing = signal.getsignal(signal.SIGINT)
    if isinstance(standing, Interruption):
        yield standing
        return
    interruption = Interruption(patient)
    with handled_by(interruption):
        yield interruption


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """A context in which a handler gets the signals, as :func:`handle` says."""
    previous = handle(handler) if current_thread() is main_thread() else {}
    try:
        yield
    finally:
        for number, before in previous.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if before is None else before)


def handle(handler: Handler) -> dict[int, Any]:
    """Let a handler get all :data:`SIGNALS` of this process, and return who got them before.

    Ignored signals stay ignored, as ``nohup`` asks for, and a handler that the program has
    installed keeps its signal, such as a scheduler's hook. Ctrl-C does not: a shell lets every
    process in the background ignore it, and whoever sends it all the same means it.
    """
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if number == signal.SIGINT or _is_free(signal.getsignal(number))
    }


def _is_free(standing: Any) -> bool:
    """True if nobody but this module has asked for a signal."""
    return (
        standing is signal.SIG_DFL or standing is end_at_once or isinstance(standing, Interruption)
    )


@contextmanager
def telling(text: str) -> Iterator[None]:
    """A context in which a signal that ends the work tells the user ``text``, such as how to go on.

    Raises:
        Stopped: in place of the exception that a signal raised.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, text) from None
    except Stopped as stop:
        raise Stopped(stop.number, text) from None
