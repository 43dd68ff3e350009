"""Scores as a component returns them, in any usual form, as one tensor (N,)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class RewardMisuse(ValueError):
    """A mistake in code, a component's or its caller's; never masked, since it would not pass."""


def read_scores(found: Any, count: int, name: str) -> Tensor:
    """The scores of ``count`` clips as a tensor (N,).

    Args:
        found: a tensor or NumPy array (N,) or (N, 1), or a list of N numbers in which None stands
            for no score; of one clip a single number too. Integers and booleans are numbers.
        count: N.
        name: of the component.

    Raises:
        RewardMisuse: for anything else.
    """
    try:
        scores = _to_tensor(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardMisuse(
            f"reward {name!r} must return {count} numbers, a torch.Tensor ({count},), got "
            f"{type(found).__name__}: {error}"
        ) from error
    if scores.is_complex():
        raise RewardMisuse(f"reward {name!r} must return real numbers, got {scores.dtype}")
    shape = tuple(scores.shape)
    if shape == (count, 1) or (shape == () and count == 1):
        scores, shape = scores.reshape(count), (count,)
    if shape != (count,):
        raise RewardMisuse(f"reward {name!r} must return shape ({count},), got {shape}")
    return scores


def _to_tensor(found: Any) -> Tensor:
    if isinstance(found, Tensor):
        return found
    if isinstance(found, str | bytes) or found is None:
        raise TypeError("expected numbers")
    if isinstance(found, Sequence):
        found = [_number(value) for value in found]
    array = np.asarray(found)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers, got an array of {array.dtype}")
    # float64, so that integers beyond float32 are rounded once, where scores become float32
    return torch.from_numpy(np.array(array, dtype=np.float64))


def _number(value: Any) -> Any:
    if value is None:
        return math.nan
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
