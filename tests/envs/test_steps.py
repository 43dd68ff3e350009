"""Drawing, scoring and comparing steps, against torch.distributions and the known traps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from reelrl.envs import steps
from reelrl.envs.kernels import CPS, ODE, DanceSDE, FlowSDE, WanSDE
from reelrl.envs.schedule import sigma_schedule
from reelrl.envs.steps import Step

STOCHASTIC = {"flow_sde": FlowSDE, "dance_sde": DanceSDE, "wan_sde": WanSDE, "cps": CPS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_t1_log_probs_are_computed_in_float32_or_better(dtype):
    table = FlowSDE().table(sigma_schedule(4, 3.0)).at(torch.tensor([1, 2]))
    x, v, noise = torch.randn(3, 2, 1000, generator=torch.Generator().manual_seed(0))
    step = steps.advance(table, x.to(dtype), v.to(dtype))
    assert step.mean.dtype == torch.float32
    value = steps.sample(step, noise, dtype)
    assert value.dtype == dtype
    result = steps.log_prob(step, value, "sum")
    assert result.dtype == torch.float64
    exact = Normal(step.mean.double(), step.step_std.double()[:, None]).log_prob(value.double())
    torch.testing.assert_close(result, exact.sum(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_t2_the_value_scored_is_the_value_stored(dtype):
    """Scored again from storage the ratio is exactly 1; scored before rounding it is not."""
    table = FlowSDE().table(sigma_schedule(4, 3.0)).at(torch.tensor([1, 2]))
    x, v, noise = torch.randn(3, 2, 4096, generator=torch.Generator().manual_seed(0))
    step = steps.advance(table, x, v)
    stored = steps.sample(step, noise, dtype)
    first = steps.log_prob(step, stored)
    again = steps.log_prob(steps.advance(table, x, v), stored.clone())
    assert (first == again).all()
    unrounded = steps.log_prob(step, steps.sample(step, noise), "sum")
    gap = (unrounded - steps.log_prob(step, stored, "sum")).abs()
    assert (gap == 0).all() if dtype == torch.float32 else (gap > 1e-3).all()


@given(st.integers(1, 3), st.integers(1, 400))
def test_t4_reductions_differ_by_what_they_say(count, dims):
    step = Step(torch.zeros(count, dims), torch.full((count,), 0.3))
    value = torch.randn(count, dims, generator=torch.Generator().manual_seed(dims))
    total = steps.log_prob(step, value, "sum")
    torch.testing.assert_close(steps.log_prob(step, value, "mean"), total / dims)
    torch.testing.assert_close(steps.log_prob(step, value, "sum_sqrt_d"), total / dims**0.5)


def test_t5_the_ratio_of_sums_has_expectation_one_and_of_means_less():
    """Mean of log r is -mean(delta^2) / 2 in the mean form, whatever the dimension."""
    delta, count, dims = 0.2, 200_000, 16
    old = Step(torch.zeros(count, dims), torch.ones(count))
    new = Step(torch.full((count, dims), delta), torch.ones(count))
    value = torch.randn(count, dims, generator=torch.Generator().manual_seed(0))
    ratios = {
        reduction: (
            steps.log_prob(new, value, reduction) - steps.log_prob(old, value, reduction)
        ).exp()
        for reduction in ("sum", "mean")
    }
    assert float(ratios["sum"].mean()) == pytest.approx(1, abs=0.01)
    assert float(ratios["mean"].log().mean()) == pytest.approx(-(delta**2) / 2, abs=1e-3)
    assert float(ratios["mean"].mean()) < 0.99


@pytest.mark.parametrize("name", STOCHASTIC)
def test_t10_the_divergence_is_made_of_step_std_and_not_of_the_diffusion(name):
    table = STOCHASTIC[name]().table(sigma_schedule(10, 3.0)).at(torch.tensor([0, 4, 8]))
    x, v, other = torch.randn(3, 3, 50, generator=torch.Generator().manual_seed(0))
    step, reference = steps.advance(table, x, v), steps.advance(table, x, other)
    std = step.step_std[:, None]
    exact = kl_divergence(Normal(step.mean, std), Normal(reference.mean, std))
    torch.testing.assert_close(
        steps.gaussian_kl(step, reference, "sum").float(), exact.sum(1), rtol=1e-4, atol=1e-6
    )
    assert not torch.isclose(table.diffusion, table.step_std).any()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_t11_log_prob_has_all_its_normalisers(name):
    table = STOCHASTIC[name]().table(sigma_schedule(10, 3.0)).at(torch.tensor([0, 4, 8]))
    x, v, value = torch.randn(3, 3, 50, generator=torch.Generator().manual_seed(0))
    step = steps.advance(table, x, v)
    exact = Normal(step.mean, step.step_std[:, None]).log_prob(value)
    torch.testing.assert_close(
        steps.log_prob(step, value).float(), exact.mean(1), rtol=1e-4, atol=1e-5
    )


def test_log_prob_of_a_video_sized_latent_keeps_its_digits():
    """Summed in float32 two million terms would be off by more than a clip range."""
    size = 2_096_640
    step = Step(torch.zeros(1, size), torch.tensor([0.3]))
    value = 0.3 * torch.randn(1, size, generator=torch.Generator().manual_seed(0))
    exact = Normal(0.0, step.step_std.double()).log_prob(value.double()).sum()
    assert abs(float(steps.log_prob(step, value, "sum") - exact)) < 1e-3
    assert math.isclose(float(steps.log_prob(step, value)), float(exact / size), rel_tol=1e-7)


def test_t39_a_deterministic_step_has_no_density():
    table = FlowSDE().table(sigma_schedule(3, 3.0))
    x = torch.randn(3, 4, requires_grad=True)
    step = steps.advance(table, x, x)
    result = steps.log_prob(step, torch.zeros(3, 4))
    assert result.isnan().tolist() == [False, False, True]
    assert steps.gaussian_kl(step, step).isnan().tolist() == [False, False, True]
    result[:2].sum().backward()
    assert x.grad[:2].isfinite().all()
    assert not ODE().has_density


def test_an_unknown_reduction():
    with pytest.raises(ValueError, match="reduction must be one of"):
        steps.log_prob(Step(torch.zeros(1, 2), torch.ones(1)), torch.zeros(1, 2), "max")
