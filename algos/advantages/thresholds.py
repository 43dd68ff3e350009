"""Thresholds learnt from the history of group means.

TaRoS calibrates its thresholds on the historical distribution of group-wise rewards and gives no
rule; of the two here one is this library's proposal, and the other is the rule of a third-party
version of v1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.types import Gather, State
from reelrl.checks import Ge, Within, check_fields

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Calibration:
    """How thresholds follow the history; all state is in the arrays of :meth:`init`.

    Attributes:
        rule: "quantile" of the last group means, or "gain": first batch mean + ``fraction`` times
            the moving average of the gain over it.
        quantile: which quantile, linearly interpolated; this and the next four of rule "quantile".
        min_groups: static thresholds are used until so many group means are known.
        capacity: length of the ring buffer.
        refresh_every: calls between two refreshes of the thresholds.
        frozen: keep the first thresholds for good.
        ema: weight of the old threshold (rule "quantile") or old gain (rule "gain").
        fraction: of the gain, of rule "gain".
    """

    rule: Literal["quantile", "gain"] = "quantile"
    quantile: Annotated[float, Within(0, 1, closed=True)] = 0.75
    min_groups: Annotated[int, Ge(1)] = 64
    capacity: Annotated[int, Ge(1)] = 4096
    refresh_every: Annotated[int, Ge(1)] = 1
    ema: Annotated[float, Within(0, 1)] = 0.0
    frozen: bool = False
    fraction: float = 0.7

    def __post_init__(self) -> None:
        check_fields(self)
        others = {
            "gain": ("quantile", "min_groups", "capacity", "refresh_every", "frozen"),
            "quantile": ("fraction",),
        }
        for name in others[self.rule]:
            if getattr(self, name) != getattr(type(self), name):  # a field's default
                raise ValueError(f"rule {self.rule!r} has no use for {name}, got {self}")
        if self.min_groups > self.capacity:
            raise ValueError(f"min_groups {self.min_groups} exceeds capacity {self.capacity}")

    def init(self, components: int) -> State:
        """Empty history for K components."""
        unknown = torch.full((components,), torch.nan, dtype=torch.float64, device="cpu")
        if self.rule == "gain":
            return {"baseline": unknown, "gain": torch.zeros_like(unknown)}
        return {
            "history": unknown.expand(self.capacity, components).clone(),
            "cursor": torch.zeros((), dtype=torch.int64, device="cpu"),
            "calls": torch.zeros((), dtype=torch.int64, device="cpu"),
            "tau": unknown.clone(),
        }

    def thresholds(self, state: State) -> Float[Tensor, " K"]:
        """(K,) thresholds; ``nan`` where none is known yet."""
        if self.rule == "gain":
            return state["baseline"] + self.fraction * state["gain"]
        return state["tau"]

    def update(self, state: State, means: Float[Tensor, "P K"], gather: Gather | None) -> State:
        """Take in the (P, K) group means of a batch; without a wait for the device."""
        means = means if gather is None else gather(means)
        if self.rule == "gain":
            return self._update_gain(state, means)
        history = state["history"].clone()
        rows = means[-self.capacity :].to(history.dtype)
        where = (
            state["cursor"] + torch.arange(len(rows), dtype=torch.int64, device=rows.device)
        ) % self.capacity
        history[where] = rows
        calls = state["calls"] + 1
        old, new = state["tau"], torch.nanquantile(history, self.quantile, dim=0)
        known = (~torch.isnan(history)).sum(0)
        due = (calls % self.refresh_every == 0) & (known >= self.min_groups)
        if self.frozen:
            due = due & torch.isnan(old)
        moved = torch.where(torch.isnan(old), new, self.ema * old + (1 - self.ema) * new)
        cursor = (state["cursor"] + len(rows)) % self.capacity
        tau = torch.where(due, moved, old)
        return {**state, "history": history, "cursor": cursor, "calls": calls, "tau": tau}

    def reset(self, state: State, components: Sequence[int]) -> State:
        """Forget everything about some components."""
        fresh = self.init(self.thresholds(state).shape[0])
        state = {key: value.clone() for key, value in state.items()}
        for key, value in fresh.items():
            if value.ndim:  # cursor and calls are shared by all components
                state[key][..., components] = value[..., components].to(state[key].device)
        return state

    def _update_gain(self, state: State, means: Float[Tensor, "P K"]) -> State:
        mean = torch.nanmean(means, 0) if len(means) else state["baseline"]
        baseline = torch.where(torch.isnan(state["baseline"]), mean, state["baseline"])
        moved = self.ema * state["gain"] + (1 - self.ema) * (mean - baseline)
        # The gain of an unscored component is unknown, not 0.
        gain = torch.where(torch.isnan(moved), state["gain"], moved)
        return {**state, "baseline": baseline, "gain": gain}
