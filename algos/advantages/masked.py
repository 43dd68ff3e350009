"""The one place that knows about NumPy and torch.

Everything behind this file computes on torch tensors in float64; NumPy arrays come in without a
copy and leave as NumPy arrays. A missing score is carried as a boolean mask beside zero-filled
values, and the mask is ``None`` when nothing is missing: complete data never pays for bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Array = Any
"""A ``numpy.ndarray`` or a ``torch.Tensor``."""

LIMIT = 1e100
"""Largest magnitude taken: sums of squares of anything below stay finite in float64."""

_CHUNK = 1 << 20
"""Elements per scratch buffer (8 MiB): large enough to thread, small enough to stay mapped."""


def to_tensor(array: Array, device: torch.device | None = None) -> Tensor:
    """A detached torch view of ``array`` (a copy where NumPy's memory cannot be shared).

    Raises:
        TypeError: for anything that is not real, numeric and rectangular.
    """
    if isinstance(array, Tensor):
        if array.is_complex():
            raise TypeError(f"expected real numbers, got {array.dtype}")
        tensor = array.detach()
        return tensor if device is None else tensor.to(device, non_blocking=True)
    try:
        data = np.asarray(array)
    except ValueError as error:
        raise TypeError(f"expected a rectangular array of numbers: {error}") from error
    if data.dtype.kind not in "fiub":
        raise TypeError(f"expected an array of real numbers, got dtype {data.dtype}")
    if data.dtype.itemsize > 8 or data.dtype.kind == "u" or not data.dtype.isnative:
        data = data.astype(np.float64)
    # torch shares memory only with writable arrays of positive strides.
    if not data.flags.writeable or any(stride < 0 for stride in data.strides):
        data = data.copy()
    tensor = torch.from_numpy(data)
    return tensor if device is None else tensor.to(device, non_blocking=True)


def statistics_dtype(device: torch.device) -> torch.dtype:
    """float64, except on devices that have none (Apple's ``mps``)."""
    return torch.float32 if device.type == "mps" else torch.float64


def output_dtype(array: Array) -> torch.dtype:
    """The dtype of advantages: the rewards' dtype, at least float32; float64 for integers."""
    dtype = to_tensor(array).dtype
    if not dtype.is_floating_point:
        return torch.float64
    return torch.float32 if dtype.itemsize < 4 else dtype


def like(tensor: Tensor, original: Array, dtype: torch.dtype | None = None) -> Array:
    """``tensor`` as the kind of array ``original`` is, saturating rather than overflowing.

    A float64 advantage beyond the range of a float32 output becomes the largest float32, not inf.
    """
    if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype:
        top = torch.finfo(dtype).max
        tensor = tensor.clamp(-top, top).to(dtype)
    return tensor if isinstance(original, Tensor) else tensor.cpu().numpy()


@dataclass(frozen=True)
class Masked:
    """Numbers of which some are missing.

    Attributes:
        values: float64, zero where missing.
        mask: bool of the same shape, True where present; None if nothing is missing.
        size: of sums, the magnitudes that were summed: a number that is small beside them is
            rounding. None if the values are no sums; whatever changes values forgets it.
    """

    values: Float[Tensor, " *shape"]
    mask: Bool[Tensor, " *shape"] | None = None
    size: Float[Tensor, " *shape"] | None = None

    @classmethod
    def of(
        cls, values: Float[Tensor, " *shape"], present: Bool[Tensor, " *shape"] | None
    ) -> Masked:
        """Zero-fill ``values`` outside ``present``."""
        if present is None:
            return cls(values)
        return cls(torch.where(present, values, torch.zeros_like(values)), present)

    @property
    def present(self) -> Tensor:
        """The mask, made if there is none."""
        return torch.ones_like(self.values, dtype=torch.bool) if self.mask is None else self.mask

    def with_nan(self) -> Tensor:
        """Values with ``nan`` where missing; not a copy if nothing is."""
        return self.values if self.mask is None else self.values.masked_fill(~self.mask, torch.nan)

    def map(self, function: Callable[[Tensor], Tensor]) -> Masked:
        """Apply an elementwise function; missing stays missing."""
        return Masked.of(function(self.values), self.mask)

    def share(self, flags: Tensor) -> Float[Tensor, ""]:
        """Share of present entries where ``flags`` (bool, same shape) holds; 0 of nothing."""
        dtype = self.values.dtype
        held = (flags if self.mask is None else flags & self.mask).sum().to(dtype)
        count = self.values.numel() if self.mask is None else self.mask.sum()
        return held / (max(1, count) if isinstance(count, int) else count.clamp(min=1).to(dtype))

    @property
    def sizes(self) -> Tensor:
        """Magnitudes beside which a difference of values is rounding or not."""
        return self.values.abs() if self.size is None else self.size

    def drop(self, keep: Tensor) -> Masked:
        """Also treat everything outside ``keep`` as missing."""
        kept = Masked.of(self.values, keep if self.mask is None else self.mask & keep)
        return replace(kept, size=self.size)


def scored(array: Array, what: str, device: torch.device | None = None) -> Masked:
    """Open an array of scores: float64, ``nan`` means "not scored", infinity is an error.

    On the CPU one pass settles whether anything is missing or infinite. On an accelerator asking
    would wait for the device, so the mask is always built there and a value that is infinite or
    above :data:`LIMIT` counts as not scored; ``RewardBatch.validate`` asks, and waits once.

    Raises:
        ValueError: on the CPU, for an infinite value or one above :data:`LIMIT` in magnitude.
    """
    raw = to_tensor(array, device)
    values = raw.to(statistics_dtype(raw.device))
    if raw.device.type == "cpu":
        flat = values.reshape(-1)
        # One number tells all: nan and inf fail the comparison, and so does a huge square.
        if bool(torch.dot(flat, flat) <= LIMIT**2):
            return Masked(values)
        check_magnitude(values, what)
        present = ~torch.isnan(values)
        return Masked(values) if bool(present.all()) else Masked.of(values, present)
    return Masked.of(values, values.abs() <= LIMIT)


def check_magnitude(values: Tensor, what: str) -> None:
    """Refuse infinities and values whose squares would overflow.

    Raises:
        ValueError: naming the count and the first offending index and value.
    """
    bad = values.abs() > LIMIT
    if bool(bad.any()):
        index = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{what} must be finite and at most {LIMIT:g} in magnitude (nan means not scored); got "
            f"{int(bad.sum())} that are not, the first {float(values[index])!r} at index {index}"
        )


def group_sum(values: Float[Tensor, " P G *rest"]) -> Float[Tensor, " P 1 *rest"]:
    """Sum over the group axis 1, kept: (P, G, ...) -> (P, 1, ...).

    A product with a row of ones: torch's own reduction over a middle axis with a short inner one is
    three times slower.
    """
    ones = torch.ones(1, values.shape[1], dtype=values.dtype, device=values.device)
    rows = values.reshape(*values.shape[:2], max(1, _inner(values)))
    if 0 in rows.shape[1:]:
        return values.sum(1, keepdim=True)
    return (ones @ rows).reshape(values.shape[0], 1, *values.shape[2:])


def group_top(values: Float[Tensor, " P G *rest"]) -> Float[Tensor, " P 1 *rest"]:
    """Largest over the group axis 1, kept; 0 of an empty group. For values of at least 0."""
    if not values.shape[1]:
        return values.sum(1, keepdim=True)
    return values.amax(1, keepdim=True)


def group_sum_of(
    function: Callable[..., Tensor], values: Float[Tensor, " P G *rest"]
) -> Float[Tensor, " P 1 *rest"]:
    """``group_sum(function(values))`` without a full-size temporary on the CPU.

    Fresh pages cost more than the arithmetic, so large inputs go through one small buffer.

    Args:
        function: elementwise, taking ``out=``: ``torch.square`` or ``torch.abs``.
        values: (P, G, ...).
    """
    per_prompt = max(1, values[:1].numel())
    step = max(1, _CHUNK // per_prompt)
    if values.device.type != "cpu" or step >= values.shape[0] or not values.is_contiguous():
        return group_sum(function(values))
    total = values.new_empty(values.shape[0], 1, *values.shape[2:])
    scratch = torch.empty_like(values[:step])
    for start in range(0, values.shape[0], step):
        part = values[start : start + step]
        buffer = scratch[: part.shape[0]]
        function(part, out=buffer)
        total[start : start + step] = group_sum(buffer)
    return total


def group_count(x: Masked) -> Float[Tensor, "P 1 ..."]:
    """Members present per group, kept: (P, 1, ...) float64."""
    if x.mask is not None:
        return group_sum(x.mask.to(x.values.dtype))
    shape = (x.values.shape[0], 1, *x.values.shape[2:])
    return x.values.new_full((1,), x.values.shape[1]).expand(shape)


def blocks(x: Masked) -> Iterator[Masked]:
    """``x`` in runs of prompts that fit the cache on the CPU; whole on an accelerator or if small.

    For work that treats every group by itself: temporaries then are reused instead of mapped anew.
    """
    prompts, step = x.values.shape[0], max(1, _CHUNK // 2 // max(1, x.values[:1].numel()))
    if x.values.device.type != "cpu" or prompts <= step:
        yield x
        return
    for start in range(0, prompts, step):
        part = slice(start, start + step)
        mask, size = (None if t is None else t[part] for t in (x.mask, x.size))
        yield Masked(x.values[part], mask, size)


def constant(values: Any, like: Tensor) -> Tensor:
    """A small tensor of Python numbers on the device of ``like``, without a wait for the device."""
    return torch.tensor(values, dtype=like.dtype, device="cpu").to(like.device, non_blocking=True)


def safe_divide(
    top: Float[Tensor, " *shape"], bottom: Float[Tensor, " *shape"]
) -> Float[Tensor, " *shape"]:
    """``top / bottom``, and 0 where ``bottom`` is 0."""
    zero = bottom == 0
    return torch.where(zero, torch.zeros_like(top), top / torch.where(zero, 1.0, bottom))


def _inner(values: Tensor) -> int:
    """Number of elements per (prompt, member)."""
    size = 1
    for length in values.shape[2:]:
        size *= length
    return size
