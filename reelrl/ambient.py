"""Protection from settings of torch that surround a call: the same seed is the same clip."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def own_settings(*, gradients: bool = False) -> Iterator[None]:
    """Run without the autocast, default device and inference mode that surround the call.

    They belong to the thread, so no other thread is disturbed. The default dtype belongs to the
    process: whoever makes a number writes its dtype out.

    Args:
        gradients: switch gradients on, whatever surrounds the call.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        tracked = torch.is_grad_enabled() or gradients
        if torch.is_inference_mode_enabled():
            # Tensors made there could never be learned from.
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(tracked))
        yield


def undisturbed(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the function runs in :func:`own_settings`."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with own_settings():
            return function(*args, **kwargs)

    return run
