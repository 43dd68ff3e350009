"""Torch's ambient state kept away from scores: they are the same wherever a caller computes them.

Somebody else's mixed precision would round a score to three digits, and somebody else's default
device would put a component's tables where its clips are not. The default dtype cannot be set for
one thread alone; so every tensor of this package names its dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def settled(device: torch.device) -> Iterator[None]:
    """A context without mixed precision, in which new tensors are on the host.

    Args:
        device: of the clips.
    """
    with ExitStack() as stack:
        for kind in {"cpu", device.type}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # Looked at first: a default device is a mode that slows every call down.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
