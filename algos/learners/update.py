"""Optimizer steps: gradients in parts, and the reaction when one of them cannot be right.

A loss or gradient that is not finite skips the update and is counted; running out of memory halves
the micro-batch once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reelrl.algos.config import TrainerConfig
from reelrl.algos.learners.base import Numbers as ItemNumbers
from reelrl.algos.learners.base import Objective
from reelrl.algos.learners.component_gradients import (
    balanced,
    gradient_per_component,
    gram_matrix,
    overflowed,
)
from reelrl.algos.learners.schedule import rate_factor
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.policies.weights import EMA
from reelrl.algos.run.checkpoint import pack_optimizer, unpack_optimizer
from reelrl.algos.run.distributed import ALONE, Ranks

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Numbers = list[ItemNumbers]
Feedback = Callable[[Tensor], Tensor]
"""Takes the Gram matrix (K, K) of the components' gradients, gives their weights (K,)."""


class LearnerWarning(UserWarning):
    """Something in training went wrong and was dealt with."""


class TrainingError(RuntimeError):
    """A run cannot go on: it learns nothing, or its policy cannot act any longer."""


class Updater:
    """Optimizer, gradient scaler and average of the weights of one policy.

    Args:
        policy: its trainable weights are updated.
        config: of the trainer.
        ranks: processes whose gradients are summed; each computes the gradients of its own
            transitions.

    Attributes:
        updates: optimizer steps done.
        skipped: updates left out because loss or gradient was not finite.
        ema: average of the weights, or None.
        gradients: makes them in micro-batches.

    Raises:
        ValueError: for weights below float32.
    """

    def __init__(self, policy: FlowPolicy, config: TrainerConfig, ranks: Ranks = ALONE) -> None:
        self.config, self.ranks = config, ranks
        self.parameters = policy.trainable()
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        # bfloat16 has the range of float32, so only float16 needs a loss scale.
        half = policy.config.precision == "float16"
        self.scaler = torch.amp.GradScaler(policy.model.device.type, enabled=half)
        self.ema = EMA(policy.parameters, config.ema_decay) if config.ema_decay else None
        self.gradients = GradientMaker(config.micro_batch)
        self.updates = self.skipped = self._in_a_row = 0

    def __call__(
        self,
        objective: Objective,
        index: Int[Tensor, " M"],
        total: Float[Tensor, ""],
        feedback: Feedback | None = None,
    ) -> tuple[float, Numbers]:
        """One optimizer step.

        Args:
            objective: the loss.
            index: (M,) transitions of this step that are this process's, on the host.
            total: divisor of the loss.
            feedback: balance the gradients of the components by its answer.

        Returns:
            Length of the gradient before it was shortened (0 if skipped), and numbers per part, of
            all processes.

        Raises:
            TrainingError: if more than ``max_skipped`` updates in a row were skipped.
        """
        if feedback is None:
            loss, numbers = self.gradients(
                lambda part: objective(part, total), index, self._clear, self._backward
            )
            self.ranks.sum_gradients(self.parameters)
        else:
            loss, numbers = self._balance(objective, index, total, feedback)
        loss = self.ranks.sum(loss.to(self.parameters[0].device))
        return self._step(loss), _joined(self.ranks, numbers)

    def begin(self, iteration: int) -> float:
        """Set the learning rate of an iteration, and return it."""
        config = self.config
        rate = config.learning_rate * rate_factor(
            iteration,
            config.learning_rate_schedule,
            config.schedule_iterations,
            config.warmup_iterations,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """All that a checkpoint needs: tensors by file, and plain values."""
        optimizer, groups = pack_optimizer(self.optimizer)
        facts = {
            "optimizer_groups": groups,
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.updates if self.ema else 0,
            "updates": self.updates,
            "skipped": self.skipped,
            "skipped_in_a_row": self._in_a_row,
            "micro_batch": [self.gradients.micro_batch, self.gradients.halvings],
        }
        return {"optimizer": optimizer, "ema": self.ema.average if self.ema else {}}, facts

    def restore(
        self, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        """Go on from the result of :meth:`state`."""
        unpack_optimizer(self.optimizer, tensors["optimizer"], facts["optimizer_groups"])
        self.scaler.load_state_dict(facts["scaler"])
        if self.ema:
            for name, average in self.ema.average.items():
                average.copy_(tensors["ema"][name])
            self.ema.updates = facts["ema_updates"]
        self.updates, self.skipped = facts["updates"], facts["skipped"]
        self._in_a_row = facts["skipped_in_a_row"]
        self.gradients.micro_batch, self.gradients.halvings = facts["micro_batch"]

    def _clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, loss: Float[Tensor, ""]) -> None:
        torch.autograd.backward(self.scaler.scale(loss))

    def _balance(
        self,
        objective: Objective,
        index: Int[Tensor, " M"],
        total: Float[Tensor, ""],
        feedback: Feedback,
    ) -> tuple[Float[Tensor, ""], Numbers]:
        """Leave the balance of the components' gradients on the parameters."""

        def backward_of(k: int) -> None:
            if k < 0 and not objective.has_penalty:
                return
            self.gradients(
                lambda part: objective(part, total, only=k, kl=k < 0),
                index,
                self._clear,
                self._backward,
            )
            self.ranks.sum_gradients(self.parameters)

        *parts, penalty = gradient_per_component(backward_of, self.parameters, objective.components)
        if self.scaler.is_enabled() and overflowed([*parts, penalty]):
            # The loss scale was too large and gradients overflowed. The estimator must not see
            # them; left as they are, `_step` skips the update and the scaler lowers its scale.
            mixed = [torch.stack(part).sum(dim=0) for part in zip(*parts, strict=True)]
        else:
            gram = gram_matrix(parts)
            mixed = balanced(parts, feedback(gram), gram)
        with torch.no_grad():
            seen = self.gradients(
                lambda part: objective(part, total), index, lambda: None, lambda loss: None
            )
        for parameter, part, extra in zip(self.parameters, mixed, penalty, strict=True):
            # The penalty belongs to no component, so it is added after the balance.
            parameter.grad = part + extra
        return seen

    def _step(self, loss: Float[Tensor, ""]) -> float:
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        length: float
        # Both numbers in one transfer, so that the host waits for the device once.
        length, value = torch.stack([norm.double(), loss.double()]).tolist()
        if not (math.isfinite(length) and math.isfinite(value)):
            self._skip(value, length)
            return 0.0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.updates += 1
        self._in_a_row = 0
        if self.ema:
            self.ema.update()
        return length

    def _skip(self, loss: float, length: float) -> None:
        self.scaler.update()
        self._clear()
        self.skipped += 1
        self._in_a_row += 1
        warnings.warn(
            f"update skipped: loss {loss}, gradient norm {length}", LearnerWarning, stacklevel=4
        )
        if self._in_a_row > self.config.max_skipped:
            raise TrainingError(
                f"{self._in_a_row} updates in a row had a loss or gradient that is not finite; "
                "the last checkpoint is intact"
            )


class GradientMaker:
    """Backward passes over micro-batches, with one smaller try when memory runs out.

    Attributes:
        micro_batch: transitions per forward pass, of any steps; halved once if need be.
        halvings: how often that happened.
    """

    def __init__(self, micro_batch: int) -> None:
        self.micro_batch = micro_batch
        self.halvings = 0

    def __call__(
        self,
        part: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
        index: Int[Tensor, " M"],
        clear: Callable[[], None],
        backward: Callable[[Tensor], None],
    ) -> tuple[Float[Tensor, ""], list[dict[str, Tensor]]]:
        """Sum of the losses of all parts of ``index``, their gradients left on the parameters.

        Args:
            part: loss and numbers of some transitions.
            index: (M,) transitions on the host.
            clear: drops gradients; called first.
            backward: of one part's loss.

        Raises:
            torch.OutOfMemoryError: if half a micro-batch does not fit either.
        """
        while True:
            try:
                return self._pass(part, index, clear, backward)
            except torch.OutOfMemoryError:
                if self.halvings or self.micro_batch == 1:
                    raise
            # Outside of the handler, whose traceback keeps the tensors of the failed try alive.
            self.halvings += 1
            self.micro_batch //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(
                f"out of memory: micro-batch halved to {self.micro_batch}",
                LearnerWarning,
                stacklevel=2,
            )

    def _pass(
        self,
        part: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
        index: Int[Tensor, " M"],
        clear: Callable[[], None],
        backward: Callable[[Tensor], None],
    ) -> tuple[Float[Tensor, ""], list[dict[str, Tensor]]]:
        clear()
        total, numbers = torch.zeros((), dtype=torch.float64, device="cpu"), []
        # Of several processes some may have no transition with a signal.
        for chunk in torch.split(index, self.micro_batch) if len(index) else ():
            # `items` returns transitions in sorted order, and the signal must have the same one.
            loss, seen = part(chunk.sort().values)
            backward(loss)
            total = total.to(loss.device) + loss.detach()
            numbers.append(seen)
        return total, numbers


def _joined(ranks: Ranks, numbers: Numbers) -> Numbers:
    """The numbers of all processes; with one process, its numbers unchanged."""
    if ranks.count == 1:
        return numbers
    host = [{name: value.cpu() for name, value in part.items()} for part in numbers]
    return [part for parts in ranks.exchange(host) for part in parts]
