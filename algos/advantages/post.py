"""Steps in advantage space that compose behind any estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.masked import Masked, group_sum, group_top, safe_divide
from reelrl.algos.advantages.names import make_step
from reelrl.checks import Ge, Gt, check_fields
from reelrl.naming import Registry

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Post(ABC):
    """A pure function from a signal to another one.

    Attributes:
        name: registry name.
        needs: parts that a batch must have.
        drops_only: True if all it does is to leave samples out.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    drops_only: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, work: Work, signal: Signal) -> Signal:
        """The changed signal."""


C = TypeVar("C", bound=type[Post])
POSTS: Registry[type[Post]] = Registry("post step")
"""Name of a post step -> its class."""


def register_post(name: str) -> Callable[[C], C]:
    """Class decorator that makes ``make_post(name)`` build the class.

    Raises:
        ValueError: if the name is taken by another class.
    """

    def register(cls: C) -> C:
        POSTS.register(name)(cls)
        cls.name = name
        return cls

    return register


def make_post(spec: Any) -> Post:
    """Build a post step from an instance, a name, or a dict with ``name`` and its settings.

    Raises:
        ValueError: for an unknown name or setting.
    """
    # A base class is abstract, which the checker takes for an attempt to build one.
    return make_step(POSTS, Post, spec)  # type: ignore[type-abstract]


def list_posts() -> list[str]:
    """Names of all post steps, sorted."""
    return list(POSTS)


@register_post("clip")
@dataclass(frozen=True)
class Clip(Post):
    """A := clip(A, -limit, limit). After a ddof 1 group z-score, 5 can bind only for G >= 27.

    Attributes:
        limit: bound on the magnitude.
    """

    limit: Annotated[float, Gt(0)] = 5.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, work: Work, signal: Signal) -> Signal:
        """Clip, noting how many samples that changed."""
        values = signal.advantages.values
        clipped = signal.advantages.share(values.abs() > self.limit)
        bounded = Masked(values.clamp(-self.limit, self.limit), signal.advantages.mask)
        return replace(signal, advantages=bounded).noting(frac_clipped=clipped)


@register_post("best_of_n")
@dataclass(frozen=True)
class BestOfN(Post):
    """Keep the n / 2 highest and n / 2 lowest advantages; the kept set is not renormalised.

    DanceGRPO trains on the best and worst 8 of 24 (arXiv 2505.07818); its code ranks over the local
    batch, not per prompt.

    Attributes:
        n: how many to keep; even.
        scope: rank within each "group" or over the "batch" of this call.
    """

    n: Annotated[int, Ge(2)] = 8
    scope: Literal["group", "batch"] = "group"
    drops_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.n % 2:
            raise ValueError(f"n must be even, got {self.n}")

    def __call__(self, work: Work, signal: Signal) -> Signal:
        """Drop the middle; the earlier of equals counts as the higher."""
        advantages = signal.advantages
        values, present = advantages.values, advantages.present
        shape = values.shape
        if self.scope == "batch":
            values, present = values.reshape(1, -1), present.reshape(1, -1)
        half = self.n // 2
        # One order for both ends: with two, equals would be picked twice and too few kept.
        rank = _rank(torch.where(present, _rounded(values), -torch.inf))
        ends = (rank < half) | (rank >= present.sum(1, keepdim=True) - half)
        return drop(signal, (ends & present).reshape(shape))


@register_post("keep_ratio")
@dataclass(frozen=True)
class KeepRatio(Post):
    """A := A * (kept / valid members of the group), GD2PO's prompt weight (arXiv 2606.16771).

    Without a step before it that drops samples this changes nothing.
    """

    def __call__(self, work: Work, signal: Signal) -> Signal:
        """Scale each group by the share of it that was kept."""
        if signal.sample_weight is None:
            return signal
        ratio = keep_ratio(signal.sample_weight, signal.advantages.present)
        scaled = Masked(signal.advantages.values * ratio, signal.advantages.mask)
        return replace(signal, advantages=scaled)


def drop(signal: Signal, keep: Bool[Tensor, "P G ..."]) -> Signal:
    """Zero the advantages outside ``keep`` and record it as the sample weight."""
    weight = keep.to(signal.advantages.values.dtype)
    if signal.sample_weight is not None:
        weight = weight * signal.sample_weight
    kept = Masked(signal.advantages.values * weight, signal.advantages.mask)
    return replace(signal, advantages=kept, sample_weight=weight)


def keep_ratio(
    weight: Float[Tensor, " P G *rest"], present: Bool[Tensor, " P G *rest"]
) -> Float[Tensor, " P 1 *rest"]:
    """(P, 1[, T]) share of the valid members of each group that was kept."""
    valid = present.to(weight.dtype)
    return safe_divide(group_sum(weight * valid), group_sum(valid))


def _rounded(values: Float[Tensor, " P G *rest"]) -> Float[Tensor, " P G *rest"]:
    """Values in steps of a billionth of their group's largest: less than that is rounding."""
    top = group_top(values.abs())
    return torch.round(values / torch.where(top > 0, 1e-9 * top, 1.0))


def _rank(values: Float[Tensor, " P G *rest"]) -> Int[Tensor, " P G *rest"]:
    """Position of each member in its group's order from the top, axis 1, ties in member order."""
    order = values.argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(values.shape[1], dtype=torch.int64, device=values.device)
    positions = positions.reshape(1, -1, *[1] * (values.ndim - 2)).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions)
