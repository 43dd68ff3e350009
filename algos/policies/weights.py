"""Sets of weights of one module: snapshots, their exponential average, and trading places.

Weights change places by pointer, so that a reference policy or an average costs its memory and no
second copy of the model's structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn import Parameter

Weights = dict[str, Tensor]


def snapshot(parameters: Mapping[str, Parameter]) -> Weights:
    """A detached copy of the parameters."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@contextmanager
def swapped(parameters: Mapping[str, Parameter], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Run with other weights in place; exit before `backward` on a graph of the own weights."""
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


class EMA:
    """Exponential moving average of the weights, kept in float32 or better.

    The decay is warmed up as (1 + n) / (10 + n) after n updates, so that a short run does not end
    with an average of the weights it started from.

    Args:
        parameters: the weights to average.
        decay: share of the average that an update keeps, in [0, 1).

    Raises:
        ValueError: for a decay outside of [0, 1).
    """

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay must be in [0, 1), got {decay}")
        self.parameters = parameters
        self.decay = decay
        self.updates = 0
        self.average = {
            name: tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            for name, tensor in snapshot(parameters).items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self.parameters.items():
            average = self.average[name]
            average.lerp_(parameter.detach().to(average.dtype), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run with the average in place of the weights, for evaluation.

        Never for collecting: log-probabilities belong to the policy that drew the actions.
        """
        cast = {name: self.average[name].to(p.dtype) for name, p in self.parameters.items()}
        with swapped(self.parameters, cast):
            yield


def averaged(ema: EMA | None) -> AbstractContextManager[None]:
    """Run with the average in place of the weights, if one is kept."""
    return nullcontext() if ema is None else ema.applied()
