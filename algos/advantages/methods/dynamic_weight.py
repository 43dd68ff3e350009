"""Weights that follow training: hypervolume of validation metrics, or gradients of the rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.masked import Array, Masked, to_tensor
from reelrl.algos.advantages.methods.group_relative import ScalarConfig, sum_as
from reelrl.algos.advantages.norm import NormSpec
from reelrl.algos.advantages.pipeline import Estimator
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.types import State
from reelrl.checks import Ge, Gt

if TYPE_CHECKING:
    from jaxtyping import Float


@register_estimator("dynamic_weight")
class DynamicWeight(Estimator):
    """A scalar or weights learnt between batches through :meth:`feedback`; the batch is GRPO.

    The trainer must call it: :class:`~reelrl.algos.grpo.GRPO` does not, and refuses this estimator.

    "hypervolume": everything is multiplied by 0.5 + 1.5 tanh(dHV), where dHV is the growth at
    the last validation of the hypervolume of a front whose first point is the reference.
    "gradient": w <- softmax(log w + lr score / mu), score_k = sum_l <g_k, g_l>.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Settings of both modes.

        Attributes:
            mode: "hypervolume" or "gradient".
            apply: multiply the "reward", as released, or the "advantage". Under a normalisation by
                the std the first is undone by it and changes nothing.
            capacity: points the front can hold; the oldest but the reference is dropped.
            lr: step size of the gradient weights.
            mu: their regularisation factor; larger is slower.
            every: gradients accumulated (averaged) per weight update.
        """

        mode: Literal["hypervolume", "gradient"] = "hypervolume"
        apply: Literal["reward", "advantage"] = "advantage"
        capacity: Annotated[int, Ge(2)] = 64
        lr: float = 1.0
        mu: Annotated[float, Gt(0)] = 1.0
        every: Annotated[int, Ge(1)] = 1

    source: ClassVar[str] = "arXiv 2509.11452"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hypervolume": {"mode": "hypervolume"},
        "hypervolume_repo": {"mode": "hypervolume", "apply": "reward"},
        "hypervolume_dr_grpo": {
            "mode": "hypervolume",
            "apply": "reward",
            "group": NormSpec(scale="none"),
        },
        "gradient": {"mode": "gradient"},
    }

    @property
    def needs_feedback(self) -> str:
        """Kind of feedback that the trainer must give :meth:`feedback`; without it this is GRPO."""
        return "gram" if self.config.mode == "gradient" else "metrics"

    def init_state(self, names: Sequence[str]) -> State:
        """Multiplier 1 and an empty front, or uniform weights."""
        state, count = super().init_state(names), len(names)
        if self.config.mode == "hypervolume":
            front = torch.full(
                (self.config.capacity, count), torch.nan, dtype=torch.float64, device="cpu"
            )
            one = torch.ones((), dtype=torch.float64, device="cpu")
            return {**state, "front": front, "multiplier": one, "hv": torch.zeros_like(one)}
        zeros = torch.zeros(count, dtype=torch.float64, device="cpu")
        seen = torch.zeros((), dtype=torch.int64, device="cpu")
        return {**state, "log_weights": zeros - np.log(count), "score": zeros, "seen": seen}

    def reset(self, state: State, names: Sequence[str], components: Sequence[str]) -> State:
        """A fresh front; weights from gradients know no scale and stay."""
        kept = self.config.mode == "gradient"
        return state if kept else super().reset(state, names, components)

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """GRPO with the weights or the multiplier of the state."""
        config = self.config
        if config.mode == "gradient":
            weights = work.weights * state["log_weights"].exp().to(work.weights.dtype)
            return sum_as(config, work, weights), state
        multiplier = state["multiplier"].to(work.weights.dtype)
        scaled = work.weights * multiplier if config.apply == "reward" else work.weights
        signal = sum_as(config, work, scaled)
        if config.apply == "advantage":
            values = signal.advantages.values * multiplier
            signal = replace(signal, advantages=Masked(values, signal.advantages.mask))
        return signal.noting(hv=state["hv"]), state

    def feedback(
        self, state: State, *, gram: Array | None = None, metrics: Array | None = None
    ) -> State:
        """Take in a validation (mode "hypervolume") or a gradient Gram matrix (mode "gradient").

        Args:
            state: the state to follow.
            gram: (K, K) <g_k, g_l> of the per-component policy gradients.
            metrics: (K,) validation metrics, higher better.

        Raises:
            ValueError: if the argument of this mode is missing, wrongly shaped or not finite.
        """
        if self.config.mode == "hypervolume":
            count = state["front"].shape[1]
            return self._validated(state, _expect(metrics, "metrics", (count,)))
        count = len(state["score"])
        return self._accumulated(state, _expect(gram, "gram", (count, count)))

    def _validated(self, state: State, point: Float[Tensor, " K"]) -> State:
        front = state["front"].cpu().numpy()
        known = front[~np.isnan(front).any(1)]
        metrics = point.cpu().numpy()
        if len(known) == 0:
            return {**state, "front": _store(front, metrics[None])}
        before = hypervolume(known[1:], known[0])
        gain = hypervolume(np.vstack([known[1:], metrics]), known[0]) - before
        if gain > 0:
            oldest = 1 if len(known) < self.config.capacity else 2
            kept = np.vstack([known[:1], known[oldest:], metrics])
            state = {**state, "front": _store(front, kept)}
        multiplier = torch.tensor(0.5 + 1.5 * np.tanh(gain), dtype=torch.float64, device="cpu")
        volume = torch.tensor(before + gain, dtype=torch.float64, device="cpu")
        return {**state, "multiplier": multiplier, "hv": volume}

    def _accumulated(self, state: State, gram: Float[Tensor, "K K"]) -> State:
        score = state["score"] + gram.sum(1).to(state["score"].device)
        seen = state["seen"] + 1
        due = seen >= self.config.every
        step = self.config.lr * score / (self.config.every * self.config.mu)
        moved = torch.log_softmax(state["log_weights"] + step, 0)
        return {
            **state,
            "log_weights": torch.where(due, moved, state["log_weights"]),
            "score": torch.where(due, 0.0, score),
            "seen": torch.where(due, 0, seen),
        }


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume dominated by (n, K) points above a reference, maximisation; exact, by slicing.

    The last axis is cut at every point's height and the slices are measured recursively.
    """
    if len(points) == 0:
        return 0.0
    boxes = np.maximum(np.asarray(points, dtype=np.float64) - reference, 0.0)
    if boxes.shape[1] == 1:
        return float(boxes.max())
    total, floor = 0.0, 0.0
    for height in np.unique(boxes[:, -1]):
        if height > floor:
            tall = boxes[boxes[:, -1] >= height, :-1]
            total += (height - floor) * hypervolume(tall, np.zeros(tall.shape[1]))
            floor = height
    return float(total)


def _store(front: np.ndarray, points: np.ndarray) -> Float[Tensor, "capacity K"]:
    full = np.full_like(front, np.nan)
    full[: len(points)] = points
    return torch.from_numpy(full)


def _expect(array: Array | None, name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = None if array is None else to_tensor(array).to(torch.float64)
    if tensor is None or tuple(tensor.shape) != shape:
        got = None if tensor is None else tuple(tensor.shape)
        raise ValueError(f"feedback needs {name} of shape {shape}, got {got}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"feedback needs finite {name}, got {tensor.tolist()}")
    return tensor
