r"""Policy losses and penalties, one value per item; the caller weighs and averages them.

An item is one denoising step of one clip. The ratio is :math:`r = \exp(\Delta \log p)` where the
log-density was reduced over the D latent dimensions as the policy's ``reduction`` says. That choice
scales the spread of :math:`\log r`, so clip ranges are given in units that do not depend on it or
on D, see :func:`clip_range_of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from reelrl.envs.steps import Reduction, Step, gaussian_kl

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

StepWeight = Literal["uniform", "inverse_dt", "step_std"]


def clip_range_of(epsilon: float, dimensions: int, reduction: Reduction) -> float:
    r"""Clip range of a ratio, from one that transfers between latent sizes and reductions.

    A policy change of :math:`\delta = \Delta\mu / \mathrm{step\_std}` per dimension spreads
    :math:`\log r` by :math:`\mathrm{rms}(\delta)` times :math:`1 / \sqrt D` for ``"mean"``, 1 for
    ``"sum_sqrt_d"`` and :math:`\sqrt D` for ``"sum"``. So ``epsilon`` clips the same changes
    everywhere: Flow-GRPO's 1e-4 at 512x512 pixels (D = 65536, mean) is an epsilon of 0.0256.

    Args:
        epsilon: clip range in units of :math:`\mathrm{rms}(\delta)`.
        dimensions: D.
        reduction: of the log-density.

    Raises:
        ValueError: for a range that is not positive, or an unknown reduction.
    """
    if not epsilon > 0:
        raise ValueError(f"clip range must be positive, got {epsilon}")
    return epsilon * _spread_of(dimensions, reduction)


def unreduce_factor(dimensions: int, reduction: Reduction) -> float:
    r"""Factor that turns a reduced log-density back into the sum over all D dimensions, in nats.

    D for ``"mean"``, :math:`\sqrt D` for ``"sum_sqrt_d"``, 1 for ``"sum"``.

    Args:
        dimensions: D.
        reduction: of the log-density.

    Raises:
        ValueError: for an unknown reduction.
    """
    return math.sqrt(dimensions) / _spread_of(dimensions, reduction)


def _spread_of(dimensions: int, reduction: Reduction) -> float:
    """Spread of a log-ratio of which each dimension has changed by one step width."""
    root = math.sqrt(dimensions)
    scales = {"mean": 1 / root, "sum_sqrt_d": 1.0, "sum": root}
    if reduction not in scales:
        raise ValueError(f"reduction must be one of {', '.join(scales)}, got {reduction!r}")
    return scales[reduction]


def clipped_loss(
    log_ratio: Float[Tensor, "M ..."], advantages: Float[Tensor, "M ..."], clip: float
) -> Float[Tensor, "M ..."]:
    r"""PPO's pessimistic bound (Schulman et al. 2017, eq. 7), negated.

    .. math:: -\min(A r, A\,\mathrm{clip}(r, 1 - c, 1 + c))

    Args:
        log_ratio: (M,) new minus old log-probability.
        advantages: (M,).
        clip: c of the ratio as it is, from :func:`clip_range_of`.
    """
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    # The minimum keeps the gradient where the clip alone would hide a step in the wrong direction.
    return -torch.minimum(advantages * ratio, advantages * bounded)


def is_clipped(
    log_ratio: Float[Tensor, "M ..."], advantages: Float[Tensor, "M ..."], clip: float
) -> Bool[Tensor, "M ..."]:
    """(M,) bool, where :func:`clipped_loss` of the same arguments has no gradient left."""
    ratio = log_ratio.exp()
    return (advantages > 0) & (ratio > 1 + clip) | (advantages < 0) & (ratio < 1 - clip)


def component_loss(
    log_ratio: Float[Tensor, " M"],
    component_advantages: Float[Tensor, "M K"],
    weights: Float[Tensor, "M K"],
    clip: float,
) -> Float[Tensor, " M"]:
    """Weighted sum of one clipped loss per reward component (DanceGRPO).

    Not the clipped loss of the weighted sum: a component whose advantage points the other way is
    clipped on the other side.

    Args:
        log_ratio: (M,).
        component_advantages: (M, K); ``nan`` where a component does not apply adds nothing.
        weights: (M, K).
        clip: as in :func:`clipped_loss`.
    """
    # An advantage of 0 makes the loss and the gradient of the component 0.
    known = component_advantages.nan_to_num(nan=0.0)
    return (weights * clipped_loss(log_ratio[:, None], known, clip)).sum(dim=1)


def guard_log_ratio(
    log_ratio: Float[Tensor, " M"], step: Step, old: Step, reduction: Reduction
) -> Float[Tensor, " M"]:
    r"""Log-ratio of GRPO-Guard (Wang et al. 2025): centred, and of equal spread at every step.

    .. math:: \log r = \mathrm{step\_std}\Bigl(\Delta\log p
        + \frac{\lVert\Delta\mu\rVert^2}{2\,\mathrm{step\_std}^2}\Bigr)

    with the squared norm reduced as the log-density. Its expectation under the old policy is 0,
    where the plain log-ratio's is negative. The paper divides the loss by the size of the
    step too: :func:`step_weights` ``"inverse_dt"``.

    Args:
        log_ratio: (M,) plain log-ratio.
        step: of the policy now.
        old: of the policy that drew the action.
        reduction: of the log-density.
    """
    return step.step_std * (log_ratio + gaussian_kl(step, old, reduction))


def divergence_masked_loss(
    log_ratio: Float[Tensor, " M"],
    advantages: Float[Tensor, " M"],
    step: Step,
    old: Step,
    threshold: float,
) -> Float[Tensor, " M"]:
    """Flow-DPPO: no clipping; an item that :func:`is_masked` is left out.

    Args:
        log_ratio: (M,).
        advantages: (M,).
        step: of the policy now.
        old: of the policy that drew the action.
        threshold: of the divergence; the source uses 1e-5.
    """
    masked = is_masked(log_ratio, advantages, step, old, threshold)
    return torch.where(masked, 0.0, -advantages * log_ratio.exp())


@torch.no_grad()
def is_masked(
    log_ratio: Float[Tensor, " M"],
    advantages: Float[Tensor, " M"],
    step: Step,
    old: Step,
    threshold: float,
) -> Bool[Tensor, " M"]:
    r"""(M,) bool, items that moved too far and would move further.

    Items of which :math:`\lVert\Delta\mu\rVert^2 / (2\,\mathrm{step\_std}^2)`, averaged over
    dimensions, reaches the threshold while A > 0 and r > 1, or A < 0 and r < 1.
    """
    far = gaussian_kl(step, old, "mean") >= threshold
    # A clip range of 0 leaves the sign test: the ratio has moved in the advantage's direction.
    return far & is_clipped(log_ratio, advantages, 0.0)


def velocity_mse(
    velocity: Float[Tensor, " M *rest"], reference: Float[Tensor, " M *rest"]
) -> Float[Tensor, " M"]:
    """(M,) mean squared difference of velocities; a penalty, and no divergence of the policies."""
    return _mean_square(velocity - reference)


def latent_mse(step: Step, reference: Step) -> Float[Tensor, " M"]:
    """(M,) mean squared difference of the steps' means; a penalty that ignores their widths."""
    return _mean_square(step.mean - reference.mean)


def step_weights(
    sigmas: Float[Tensor, " levels"],
    step_std: Float[Tensor, " T"],
    steps: Sequence[int],
    kind: StepWeight,
) -> Float[Tensor, " S"]:
    """(S,) loss weight of each trained step, 1 on average over those steps.

    Args:
        sigmas: (T + 1,) noise levels.
        step_std: (T,) of the kernel.
        steps: the S trained steps.
        kind: ``"uniform"``; ``"inverse_dt"``, one over the change of level (GRPO-Guard);
            ``"step_std"``, the width of the step (TempFlow-GRPO).

    Raises:
        ValueError: for an unknown kind.
    """
    index = torch.as_tensor(list(steps), device=sigmas.device)
    if kind == "uniform":
        raw = torch.ones(len(index), dtype=sigmas.dtype, device=sigmas.device)
    elif kind == "inverse_dt":
        raw = 1 / (sigmas[index] - sigmas[index + 1])
    elif kind == "step_std":
        raw = step_std[index.to(step_std.device)].to(sigmas)
    else:
        raise ValueError(f"step weight must be 'uniform', 'inverse_dt' or 'step_std', got {kind!r}")
    # Over steps, never over a batch: items of a batch may all be at one step.
    return raw / raw.mean()


def _mean_square(difference: Float[Tensor, "M ..."]) -> Float[Tensor, " M"]:
    return difference.square().flatten(1).mean(dim=1)
