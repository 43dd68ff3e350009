r"""Step kernels against closed forms, and the traps that implementations of them fall into.

For data that is one point c, the perfect velocity is (x - c) / sigma. For normal data
N(m, tau^2), x at level sigma is normal with variance V = (1 - sigma)^2 tau^2 + sigma^2 and the
perfect velocity is linear in x. Both make mean and variance of every step an exact recursion.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.envs import kernels, steps
from reelrl.envs.kernels import CPS, ODE, DanceSDE, FlowSDE, WanSDE
from reelrl.envs.schedule import sigma_schedule

FLOW_KERNELS = {"flow_sde": FlowSDE, "dance_sde": DanceSDE, "wan_sde": WanSDE}
STOCHASTIC = {**FLOW_KERNELS, "cps": CPS}


def point_variances(table, sigmas):
    """Variance of the latent after each step, for a point mass and a perfect model."""
    variance, seen = torch.ones((), dtype=torch.float64), []
    for a, b, std, sigma in zip(
        table.latent_weight, table.output_weight, table.step_std, sigmas[:-1], strict=True
    ):
        variance = (a + b / sigma) ** 2 * variance + std**2
        seen.append(variance)
    return torch.stack(seen)


def normal_variance(table, sigmas, tau):
    """Variance of the final latent for data N(m, tau^2) and a perfect model."""
    variance = torch.ones((), dtype=torch.float64)
    for i, sigma in enumerate(sigmas[:-1]):
        marginal = (1 - sigma) ** 2 * tau**2 + sigma**2
        slope = (sigma - (1 - sigma) * tau**2) / marginal
        gain = table.latent_weight[i] + table.output_weight[i] * slope
        variance = gain**2 * variance + table.step_std[i] ** 2
    return variance


PUBLISHED_STDS = {
    # shift 3, 10 steps, eta 0.7 / 0.3 / 0.7; noise in the last step too.
    "flow_sde": [0.70, 0.74, 0.53, 0.44, 0.39, 0.35, 0.32, 0.29, 0.26, 0.20],
    "dance_sde": [0.057, None, None, None, None, None, None, None, None, 0.15],
    "wan_sde": [0.18, None, None, None, None, None, None, None, None, 0.12],
    "cps": [0.86, None, None, None, None, None, None, None, 0.22, 0.0],
}


@pytest.mark.parametrize("name", PUBLISHED_STDS)
def test_step_stds_of_the_usual_schedule(name):
    kernel = STOCHASTIC[name]() if name == "cps" else STOCHASTIC[name](stochastic_last=True)
    table = kernel.table(sigma_schedule(10, 3.0))
    for actual, expected in zip(table.step_std.tolist(), PUBLISHED_STDS[name], strict=True):
        if expected is not None:
            assert actual == pytest.approx(expected, abs=0.005)


RESIDUAL_NOISE = {
    # (steps, shift): flow_sde at eta 0.7, dance_sde at 0.3, wan_sde.
    (10, 3): (0.228, 0.158, 0.125),
    (20, 3): (0.114, 0.122, 0.051),
    (10, 5): (0.355, 0.185, 0.220),
    (20, 5): (0.183, 0.145, 0.097),
    (50, 5): (0.075, 0.107, 0.028),
}


@pytest.mark.parametrize("schedule", RESIDUAL_NOISE)
def test_t6_a_noisy_last_step_leaves_noise_in_the_clip_and_is_off_by_default(schedule):
    sigmas = sigma_schedule(*schedule)
    for kernel, expected in zip(FLOW_KERNELS.values(), RESIDUAL_NOISE[schedule], strict=True):
        noisy = point_variances(kernel(stochastic_last=True).table(sigmas), sigmas)
        assert float(noisy[-1].sqrt()) == pytest.approx(expected, abs=0.001)
        table = kernel().table(sigmas)
        assert float(table.step_std[-1]) == 0
        assert float(point_variances(table, sigmas)[-1]) == pytest.approx(0, abs=1e-20)
    assert float(point_variances(CPS().table(sigmas), sigmas)[-1]) == pytest.approx(0, abs=1e-20)


@given(st.integers(2, 60), st.floats(0.5, 12), st.floats(0, 1))
def test_cps_keeps_the_marginal_of_a_point_exactly(num_steps, shift, eta):
    sigmas = sigma_schedule(num_steps, shift)
    variances = point_variances(CPS(eta=eta).table(sigmas), sigmas)
    torch.testing.assert_close(variances, sigmas[1:] ** 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kernel", [FlowSDE(eta=0.7), DanceSDE(eta=0.3), WanSDE()], ids=repr)
def test_excess_variance_of_one_step_from_a_point(kernel):
    """s^2 dt^2 / sigma + s^4 dt^2 / (4 sigma^2), from the true marginal at every level."""
    sigmas = sigma_schedule(10, 3.0)
    table, dt = kernel.table(sigmas), sigmas.diff()
    s, sigma = table.diffusion, sigmas[:-1]
    after = (table.latent_weight + table.output_weight / sigma) ** 2 * sigma**2 + table.step_std**2
    expected = s**2 * dt**2 / sigma + s**4 * dt**2 / (4 * sigma**2)
    torch.testing.assert_close(after - sigmas[1:] ** 2, expected, rtol=1e-9, atol=1e-15)


def normal_errors(kernel, tau, counts):
    schedules = [sigma_schedule(count, 1.0) for count in counts]
    return [normal_variance(kernel.table(s), s, tau) / tau**2 - 1 for s in schedules]


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
def test_normal_data_is_reproduced_as_steps_get_finer(tau):
    for kernel in (ODE(), DanceSDE(), WanSDE()):
        errors = normal_errors(kernel, tau, (80, 160, 320))
        assert abs(errors[-1]) < 0.013
        for coarse, fine in pairwise(errors):
            assert float(fine / coarse) == pytest.approx(0.5, abs=0.02)  # first order
    # The diffusion of flow_sde is unbounded toward level 1; its first steps never become exact.
    assert all(abs(error) < 0.013 for error in normal_errors(FlowSDE(), tau, (160, 320, 640)))


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
def test_cps_loses_variance_of_spread_data_however_fine_the_steps(tau):
    assert all(-0.31 < error < -0.27 for error in normal_errors(CPS(), tau, (160, 320, 1280)))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_follow_the_recursion(name):
    """The batched code path, drawn, against the closed form."""
    sigmas = sigma_schedule(10, 3.0)
    table = STOCHASTIC[name]().table(sigmas)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, 2, generator=generator)
    for i, sigma in enumerate(sigmas[:-1].tolist()):
        rows = table.at(torch.full((len(x),), i))
        step = steps.advance(rows, x, (x - 0.5) / sigma)
        x = steps.sample(step, torch.randn(x.shape, generator=generator))
        expected = float(point_variances(table, sigmas)[i])
        assert float(x.var()) == pytest.approx(expected, rel=0.03, abs=1e-9)
        wanted = 0.5 * (1 - float(sigmas[i + 1]))
        assert float(x.mean()) == pytest.approx(wanted, abs=0.02)


def test_the_three_sdes_are_one_kernel_with_another_diffusion():
    """mu = x + v dt + s^2 / (2 sigma) x1 dt, written out."""
    sigmas = sigma_schedule(7, 3.0)
    x, v = torch.randn(2, 7, 5, dtype=torch.float64)
    sigma, dt = sigmas[:-1, None], sigmas.diff()[:, None]
    diffusions = {
        "flow_sde": 0.7 * (sigma / (1 - sigma.clamp_max(float(sigmas[1])))).sqrt(),
        "dance_sde": torch.full_like(sigma, 0.3),
        "wan_sde": sigmas[1] * sigma,
    }
    for name, s in diffusions.items():
        table = FLOW_KERNELS[name](stochastic_last=True).table(sigmas)
        expected = x + v * dt + s**2 / (2 * sigma) * (x + (1 - sigma) * v) * dt
        torch.testing.assert_close(steps.advance(table, x, v).mean, expected)
        torch.testing.assert_close(table.step_std, (s * (-dt).sqrt())[:, 0])
        torch.testing.assert_close(table.diffusion, s[:, 0])


@pytest.mark.parametrize("name", ["flow_sde", "dance_sde", "cps"])
def test_without_noise_every_kernel_is_the_euler_step(name):
    sigmas = sigma_schedule(10, 3.0)
    silent, euler = STOCHASTIC[name](eta=0.0).table(sigmas), ODE().table(sigmas)
    torch.testing.assert_close(silent.latent_weight, euler.latent_weight)
    torch.testing.assert_close(silent.output_weight, euler.output_weight)
    assert not silent.stochastic.any()


def test_rows_of_a_batch_may_be_at_different_steps():
    table = FlowSDE().table(sigma_schedule(6, 3.0))
    x, v = torch.randn(2, 4, 3, 2)
    index = torch.tensor([5, 0, 3, 0])
    together = steps.advance(table.at(index), x, v)
    for row, step in enumerate(index.tolist()):
        alone = steps.advance(table.at(torch.tensor([step])), x[row : row + 1], v[row : row + 1])
        assert (together.mean[row] == alone.mean[0]).all()
        assert together.step_std[row] == alone.step_std[0]


def test_every_sample_may_have_its_own_noise_level():
    sigmas = sigma_schedule(6, 3.0)
    for kernel in (FlowSDE, DanceSDE, CPS):
        levels = torch.tensor([0.2, 0.9], dtype=torch.float64)
        rows = kernel(eta=levels).coefficients(sigmas[[2, 2]], sigmas[[3, 3]], sigmas[1])
        for i, eta in enumerate(levels.tolist()):
            alone = kernel(eta=eta).table(sigmas).at(torch.tensor([2]))
            torch.testing.assert_close(rows.step_std[i], alone.step_std[0])
            torch.testing.assert_close(rows.latent_weight[i], alone.latent_weight[0])


def test_index_of_finds_the_step_of_a_float32_level():
    sigmas = sigma_schedule(50, 5.0)
    table = ODE().table(sigmas)
    assert table.index_of(sigmas[:-1].float()[:, None]).tolist() == list(range(50))


@pytest.mark.parametrize("name", ["flow_sde", "dance_sde", "wan_sde", "cps"])
def test_t7_all_steps_but_the_last_are_stochastic(name):
    table = STOCHASTIC[name]().table(sigma_schedule(10, 3.0))
    assert table.stochastic.tolist() == [True] * 9 + [False]
    assert not ODE().table(sigma_schedule(10, 3.0)).stochastic.any()


@pytest.mark.parametrize("first", [1.0, 0.999999, 0.9999, 0.999])
def test_t8_the_first_step_is_tame_whether_or_not_its_level_is_exactly_one(first):
    """Testing sigma == 1 lets 0.999999 through, and the step's std becomes 131."""
    sigmas = sigma_schedule(10, 3.0)
    level = torch.tensor([first], dtype=torch.float64)
    rows = FlowSDE(eta=0.7).coefficients(level, sigmas[1:2], sigmas[1])
    assert float(rows.step_std) == pytest.approx(0.70, abs=0.02)
    assert float(rows.latent_weight) == pytest.approx(0.756, abs=0.02)
    unclamped = 0.7 * (first / (1 - min(first, 0.999999))) ** 0.5 * float(1 - sigmas[1]) ** 0.5
    assert unclamped > 4


def test_t9_tables_are_made_of_levels_and_never_of_integer_timesteps():
    sigmas = sigma_schedule(10, 3.0)
    truncated = (sigmas * 999).long() / 1000
    with pytest.raises(ValueError, match="exactly 1 to exactly 0"):
        FlowSDE().table(truncated)
    assert (FlowSDE().table(sigmas).sigma == sigmas[:-1]).all()


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("flow_sd", {}, "did you mean 'flow_sde'"),
        ("flow_sde", {"eta": -0.1}, "eta must be a number from 0 to inf, got -0.1"),
        ("cps", {"eta": 1.5}, "eta must be a number from 0 to 1, got 1.5"),
        ("dance_sde", {"eta": float("nan")}, "got nan"),
        ("wan_sde", {"eta": 0.3}, "unexpected keyword argument 'eta'"),
    ],
)
def test_make_kernel_refuses(name, config, message):
    with pytest.raises(ValueError, match=message):
        kernels.make_kernel(name, **config)


def test_bad_schedules():
    with pytest.raises(ValueError, match="strictly"):
        ODE().table(torch.tensor([1.0, 0.5, 0.5, 0.0]))


def test_kernels_by_name():
    assert kernels.make_kernel("flow_sde", eta=0.5) == FlowSDE(eta=0.5)
    assert {"ode", "flow_sde", "dance_sde", "wan_sde", "cps"} <= set(kernels.KERNELS)
