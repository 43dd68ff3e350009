"""Clips of the examination that were drawn before: all runs of a suite start at one model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor
from torch.nn import Module

from reelrl.rewards.cache import clip_key

KEPT = 16
"""Size of the cache: a run needs eleven entries, and the next run reuses the base model's four."""
_drawn: OrderedDict[str, Tensor] = OrderedDict()


def drawn(module: Module, facts: object, draw: Callable[[], Tensor]) -> Tensor:
    """The result of ``draw`` for these weights and facts, from the cache or made now.

    Args:
        module: whose weights decide the clips; read value for value.
        facts: all else that does: prompts, seeds, sampler. Told apart by ``repr``.
        draw: makes the clips.

    Returns:
        The same values to the bit either way, in memory of the caller's own.
    """
    key = clip_key(list(module.state_dict().values()), repr(facts))
    if key not in _drawn:
        _drawn[key] = draw()
    _drawn.move_to_end(key)
    while len(_drawn) > KEPT:
        _drawn.popitem(last=False)
    return _drawn[key].clone()
