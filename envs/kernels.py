r"""Step kernels: the distribution of the next latent given this one and the model's output.

Every kernel here is a Gaussian whose mean is linear in latent and output, so a noise schedule turns
it into a table of four numbers per step, computed once (:class:`Coefficients`).

The flow-matching kernels discretise one family of SDEs that share the marginals of the probability
flow :math:`dx = v\,d\sigma`, whatever the diffusion :math:`s(\sigma)` (Song et al. 2021; for flows
Liu et al. 2025, *Flow-GRPO*):

.. math::
    \mu = x + v\,dt + \frac{s(\sigma)^2}{2\sigma}\,\hat x_1\,dt, \qquad
    \mathrm{step\_std} = s(\sigma)\sqrt{-dt}

with :math:`dt = \sigma' - \sigma < 0` and the noise estimate
:math:`\hat x_1 = x + (1 - \sigma) v`. ``flow_sde``, ``dance_sde``, ``wan_sde`` and ``ode`` differ
in :math:`s` alone. ``cps`` instead draws a share of the next level's noise anew.

Two scales must not be confused: ``diffusion`` is :math:`s`, per square root of time; ``step_std``
is the standard deviation of the step, and the one densities and divergences are made of
(:mod:`reelrl.envs.steps`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from reelrl.naming import Registry

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Coefficients:
    """A kernel at given noise levels; as a table over a schedule, or one row per sample.

    Attributes:
        sigma: (M,) noise level the step starts from.
        latent_weight: (M,) factor of the latent in the mean.
        output_weight: (M,) factor of the model's output in the mean.
        diffusion: (M,) ``step_std`` per square root of the level's change.
        step_std: (M,) standard deviation of the step; zero where it is deterministic.
    """

    sigma: Float[Tensor, " M"]
    latent_weight: Float[Tensor, " M"]
    output_weight: Float[Tensor, " M"]
    diffusion: Float[Tensor, " M"]
    step_std: Float[Tensor, " M"]

    def at(self, index: Int[Tensor, " N"]) -> Coefficients:
        """Rows ``index`` (N,) of the table; samples of one batch may be at different steps."""
        return self._map(lambda column: column[index])

    def to(self, *args: Any) -> Coefficients:
        """All columns moved as by :meth:`torch.Tensor.to`."""
        return self._map(lambda column: column.to(*args))

    def index_of(self, sigma: Float[Tensor, " N"] | Float[Tensor, "N 1"]) -> Int[Tensor, " N"]:
        """(N,) step that starts at the level nearest to each of ``sigma`` (N,) or (N, 1)."""
        # The nearest and not an equal level, because observations carry it in float32.
        distance = self.sigma[None] - sigma.reshape(-1, 1).to(self.sigma.dtype)
        return distance.abs().argmin(dim=1)

    @property
    def stochastic(self) -> Bool[Tensor, " M"]:
        """(M,) True where the step has a density."""
        return self.step_std > 0

    def _map(self, change: Callable[[Tensor], Tensor]) -> Coefficients:
        return Coefficients(*(change(getattr(self, field.name)) for field in fields(self)))


class StepKernel(ABC):
    """A kernel, to be frozen into a table by a schedule.

    Attributes:
        has_density: False if no step of it is ever stochastic.
    """

    has_density: bool = True

    @abstractmethod
    def coefficients(
        self, sigma: Float[Tensor, " M"], following: Float[Tensor, " M"], ceiling: Float[Tensor, ""]
    ) -> Coefficients:
        """The kernel from levels ``sigma`` (M,) to ``following`` (M,).

        Args:
            sigma: levels in (0, 1].
            following: lower levels, 0 at the last step.
            ceiling: the highest level below 1 that the schedule has, as a scalar tensor.
        """

    def table(self, sigmas: Float[Tensor, " levels"]) -> Coefficients:
        """The kernel at all T steps of a schedule.

        Args:
            sigmas: (T + 1,) float64 from 1 down to 0, of
                :func:`~reelrl.envs.schedule.sigma_schedule`.

        Raises:
            ValueError: unless the levels fall strictly from exactly 1 to exactly 0.
        """
        if sigmas[0] != 1 or sigmas[-1] != 0 or not (sigmas.diff() < 0).all():
            raise ValueError(
                f"sigmas must fall strictly from exactly 1 to exactly 0, got {sigmas.tolist()}"
            )
        # Levels fall strictly from 1, so the second one is the highest below 1.
        return self.coefficients(sigmas[:-1], sigmas[1:], sigmas[1])


K = TypeVar("K", bound=Callable[..., StepKernel])
KERNELS: Registry[Callable[..., StepKernel]] = Registry("kernel")
"""Name of a kernel -> its class."""


def register_kernel(name: str) -> Callable[[K], K]:
    """Class decorator that makes ``make_kernel(name)`` build the class.

    Raises:
        ValueError: if the name is taken by another kernel.
    """
    return KERNELS.register(name)


@dataclass(frozen=True)
class FlowKernel(StepKernel):
    """The SDE family of the module's docstring; a subclass defines the diffusion.

    Attributes:
        stochastic_last: add noise in the step to level 0 too. Off by default, because nothing is
            left to remove it: it stays in the clip.
    """

    stochastic_last: bool = False

    @abstractmethod
    def diffusion(
        self, sigma: Float[Tensor, " M"], ceiling: Float[Tensor, ""]
    ) -> Float[Tensor, " M"]:
        """Diffusion s at the levels ``sigma`` (M,)."""

    def coefficients(
        self, sigma: Float[Tensor, " M"], following: Float[Tensor, " M"], ceiling: Float[Tensor, ""]
    ) -> Coefficients:
        """See :meth:`StepKernel.coefficients`."""
        change = following - sigma
        s = self.diffusion(sigma, ceiling)
        if not self.stochastic_last:
            s = torch.where(following > 0, s, 0.0)
        # The noise estimate is x + (1 - sigma) v, so the drift enters the weights of both.
        drift = s * s * change / (2 * sigma)
        std = s * (-change).sqrt()
        return Coefficients(sigma, 1 + drift, change + drift * (1 - sigma), s, std)


@register_kernel("ode")
@dataclass(frozen=True)
class ODE(FlowKernel):
    """No noise: an Euler step of the probability flow. It has no density."""

    has_density = False

    def diffusion(
        self, sigma: Float[Tensor, " M"], ceiling: Float[Tensor, ""]
    ) -> Float[Tensor, " M"]:
        """Zero."""
        return torch.zeros_like(sigma)


@register_kernel("flow_sde")
@dataclass(frozen=True)
class FlowSDE(FlowKernel):
    r"""Flow-GRPO (Liu et al. 2025): :math:`s = \eta \sqrt{\sigma / (1 - \sigma^*)}`.

    :math:`\sigma^* = \min(\sigma, \sigma_1)` is clamped to the schedule's highest level below 1:
    the diffusion is infinite at 1, and huge at a level that only rounds to 1.

    Attributes:
        eta: noise level; a tensor (N,) gives every sample its own.
    """

    eta: float | Float[Tensor, " N"] = 0.7

    def __post_init__(self) -> None:
        check_eta(self.eta)

    def diffusion(
        self, sigma: Float[Tensor, " M"], ceiling: Float[Tensor, ""]
    ) -> Float[Tensor, " M"]:
        """See the class."""
        return self.eta * (sigma / (1 - torch.minimum(sigma, ceiling))).sqrt()


@register_kernel("dance_sde")
@dataclass(frozen=True)
class DanceSDE(FlowKernel):
    r"""DanceGRPO (Xue et al. 2025): constant :math:`s = \eta`.

    Attributes:
        eta: noise level; a tensor (N,) gives every sample its own.
    """

    eta: float | Float[Tensor, " N"] = 0.3

    def __post_init__(self) -> None:
        check_eta(self.eta)

    def diffusion(
        self, sigma: Float[Tensor, " M"], ceiling: Float[Tensor, ""]
    ) -> Float[Tensor, " M"]:
        """See the class."""
        return self.eta * torch.ones_like(sigma)


@register_kernel("wan_sde")
@dataclass(frozen=True)
class WanSDE(FlowKernel):
    r"""Flow-GRPO's kernel for Wan: :math:`s = \sigma_1 \sigma`, without a knob."""

    def diffusion(
        self, sigma: Float[Tensor, " M"], ceiling: Float[Tensor, ""]
    ) -> Float[Tensor, " M"]:
        """See the class."""
        return ceiling * sigma


@register_kernel("cps")
@dataclass(frozen=True)
class CPS(StepKernel):
    r"""Coefficient-preserving sampling (Wang and Yu 2025): no noise beyond the level's own.

    :math:`\mathrm{step\_std} = \sigma' \sin(\eta \pi / 2)` and
    :math:`\mu = (1 - \sigma') \hat x_0 + \sqrt{\sigma'^2 - \mathrm{step\_std}^2}\, \hat x_1`, with
    :math:`\hat x_0 = x - \sigma v`. The last step is deterministic by itself. The marginals are
    exact where the clip is known given the latent, at any number of steps. Where it is not, the
    estimates vary less than the clips and noises that they estimate, and since the fresh noise does
    not shrink with the step, finer steps do not mend it: of normal data with eta 0.7 a quarter of
    the variance is lost.

    Attributes:
        eta: share of the noise that is drawn anew, in [0, 1]; a tensor (N,) gives every sample its
            own.
    """

    eta: float | Float[Tensor, " N"] = 0.7

    def __post_init__(self) -> None:
        check_eta(self.eta, highest=1.0)

    def coefficients(
        self, sigma: Float[Tensor, " M"], following: Float[Tensor, " M"], ceiling: Float[Tensor, ""]
    ) -> Coefficients:
        """See :meth:`StepKernel.coefficients`."""
        angle = torch.as_tensor(self.eta, dtype=sigma.dtype, device=sigma.device) * (math.pi / 2)
        std = following * angle.sin()
        kept = following * angle.cos()
        latent_weight = 1 - following + kept
        # The mean with both estimates written out in the latent x and the output v.
        output_weight = kept * (1 - sigma) - sigma * (1 - following)
        # CPS has no diffusion of its own; this is the one that gives its step width.
        diffusion = std / (sigma - following).sqrt()
        return Coefficients(sigma, latent_weight, output_weight, diffusion, std)


def make_kernel(name: str, **config: Any) -> StepKernel:
    """Build a kernel by name.

    Args:
        name: a key of :data:`KERNELS`, of which :func:`register_kernel` adds more.
        **config: its attributes, such as ``eta``.

    Raises:
        ValueError: for an unknown name, an attribute the kernel does not have, or one out of range.
    """
    kind = KERNELS.find(name)
    try:
        return kind(**config)
    except TypeError as error:
        raise ValueError(f"kernel {name!r}: {error}") from error


def check_eta(eta: float | Tensor, highest: float = math.inf) -> None:
    """Raise ValueError unless a number ``eta`` is in [0, highest]; tensors are not looked at."""
    if not isinstance(eta, Tensor) and not (0 <= eta <= highest and math.isfinite(eta)):
        raise ValueError(f"eta must be a number from 0 to {highest:g}, got {eta}")
