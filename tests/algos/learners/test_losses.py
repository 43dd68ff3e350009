"""Losses against formulas written out by hand, and the traps they are known to fall into."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from reelrl.algos.learners.losses import (
    clip_range_of,
    clipped_loss,
    component_loss,
    divergence_masked_loss,
    guard_log_ratio,
    latent_mse,
    step_weights,
    velocity_mse,
)
from reelrl.envs.kernels import make_kernel
from reelrl.envs.schedule import sigma_schedule
from reelrl.envs.steps import Step, gaussian_kl, log_prob

REDUCTIONS = ("mean", "sum", "sum_sqrt_d")


def draws(count, dimensions, delta, std=0.3, seed=0):
    """Old and new Gaussians whose means differ by ``delta`` stds, and actions of the old."""
    rng = torch.Generator().manual_seed(seed)
    mean = torch.zeros(count, dimensions, dtype=torch.float64)
    width = torch.full((count,), std, dtype=torch.float64)
    old, new = Step(mean, width), Step(mean + delta * std, width)
    action = mean + std * torch.randn(mean.shape, generator=rng, dtype=torch.float64)
    return old, new, action


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=6),
    st.floats(0.01, 0.5),
    st.floats(-3, 3),
)
def test_clipped_loss_is_ppo_case_by_case(log_ratios, clip, advantage):
    log_ratio = torch.tensor(log_ratios, dtype=torch.float64)
    expected = []
    for value in log_ratios:
        ratio = math.exp(value)
        if (advantage > 0 and ratio > 1 + clip) or (advantage < 0 and ratio < 1 - clip):
            ratio = 1 + clip if advantage > 0 else 1 - clip
        expected.append(-advantage * ratio)
    actual = clipped_loss(log_ratio, torch.full_like(log_ratio, advantage), clip)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_t4_one_clip_range_clips_the_same_changes_at_every_size_and_reduction():
    fractions = []
    for dimensions in (64, 6400):
        old, new, action = draws(1500, dimensions, delta=0.01)
        for reduction in REDUCTIONS:
            ratio = log_prob(new, action, reduction) - log_prob(old, action, reduction)
            # Without its bias, which does depend on D (see T5).
            ratio = ratio + gaussian_kl(new, old, reduction)
            clip = clip_range_of(0.01, dimensions, reduction)
            fractions.append((ratio.abs() > clip).double().mean().item())
    one_sigma = 1 - math.erf(1 / math.sqrt(2))
    assert fractions == pytest.approx([one_sigma] * 6, abs=0.04)


def test_t4_known_recipe_in_transferable_units():
    assert clip_range_of(0.0256, 65536, "mean") == pytest.approx(1e-4)
    assert clip_range_of(0.0256, 65536, "sum_sqrt_d") == pytest.approx(0.0256)
    with pytest.raises(ValueError, match="positive, got 0"):
        clip_range_of(0, 8, "mean")
    with pytest.raises(ValueError, match="'max'"):
        clip_range_of(0.1, 8, "max")


def test_t5_plain_mean_ratio_is_biased_below_one_and_guard_is_not():
    old, new, action = draws(20000, 400, delta=0.4)
    log_ratio = log_prob(new, action) - log_prob(old, action)
    assert log_ratio.exp().mean().item() == pytest.approx(math.exp(-0.08 + 0.0002), abs=2e-3)
    guard = guard_log_ratio(log_ratio, new, old, "mean")
    assert guard.mean().item() == pytest.approx(0.0, abs=2e-4)


def test_guard_has_one_spread_whatever_the_noise_of_the_step():
    spreads = []
    for std in (0.05, 0.8):
        rng = torch.Generator().manual_seed(0)
        mean = torch.zeros(4000, 100, dtype=torch.float64)
        width = torch.full((4000,), std, dtype=torch.float64)
        old, new = Step(mean, width), Step(mean + 0.01, width)
        action = std * torch.randn(mean.shape, generator=rng, dtype=torch.float64)
        log_ratio = log_prob(new, action) - log_prob(old, action)
        spreads.append(guard_log_ratio(log_ratio, new, old, "mean").std().item())
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-6)
    assert spreads[0] == pytest.approx(0.01 / math.sqrt(100), rel=0.05)


@pytest.mark.parametrize("name", ["flow_sde", "dance_sde", "wan_sde", "cps"])
def test_t10_divergences_use_the_step_std_of_every_kernel(name):
    sigmas = sigma_schedule(5, 3.0)
    table = make_kernel(name).table(sigmas)
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(2, 4, 7, generator=rng, dtype=torch.float64)
    rows = table.at(torch.arange(4))
    new, old = (Step(mean, rows.step_std) for mean in means)
    width = rows.step_std[:, None].expand(4, 7)
    exact = kl_divergence(Normal(new.mean, width), Normal(old.mean, width)).mean(1)
    torch.testing.assert_close(gaussian_kl(new, old), exact)
    plain = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(guard_log_ratio(plain, new, old, "mean"), rows.step_std * exact)
    up = torch.ones(4, dtype=torch.float64)
    for threshold, masked in ((exact * 1.01, False), (exact * 0.99, True)):
        loss = divergence_masked_loss(0.1 * up, up, new, old, threshold)
        assert (loss == 0).all().item() is masked


def test_flow_dppo_masks_only_what_moves_further_out():
    step = Step(torch.ones(4, 3), torch.ones(4))
    old = Step(torch.zeros(4, 3), torch.ones(4))
    log_ratio = torch.tensor([0.1, -0.1, 0.1, -0.1])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss = divergence_masked_loss(log_ratio, advantages, step, old, 1e-5)
    assert (loss == 0).tolist() == [True, False, False, True]
    near = divergence_masked_loss(log_ratio, advantages, old, old, 1e-5)
    torch.testing.assert_close(near, -advantages * log_ratio.exp())


def test_t25_sum_of_clipped_losses_is_not_the_clipped_sum():
    log_ratio = torch.tensor([0.5])
    parts, weights = torch.tensor([[2.0, -1.0]]), torch.ones(1, 2)
    by_component = component_loss(log_ratio, parts, weights, 0.1)
    assert by_component.item() == pytest.approx(-2 * 1.1 + math.exp(0.5))
    summed = clipped_loss(log_ratio, parts.sum(1), 0.1)
    assert summed.item() == pytest.approx(-1.1)
    inside = torch.tensor([0.05])
    torch.testing.assert_close(
        component_loss(inside, parts, weights, 0.1), clipped_loss(inside, parts.sum(1), 0.1)
    )


def test_a_component_that_does_not_apply_adds_nothing():
    parts = torch.tensor([[1.0, torch.nan]])
    log_ratio = torch.tensor([0.02], requires_grad=True)
    loss = component_loss(log_ratio, parts, torch.ones(1, 2), 0.1)
    torch.testing.assert_close(loss, clipped_loss(log_ratio, torch.ones(1), 0.1))
    loss.sum().backward()
    assert log_ratio.grad.isfinite().all()


def test_mean_square_penalties_say_what_they_measure():
    step = Step(torch.full((2, 3), 2.0), torch.tensor([0.1, 0.2]))
    reference = Step(torch.zeros(2, 3), torch.tensor([0.1, 0.2]))
    assert latent_mse(step, reference).tolist() == [4.0, 4.0]
    assert velocity_mse(step.mean, reference.mean + 1).tolist() == [1.0, 1.0]


def test_t38_step_weights_average_one_over_steps_and_differ():
    sigmas = sigma_schedule(10, 3.0)
    std = make_kernel("flow_sde").table(sigmas).step_std
    steps = [0, 3, 8]
    assert step_weights(sigmas, std, steps, "uniform").tolist() == [1, 1, 1]
    for kind, raw in (
        ("inverse_dt", [1 / (sigmas[i] - sigmas[i + 1]) for i in steps]),
        ("step_std", [std[i] for i in steps]),
    ):
        weights = step_weights(sigmas, std, steps, kind)
        expected = torch.stack(raw) / torch.stack(raw).mean()
        torch.testing.assert_close(weights, expected)
        assert weights.std() > 0.1
    with pytest.raises(ValueError, match="'sigma'"):
        step_weights(sigmas, std, steps, "sigma")
