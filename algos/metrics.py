"""Numbers that tell a sick run from a healthy one, from a rollout and its advantages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reelrl.algos.advantages import AdvantageOutput
from reelrl.algos.collect.rollout import Rollout

if TYPE_CHECKING:
    from jaxtyping import Float

ZERO_STD = 1e-6
"""A spread of no more than this share of a group's largest score is float32 rounding."""


def rollout_metrics(rollout: Rollout, names: Sequence[str]) -> dict[str, float]:
    """Means, spreads and failures of every component.

    ``health/zero_std_groups/<name>`` is the share of groups whose members all score the same,
    ``health/residual_noise`` the roughness of the finished latents, which rises with noise that no
    later step removes.
    """
    groups = torch.unflatten(rollout.rewards, 0, (rollout.num_groups, rollout.group_size)).double()
    mean = groups.nanmean(dim=1, keepdim=True)
    within = (groups - mean).square().nanmean(dim=1).sqrt()
    top = groups.abs().nan_to_num(0.0).amax(dim=1)
    equal = within <= ZERO_STD * top
    numbers: dict[str, Tensor] = {}
    for k, name in enumerate(names):
        numbers[f"reward/{name}"] = rollout.rewards[:, k].double().nanmean()
        numbers[f"reward/within_std/{name}"] = within[:, k].nanmean()
        numbers[f"health/zero_std_groups/{name}"] = equal[:, k].double().mean()
        numbers[f"health/failed/{name}"] = (~rollout.valid[:, k]).double().mean()
    if rollout.transitions is not None:
        means = [step.log_prob.mean() for step in rollout.transitions.steps]
        numbers["rollout/log_prob"] = torch.stack(means).mean()
    numbers["health/residual_noise"] = roughness(rollout.latents)
    return to_floats(numbers)


def advantage_metrics(output: AdvantageOutput, names: Sequence[str]) -> dict[str, float]:
    """The estimator's own diagnostics, and the size of its advantages."""
    advantages = torch.as_tensor(output.advantages).double()
    numbers = {
        "advantage/abs_mean": advantages.abs().mean(),
        "advantage/std": advantages.std(correction=0),
        "advantage/nonzero": (advantages != 0).double().mean(),
    }
    for key, value in output.diagnostics.items():
        tensor = torch.as_tensor(value).double()
        if tensor.shape == (len(names),):
            numbers.update({f"advantage/{key}/{n}": v for n, v in zip(names, tensor, strict=True)})
        elif tensor.ndim == 0:
            numbers[f"advantage/{key}"] = tensor
    return to_floats(numbers)


def roughness(latent: Float[Tensor, "N C t h w"]) -> Float[Tensor, ""]:
    """Mean squared difference of horizontal neighbours."""
    return latent.double().diff(dim=-1).square().mean()


def to_floats(numbers: dict[str, Tensor]) -> dict[str, float]:
    """All numbers at once, waiting for the device a single time."""
    if not numbers:
        return {}
    device = next(iter(numbers.values())).device
    stacked = torch.stack([v.detach().double().reshape(()).to(device) for v in numbers.values()])
    return dict(zip(numbers, stacked.tolist(), strict=True))
