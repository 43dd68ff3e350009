"""Data parallelism: the processes that train one policy together, and their exchange of numbers.

Each process collects and replays its share of an iteration's groups. Scores are gathered, so that
all of them estimate the same advantages and keep the same estimator state, and gradients are
summed, so that all of them take the same step. With one process every collective is a no-op, so
the code path is the same. Tensors travel as tensors; only small Python values are pickled.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes that train together.

    All methods but :meth:`part` wait for the other processes: each process must call them in the
    same order, never inside of a branch that only some of them take.

    Attributes:
        rank: number of this process.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0

    def part(self, total: int, name: str = "total") -> slice:
        """This process's share of ``total`` things: consecutive, and as large as everyone's.

        Raises:
            ValueError: if they cannot be shared out evenly; calls them ``name``.
        """
        if total % self.count:
            raise ValueError(
                f"{name} = {total} must be a multiple of the number of processes = {self.count}"
            )
        share = total // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def exchange(self, value: T) -> list[T]:
        """The value of every process, in rank order; tensors must be on the host."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, one after the other along axis 0.

        They must have one shape and dtype, as the shares of :meth:`part` have.
        """
        if self.count == 1:
            return tensor
        # NCCL knows accelerators alone, and gloo no booleans.
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        own = tensor.to(device).contiguous()
        flags = own.dtype is torch.bool
        own = own.view(torch.uint8) if flags else own
        everyone = own.new_empty(self.count * len(own), *own.shape[1:])
        dist.all_gather_into_tensor(everyone, own)
        return (everyone.view(torch.bool) if flags else everyone).to(tensor.device)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Replace every gradient by the sum over all processes."""
        if self.count == 1:
            return
        flags = [p.grad is not None for p in parameters]
        known = torch.tensor(flags, dtype=torch.int32, device="cpu")
        known = self.sum(known.to(parameters[0].device))
        under_way = []
        for parameter, known_to in zip(parameters, known.tolist(), strict=True):
            # Without any gradient an optimizer passes a parameter over; a zero would decay it.
            if known_to:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = own.contiguous()
                under_way.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in under_way:
            work.wait()

    def mean(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Numbers averaged over all processes: the same everywhere, whoever they were of."""
        if self.count == 1:
            return dict(metrics)
        everyone = self.exchange(dict(metrics))
        return {k: math.fsum(own[k] for own in everyone) / self.count for k in metrics}

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()


ALONE = Ranks()
"""This process by itself."""


@contextmanager
def launched(device: str = "cpu") -> Iterator[Ranks]:
    """The processes ``accelerate launch`` (or torchrun) started with this one; one if neither did.

    Args:
        device: of their training. ``"cuda"`` is a device of its own for each of them from then on;
            on the CPU they talk through gloo.

    Raises:
        ValueError: if several processes were asked for and one was started.
        RuntimeError: if accelerate knows of fewer processes than were started.
    """
    count = int(os.environ.get("WORLD_SIZE", "0"))
    # Accelerate sets it for several processes, even if it then starts a single one.
    if not count and {"MASTER_PORT", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys():
        raise ValueError(
            "accelerate was asked for several processes and started one, as it does without "
            "accelerators: add --multi_gpu, which starts all of them on the CPU too"
        )
    if count <= 1:
        yield ALONE
        return
    from accelerate import PartialState

    state = PartialState(cpu=torch.device(device).type == "cpu")
    if state.num_processes != count:
        raise RuntimeError(f"expected {count} processes on {device!r}, got {state.num_processes}")
    yield Ranks(state.process_index, state.num_processes)
    # Not after an error: the launcher ends the others, who may be waiting for this process.
    state.destroy_process_group()
