"""A reward may have any units: scales and shifts of a component change no advantage."""

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import NormSpec, RewardBatch, advantages, make_estimator, normalise
from reelrl.algos.advantages.masked import Masked

SCALES = [10.0**power for power in (-30, -8, -7, -4, 0, 4, 8, 30)]
SCALE_FREE = [
    ("grpo@paper", {}),
    ("gdpo", {}),
    ("advantage_sum@mo_grpo", {}),
    ("adv_min_norm", {"group": {"eps": 0.0}}),
    ("gd2po", {"group": {"eps": 0.0}}),
    ("dancegrpo", {"group": {"eps": 0.0}}),
    ("reinforce_pp", {"batch": {"eps": 0.0}}),
    ("rloo@trl_norm", {"batch": {"eps": 0.0}}),
]


def rewards(dtype, groups=6, members=5, components=1):
    return np.random.default_rng(0).random((groups, members, components)).astype(dtype)


def run(name, values, **config):
    names = tuple(f"r{k}" for k in range(values.shape[-1]))
    return make_estimator(name, **config)(RewardBatch(values, names))[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("name", "config"), SCALE_FREE, ids=[name for name, _ in SCALE_FREE])
def test_the_units_of_a_reward_change_no_advantage(name, config, scale, dtype):
    plain = rewards(dtype)
    expected = run(name, plain, **config).advantages
    assert np.abs(expected).mean() > 0.5
    scaled = run(name, (plain * scale).astype(dtype), **config).advantages
    np.testing.assert_allclose(scaled, expected, rtol=1e-4 if dtype is np.float32 else 1e-9)


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_a_component_in_other_units_counts_as_much(scale):
    values = rewards(np.float32, components=2) * np.array([1.0, scale], dtype=np.float32)
    influence = run("gdpo", values).diagnostics["influence"]
    np.testing.assert_allclose(influence, [0.5, 0.5], atol=0.02)


@pytest.mark.parametrize("level", [0.1, 1e-9, 1e9, -3e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_rewards_up_to_rounding_are_equal_in_any_units(level, dtype):
    values = np.full((2, 4, 1), level, dtype=dtype)
    values[0, 1] = np.nextafter(values[0, 1], dtype(np.inf))
    for name, config in SCALE_FREE[:2]:
        assert not run(name, values, **config).advantages.any()


@pytest.mark.parametrize(
    ("name", "scale"), [("grpo@paper", 1e-9), ("grpo@paper", 1.0), ("gdpo", 1.0)]
)
def test_components_that_cancel_leave_no_signal(name, scale):
    one = rewards(np.float64, components=1) * scale
    both = np.concatenate([one, 3 - one], axis=-1)  # their sum is 3, up to rounding
    assert not run(name, both).advantages.any()


@pytest.mark.parametrize("name", ["gd2po", "gd2po@hard", "gd2po@config"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adding_to_a_component_drops_no_other_sample(name, dtype):
    """A score that is its group's mean up to rounding conflicts with nobody."""
    values = np.random.default_rng(1).integers(0, 5, (40, 5, 2)).astype(dtype) / dtype(10)
    moved = values + np.array([1.0, 0.0], dtype=dtype)
    before, after = run(name, values), run(name, moved)
    np.testing.assert_array_equal(before.sample_weight, after.sample_weight)
    np.testing.assert_allclose(before.advantages, after.advantages, atol=2e-5)


def test_best_of_n_ranks_no_rounding():
    values = np.array([[[0.1, 0.2], [0.3, 0.0], [0.15, 0.15], [0.5, 0.5], [0.0, 0.0]]])
    post = ({"name": "best_of_n", "n": 4},)
    for shift in (0.0, 1.0, 7.0):
        kept = run("grpo@paper", values + np.array([shift, 0.0]), post=post).sample_weight
        assert kept.tolist() == [[1, 0, 1, 1, 1]]


def test_the_diagnostics_know_no_units():
    plain, small = rewards(np.float64), rewards(np.float64) * 1e-12
    for name in ("dr_grpo", "grpo@paper"):
        both = [run(name, values).diagnostics for values in (plain, small)]
        for key in ("distinct_adv_per_group", "zero_std_frac", "effective_group_count"):
            np.testing.assert_array_equal(both[0][key], both[1][key])


@pytest.mark.parametrize("spec", [NormSpec(), NormSpec("loo", "loo"), NormSpec("batch", "batch")])
def test_noise_is_told_from_the_numbers_alone(spec):
    level = torch.tensor([[1.0, 1 + 1e-13, 1.0, 1 - 1e-13]], dtype=torch.float64)
    assert normalise(Masked(1e-20 * level), spec).out.values.abs().max() < 1e-12


def test_samples_that_are_all_alone_are_told_of():
    values = np.random.default_rng(0).random((8, 2))
    with pytest.warns(UserWarning, match="every sample is alone in its group"):
        assert not advantages(values, np.arange(8), "grpo").any()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_ids_in_a_column_are_one_each(kind):
    values = np.random.default_rng(0).random((6, 2))
    flat = advantages(values, [0, 0, 0, 1, 1, 1], "grpo")
    column = advantages(values, kind([[0], [0], [0], [1], [1], [1]]), "grpo")
    np.testing.assert_array_equal(flat, column)
    with pytest.raises(ValueError, match=r"one number or string, got ids of \(6, 2\)"):
        advantages(values, kind([[0, 1]] * 6), "grpo")


def test_a_number_and_its_text_are_two_ids():
    values = np.random.default_rng(0).random(6)
    expected = advantages(values, [0, 0, 1, 1, 2, 2], "grpo")
    np.testing.assert_array_equal(advantages(values, [1, 1, "1", "1", "a", "a"], "grpo"), expected)


@pytest.mark.parametrize("kind", [list, tuple, lambda ids: np.array(ids, dtype=object)])
def test_ids_of_several_kinds_stay_apart(kind):
    values = np.random.default_rng(0).random(6)
    expected = advantages(values, [0, 0, 1, 1, 2, 2], "grpo")
    found = advantages(values, kind([1.0, 1, "1", "1", b"1", b"1"]), "grpo")
    np.testing.assert_array_equal(found, expected)
    for odd in (None, (0, 1), {}):
        with pytest.raises(ValueError, match="one number or string"):
            advantages(values, kind([odd, odd, 1, 1, 2, 2]), "grpo")


def test_weights_by_name():
    values, ids = np.random.default_rng(0).random((6, 2)), [0, 0, 0, 1, 1, 1]
    named = advantages(values, ids, "grpo", names=("a", "b"), weights={"b": 2.0})
    np.testing.assert_array_equal(named, advantages(values, ids, "grpo", weights=[0.0, 2.0]))
    with pytest.raises(ValueError, match="the reward 'c'"):
        advantages(values, ids, "grpo", names=("a", "b"), weights={"c": 2.0})
