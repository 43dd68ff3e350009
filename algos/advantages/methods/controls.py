"""Controls for experiments: a null that cannot learn, and weights that do not adapt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work
from reelrl.algos.advantages.masked import Masked, constant, to_tensor
from reelrl.algos.advantages.methods.group_relative import ScalarConfig, sum_as
from reelrl.algos.advantages.pipeline import Estimator, EstimatorConfig
from reelrl.algos.advantages.registry import make_estimator, register_estimator
from reelrl.algos.advantages.types import State

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@register_estimator("random_sign")
class RandomSign(Estimator):
    """The null: magnitudes of another estimator's advantages, fair random signs.

    Whatever a training run gains under it is not learnt from the rewards. Signs are a hash of seed,
    step, prompt and member, so they need no generator and do not depend on how a batch is split, as
    long as ``prompt_ids`` are given; two groups of one prompt in a batch have the same signs.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(EstimatorConfig):
        """Settings of the null.

        Attributes:
            base: name (and preset) of the estimator whose magnitudes are used.
            seed: of the signs.
        """

        base: str = "grpo"
        seed: int = 0

    source: ClassVar[str] = "control of this library"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.base = make_estimator(self.config.base)
        if self.base.loss_mode == "per_component" or self.base.needs_component_gradients:
            raise ValueError(
                f"random_sign needs a base with one summed loss, got {self.base.name!r}"
            )

    @property
    def requires(self) -> frozenset[str]:
        """The base's requirements."""
        return super().requires | self.base.requires

    @property
    def needs_feedback(self) -> str:
        """The base's needs: without them the magnitudes are another estimator's."""
        return self.base.needs_feedback

    def init_state(self, names: Sequence[str]) -> State:
        """The state of the base."""
        return self.base.init_state(names)

    def reset(self, state: State, names: Sequence[str], components: Sequence[str]) -> State:
        """As the base does."""
        return self.base.reset(state, names, components)

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """The base's signal with other signs."""
        # The whole of the base, so that its preset's credit and steps count too.
        _, signal, state = self.base.run(work, state)
        values = signal.advantages.values
        sign = self._signs(work, values)
        flipped = Masked(values.abs() * sign, signal.advantages.mask)
        return replace(signal, advantages=flipped), state

    def _signs(self, work: Work, values: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        device = values.device
        prompts = torch.arange(values.shape[0], dtype=torch.int64, device=device)
        if work.batch.prompt_ids is not None:
            prompts = to_tensor(work.batch.prompt_ids, device).to(torch.int64)
        inner = max(1, values[:1, :1].numel()) if values.numel() else 1
        cells = torch.arange(values.shape[1] * inner, dtype=torch.int64, device=device)
        key = _mix(torch.full((1, 1), self.config.seed, device=device, dtype=torch.int64))
        for part in (torch.full_like(key, work.batch.step), prompts[:, None], cells[None]):
            key = _mix(key ^ _mix(part + _GOLDEN))
        return torch.where((key & 1) == 1, 1.0, -1.0).to(values.dtype).reshape(values.shape)


@register_estimator("fixed_weights")
class FixedWeights(Estimator):
    """GRPO with weights from the config instead of the batch.

    Set to the time average of an adaptive estimator's weights, it tells whether the adapting does
    anything. The preset "rescaled" is ``taros`` without its weights: bounds to [0, 1], then a sum.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ScalarConfig):
        """Settings of the control.

        Attributes:
            weights: K weights, in the order of the components; None means 1 / K each.
        """

        weights: tuple[float, ...] | None = None

    source: ClassVar[str] = "control of this library"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rescaled": {"transforms": ("rescale",)}}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Sum with the configured weights, then normalise."""
        config, count = self.config, len(work.names)
        weights = config.weights or (1 / count,) * count
        if len(weights) != count:
            raise ValueError(f"weights must have {count} entries for {work.names}, got {weights}")
        fixed = constant(weights, work.weights)
        return sum_as(config, work, fixed), state


# splitmix64's constants as signed 64-bit integers; torch multiplies modulo 2^64.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_M1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_M2 = 0x94D049BB133111EB - (1 << 64)


def _mix(key: Int[Tensor, " *shape"]) -> Int[Tensor, " *shape"]:
    """The finaliser of splitmix64 (Steele et al. 2014), elementwise on int64."""
    key = (key ^ _shift(key, 30)) * _M1
    key = (key ^ _shift(key, 27)) * _M2
    return key ^ _shift(key, 31)


def _shift(key: Int[Tensor, " *shape"], bits: int) -> Int[Tensor, " *shape"]:
    """Logical right shift; torch's own keeps the sign."""
    return (key >> bits) & ((1 << (64 - bits)) - 1)
