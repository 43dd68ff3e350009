"""A box with one bound for all its entries that costs no memory, whatever its shape.

``gymnasium.spaces.Box`` keeps two bounds and two flags per entry: 10 bytes each. The latent
of a Wan-1.3B clip has two million entries, and a batch of sub-environments many times that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.vector.utils.space_utils import batch_space


class UniformBox(Box):
    """A :class:`gymnasium.spaces.Box` whose bounds are views of two numbers.

    It samples, contains, batches, flattens and compares like the Box it replaces.

    Args:
        low: lower bound of every entry; may be -inf.
        high: upper bound of every entry; may be inf.
        shape: of an element.
        dtype: floating point type of an element.
        seed: of :meth:`sample`.
    """

    def __init__(
        self,
        low: float,
        high: float,
        shape: Sequence[int],
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self._shape = tuple(int(size) for size in shape)
        self._bounds = (float(low), float(high))
        self._spread_bounds()
        # Box.__init__ would fill four arrays of the full shape.
        Space.__init__(self, self._shape, self.dtype, seed)

    def _spread_bounds(self) -> None:
        low, high = self._bounds
        self.low = np.broadcast_to(np.array(low, self.dtype), self._shape)
        self.high = np.broadcast_to(np.array(high, self.dtype), self._shape)
        self.bounded_below = np.broadcast_to(np.isfinite(low), self._shape)
        self.bounded_above = np.broadcast_to(np.isfinite(high), self._shape)
        self.low_repr: Any = str(low)
        self.high_repr: Any = str(high)

    def __getstate__(self) -> dict[str, Any]:
        # Copying a broadcast array materialises it, so copies carry the two numbers instead.
        arrays = ("low", "high", "bounded_below", "bounded_above")
        return {key: value for key, value in self.__dict__.items() if key not in arrays}

    def __setstate__(self, state: Iterable[tuple[str, Any]] | Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._spread_bounds()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, UniformBox):
            return (self._bounds, self.shape, self.dtype) == (
                other._bounds,
                other.shape,
                other.dtype,
            )
        return super().__eq__(other)


@batch_space.register(UniformBox)
def _batch_uniform_box(space: UniformBox, n: int = 1) -> UniformBox:
    """``n`` elements as one: (n, *shape), the same bounds, and a copy of the generator."""
    low, high = space._bounds
    return UniformBox(low, high, (n, *space.shape), space.dtype, deepcopy(space.np_random))
