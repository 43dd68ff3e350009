"""Settings that no shipped run trains with, against their formulas in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import NormSpec, RewardBatch, make_estimator
from reelrl.algos.advantages.masked import Masked
from reelrl.algos.advantages.norm import normalise
from reelrl.algos.advantages.thresholds import Calibration

NAMES = ("a", "b")


@pytest.fixture
def rewards() -> np.ndarray:
    """(3, 5, 2) in [0, 1]."""
    return np.random.default_rng(4).random((3, 5, 2))


def z(values: np.ndarray, ddof: int, axis: int | None = 1) -> np.ndarray:
    return (values - values.mean(axis, keepdims=True)) / values.std(axis, ddof=ddof, keepdims=True)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 0.0), (2.0, 5.0)])
@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_sa_mrpo_measures_saturation_between_the_bounds(rewards, bounds, gamma) -> None:
    """Penalties come as [-1, 0]: there the mean over the upper bound is no share of anything."""
    low, high = bounds
    given = low + (high - low) * rewards
    batch = RewardBatch(given, NAMES, weights=np.array([2.0, 1.0]), bounds=np.array([bounds] * 2))
    output, _ = make_estimator("sa_mrpo", gamma=gamma)(batch)
    weights = np.array([2.0, 1.0]) * (1 - rewards.reshape(-1, 2).mean(0)) ** gamma
    expected = z((weights * z(rewards, 0)).sum(-1), 0, axis=None)
    np.testing.assert_allclose(output.advantages, expected, atol=1e-9)


@pytest.mark.parametrize("shift", [0.0, -3.0, 2.0])
def test_saw_measures_spread_from_the_lowest_negative_reward(rewards, shift) -> None:
    given = rewards * [1.0, 0.2] + [shift, 0.0]
    output, _ = make_estimator("saw")(RewardBatch(given, NAMES))
    flat = given.reshape(-1, 2)
    raised = flat - np.minimum(flat.min(0), 0.0)
    spread = raised.std(0, ddof=1) / (np.abs(raised.mean(0)) + 1e-8)
    weights = 2 * spread / spread.sum()
    np.testing.assert_allclose(output.component_weights, weights, atol=1e-9)
    summed = (weights * given).sum(-1)
    np.testing.assert_allclose(output.advantages, z(summed, 1), atol=1e-6)


def test_a_new_threshold_is_mixed_with_the_old_one() -> None:
    calibration = Calibration(quantile=0.5, min_groups=2, ema=0.25)
    first, second = np.array([[0.0], [0.4]]), np.array([[1.0], [0.6], [0.9]])
    state = calibration.update(calibration.init(1), torch.from_numpy(first), None)
    assert float(calibration.thresholds(state)) == pytest.approx(0.2)  # there was none to mix with
    state = calibration.update(state, torch.from_numpy(second), None)
    median = np.median(np.concatenate([first, second]))
    assert float(calibration.thresholds(state)) == pytest.approx(0.25 * 0.2 + 0.75 * median)


def test_a_gain_is_mixed_with_the_old_one() -> None:
    calibration = Calibration(rule="gain", ema=0.25, fraction=0.5)
    state = calibration.init(1)
    for mean in (0.2, 0.6, 0.4):
        state = calibration.update(state, torch.tensor([[mean]], dtype=torch.float64), None)
    gain = 0.25 * (0.75 * 0.4) + 0.75 * 0.2
    assert float(calibration.thresholds(state)) == pytest.approx(0.2 + 0.5 * gain)


def test_thresholds_are_learnt_from_the_least_number_of_groups_on() -> None:
    calibration = Calibration(min_groups=3)
    state = calibration.update(calibration.init(2), torch.rand(2, 2).double(), None)
    assert calibration.thresholds(state).isnan().all()
    third = torch.tensor([[0.5, torch.nan]], dtype=torch.float64)
    state = calibration.update(state, third, None)
    assert calibration.thresholds(state).isnan().tolist() == [False, True]


def test_the_newest_group_means_are_kept() -> None:
    calibration = Calibration(quantile=0.0, min_groups=1, capacity=3)
    means = torch.tensor([[0.1], [0.2], [0.7], [0.8], [0.9]], dtype=torch.float64)
    state = calibration.update(calibration.init(1), means, None)
    assert float(calibration.thresholds(state)) == pytest.approx(0.7)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("tau", [(None, 0.75, 0.5), (0.75, None, 0.5), (0.4, 0.6, None)])
def test_a_component_without_threshold_holds_nobody_up_in_a_self_paced_taros(tau) -> None:
    r = np.random.default_rng(7).random((2, 4, 3))
    bounds = np.array([[0.0, 1.0]] * 3)
    estimator = make_estimator("taros@self_paced", tau=tau, beta=0.0)
    output, _ = estimator(RewardBatch(r, ("a", "b", "c"), bounds=bounds))
    mean = r.mean(1)
    passed = np.stack(
        [np.ones(2) if t is None else sigmoid(10.0 * (mean[:, k] - t)) for k, t in enumerate(tau)],
        axis=1,
    )
    before = np.cumprod(np.concatenate([np.ones((2, 1)), passed[:, :-1]], 1), 1)
    utility = before * np.concatenate([1 - passed[:, :-1], np.ones((2, 1))], 1)
    weights = np.exp(utility) / np.exp(utility).sum(1, keepdims=True)
    np.testing.assert_allclose(output.component_weights, weights, atol=1e-9)
    summed = (weights[:, None] * r).sum(-1)
    np.testing.assert_allclose(output.advantages, z(summed, 1), atol=1e-6)


@pytest.mark.parametrize(
    "spec", [NormSpec(), NormSpec(eps=0.0), NormSpec("batch", "batch"), NormSpec("loo", "loo")]
)
def test_float_noise_around_zero_is_no_spread(spec) -> None:
    """Rounding is relative to the numbers that were summed, and not to their sum."""
    noise = torch.tensor([[1e-16, -1e-16, 1e-16, -1e-16]], dtype=torch.float64)
    summed = Masked(noise, None, torch.ones_like(noise))
    assert normalise(summed, spec).out.values.abs().max() <= 1e-15
    real = normalise(Masked(1e12 * noise, None), spec).out.values
    assert real.abs().min() > 0.1


def test_best_of_n_passes_over_a_missing_sample_in_the_middle() -> None:
    r = np.array([[2.0, 1.0, np.nan, -1.0, -2.0, -3.0]])[..., None]
    output, _ = make_estimator("grpo", post=({"name": "best_of_n", "n": 4},))(RewardBatch(r, "a"))
    assert np.asarray(output.sample_weight).tolist() == [[1, 1, 0, 0, 1, 1]]


def test_best_of_n_of_the_batch_passes_over_samples_without_a_score() -> None:
    """All advantages below zero but one: a zero would rank among the best."""
    r = np.array([[9.0, 1.0, 1.2, 1.1], [np.nan, 3.0, 3.0, 3.0]])[..., None]
    spec = {"name": "best_of_n", "n": 2, "scope": "batch"}
    output, _ = make_estimator("grpo", post=(spec,))(RewardBatch(r, "a"))
    assert np.asarray(output.sample_weight).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("leaves", [2, 3, 5, 6, 7, 10, 11, 13])
def test_two_nodes_are_two_however_many_leaves_they_have(leaves, dtype) -> None:
    """Each leaf counts a part of its node, and the parts do not add up to a whole exactly."""
    r = np.repeat([[0.25, 0.75]], leaves, axis=1).astype(dtype)
    r = np.sort(r, axis=1)[..., None]
    parents = np.array([[-1, 0, 0, *[1] * leaves, *[2] * leaves]])
    batch = RewardBatch(r, "a", extras={"tree_parent": parents})
    output, _ = make_estimator("branch_grpo")(batch)
    expected = np.sign(r[..., 0] - 0.5) / np.sqrt(2)
    np.testing.assert_allclose(output.advantages[..., 0], expected, atol=1e-6)
