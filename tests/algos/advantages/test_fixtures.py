"""Numbers of published implementations: given as fixtures, and the tables' worked examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import RewardBatch, make_estimator, make_transform
from reelrl.algos.advantages.batch import open_batch
from reelrl.algos.advantages.hoyer import hoyer
from reelrl.algos.advantages.masked import Masked
from reelrl.algos.advantages.methods.gardo import nearest_distance
from reelrl.algos.advantages.transforms import pairwise_points, win_rate

ATOL = 2e-6
_FILE = Path(__file__).parents[2] / "fixtures" / "estimators.json"
_DATA = json.loads(_FILE.read_text())
FIXTURES = {fixture["id"]: fixture for fixture in _DATA["fixtures"]}


def array(values: Any) -> np.ndarray:
    return np.array(values, dtype=object).astype(np.float64)


INPUTS = {key: array(value) for key, value in _DATA["inputs"].items()}
W = INPUTS["W"]


def batch_of(rewards: np.ndarray, **kw: Any) -> RewardBatch:
    rewards = np.asarray(rewards, dtype=np.float64)
    names = tuple(f"r{k}" for k in range(rewards.shape[-1]))
    return RewardBatch(rewards, names, **kw)


def run(name: str, rewards: np.ndarray, config: dict[str, Any] | None = None, **kw: Any) -> Any:
    return make_estimator(name, **(config or {}))(batch_of(rewards, **kw))[0]


def unit(components: int) -> np.ndarray:
    return np.tile([0.0, 1.0], (components, 1))


PRESETS = {
    "grpo.dancegrpo": "grpo@dancegrpo",
    "grpo.trl": "grpo@trl",
    "grpo.flow_grpo": "grpo@flow_grpo",
    "global_std.flow_grpo": "global_std@flow_grpo",
    "dr_grpo": "dr_grpo@paper",
    "rloo": "rloo@paper",
    "reinforce_pp_baseline.verl": "reinforce_pp_baseline@verl",
    "gdpo.paper.w": "gdpo@paper",
    "gdpo.paper.ones": "gdpo@paper",
    "gdpo.trl.w": "gdpo@trl",
    "gdpo.flow_factory.w": "gdpo@flow_factory",
    "gdpo.trl.nan": "gdpo@trl",
    "dvao": "dvao@paper",
}


@pytest.mark.parametrize("key", sorted(PRESETS))
def test_t18_preset_reproduces_its_fixture(key: str) -> None:
    fixture = FIXTURES[key]
    weights = np.array(fixture["params"]["weights"], dtype=np.float64)
    output = run(PRESETS[key], INPUTS[fixture["input"]], weights=weights)
    expected = fixture["expected"]
    np.testing.assert_allclose(output.advantages, expected["advantages"], atol=ATOL)
    if "pre_batch_norm" in expected:
        known = array(expected["pre_batch_norm"])
        np.testing.assert_allclose(output.aggregated_reward, np.nan_to_num(known), atol=ATOL)
    if "weights" in expected:
        np.testing.assert_allclose(output.component_weights, expected["weights"], atol=ATOL)


@pytest.mark.parametrize("name", ["grpo", "gdpo", "taros"])
def test_constant_group_gives_exact_zeros(name: str) -> None:
    output = run(name, INPUTS["CONST"], bounds=unit(2))
    assert np.array_equal(
        output.advantages, FIXTURES[f"degenerate.const.{name}"]["expected"]["advantages"]
    )


def test_float_noise_is_not_variance() -> None:
    output = run("grpo", INPUTS["NOISE"], {"eps": 0.0})
    assert np.array_equal(output.advantages, np.zeros((1, 3)))


@pytest.mark.parametrize("key", ["taros.base", "taros.beta0"])
def test_taros_fixture_with_its_intermediates(key: str) -> None:
    params, expected = FIXTURES[key]["params"], FIXTURES[key]["expected"]
    config = {"tau": tuple(params["tau"]), "beta": params["beta"], "slope": params["slope"]}
    output = run("taros", INPUTS["A"], config, bounds=unit(3))
    np.testing.assert_allclose(output.advantages, expected["advantages"], atol=ATOL)
    np.testing.assert_allclose(output.component_weights, expected["weights"], atol=ATOL)
    np.testing.assert_allclose(output.aggregated_reward, expected["reward"], atol=ATOL)
    np.testing.assert_allclose(
        output.diagnostics["utility"], np.mean(expected["utility"], 0), atol=ATOL
    )
    sparsity = hoyer(Masked(torch.from_numpy(INPUTS["A"]))).squeeze(1)
    np.testing.assert_allclose(sparsity, expected["hoyer"], atol=ATOL)
    np.testing.assert_allclose(INPUTS["A"].mean(1), expected["rbar"], atol=ATOL)


def test_hoyer_values() -> None:
    expected = FIXTURES["hoyer.values"]["expected"]
    base = np.array([0.2, 0.8, 0.6, 0.4])
    groups = {
        "onehot_G4": [1, 0, 0, 0],
        "ones_G4": [1, 1, 1, 1],
        "zeros_G4": [0, 0, 0, 0],
        "pm1_G4": [-1, 1, -1, 1],
        "neg_const": [-2, -2, -2, -2],
        "three_of_four": [1, 1, 1, 0],
        "two_of_four": [1, 1, 0, 0],
        "0.2_0.8_0.6_0.4": base,
        "shift+10": base + 10,
        "scale*7": base * 7,
        "G1": [3.0],
    }
    assert groups.keys() == expected.keys()
    for key, group in groups.items():
        values = torch.tensor(np.asarray(group, dtype=np.float64)).reshape(1, -1, 1)
        assert float(hoyer(Masked(values))) == pytest.approx(expected[key], abs=ATOL), key


def test_sa_mrpo_fixture() -> None:
    expected = FIXTURES["sa_mrpo"]["expected"]
    output = run("sa_mrpo@paper", INPUTS["A"], bounds=unit(3))
    np.testing.assert_allclose(output.advantages, expected["advantages"], atol=ATOL)
    np.testing.assert_allclose(output.component_weights, expected["weights"], atol=ATOL)
    np.testing.assert_allclose(output.aggregated_reward, expected["pre"], atol=ATOL)
    np.testing.assert_allclose(output.diagnostics["saturation"], expected["saturation"], atol=ATOL)


def test_pref_grpo_fixture() -> None:
    fixture = FIXTURES["pref_grpo.win_rate"]
    wins = np.array(fixture["params"]["wins"])[None]
    batch = batch_of(np.zeros((1, 4, 1)), extras={"pairwise": wins})
    rates = win_rate(pairwise_points(open_batch(batch))).values[0, :, 0]
    np.testing.assert_allclose(rates, fixture["expected"]["win_rate"], atol=ATOL)
    output = make_estimator("pref_grpo")(batch)[0]
    np.testing.assert_allclose(output.advantages[0], fixture["expected"]["advantages"], atol=ATOL)


def test_branch_grpo_fixture() -> None:
    expected = FIXTURES["branch_grpo.uniform"]["expected"]
    leaves = np.array([1.0, 3.0, 2.0, 6.0]).reshape(1, 4, 1)
    parent = np.array([[-1, 0, 0, 1, 1, 2, 2]])
    output = run("branch_grpo", leaves, extras={"tree_parent": parent})
    np.testing.assert_allclose(output.advantages[0, [0, 2], 0], expected["depth1"], atol=ATOL)
    np.testing.assert_allclose(output.advantages[0, :, 1], expected["depth2"], atol=ATOL)
    np.testing.assert_allclose(output.aggregated_reward[0, [0, 2], 0], expected["node_values"])


def test_dense_grpo_fixture() -> None:
    fixture = FIXTURES["dense_grpo"]
    rewards = np.array(fixture["params"]["R_T_to_0"])[None]
    output = run("dense_grpo", rewards[..., -1:], extras={"ode_rewards": rewards})
    np.testing.assert_allclose(output.aggregated_reward[0], fixture["expected"]["gain"], atol=ATOL)
    np.testing.assert_allclose(output.advantages[0], fixture["expected"]["advantages"], atol=ATOL)


def test_gardo_diversity_fixture() -> None:
    fixture = FIXTURES["gardo.diversity"]
    features = np.array(fixture["params"]["embeddings"], dtype=np.float64)[None]
    rewards = np.array(fixture["params"]["rewards"]).reshape(1, 4, 1)
    distance = nearest_distance(Masked(torch.from_numpy(features)), torch.ones(1, 4).bool())
    np.testing.assert_allclose(distance.values[0], fixture["expected"]["distance"], atol=ATOL)
    for preset in ("paper", "code"):
        config = {"preset": preset, "gate": "none"}
        output = run("gardo", rewards, config, extras={"features": features})
        np.testing.assert_allclose(output.advantages[0], fixture["expected"][preset], atol=ATOL)


def test_par_fixture() -> None:
    batch = batch_of(
        np.full((1, 1, 1), 1.5), extras={"ref_rewards": np.arange(3.0).reshape(1, 3, 1)}
    )
    value = make_transform({"name": "par", "k": 1.0})(open_batch(batch)).scores.values
    assert float(value) == pytest.approx(FIXTURES["par"]["expected"]["r"], abs=ATOL)


def test_ensemble_fixture() -> None:
    expected = FIXTURES["ensemble"]["expected"]
    scores = np.array([1.0, 2.0, 4.0]).reshape(1, 1, 3, 1)
    work = open_batch(batch_of(np.zeros((1, 1, 1)), extras={"ensemble": scores}))
    settings = {
        "mean": {"mode": "mean"},
        "wco": {"mode": "wco"},
        "uwo_paper_ddof0": {"mode": "uwo", "lam": 0.1, "ddof": 0},
        "uwo_ppo_repo_ddof1": {"mode": "uwo", "lam": 0.1, "ddof": 1},
    }
    assert settings.keys() == expected.keys()
    for key, setting in settings.items():
        value = make_transform({"name": "ensemble", **setting})(work).scores.values
        assert float(value) == pytest.approx(expected[key], abs=ATOL), key


def test_pure_fixture() -> None:
    expected = FIXTURES["pure.softmin"]["expected"]
    batch = batch_of(np.array([0.5, -0.2, 0.8]).reshape(1, 1, 3, 1))
    weighted = make_transform("softmin_time")(open_batch(batch)).scores.values.flatten().numpy()
    np.testing.assert_allclose(weighted, expected["weighted"], atol=ATOL)
    assert weighted.sum() == pytest.approx(expected["outcome"], abs=ATOL)
    np.testing.assert_allclose(weighted[::-1].cumsum()[::-1], expected["returns"], atol=ATOL)


def test_every_fixture_is_tested() -> None:
    elsewhere = {
        "degenerate.const.grpo",
        "degenerate.const.gdpo",
        "degenerate.const.taros",
        "degenerate.float_noise.grpo_eps0",
        "taros.base",
        "taros.beta0",
        "hoyer.values",
        "sa_mrpo",
        "pref_grpo.win_rate",
        "branch_grpo.uniform",
        "dense_grpo",
        "gardo.diversity",
        "par",
        "ensemble",
        "pure.softmin",
    }
    assert FIXTURES.keys() == PRESETS.keys() | elsewhere


TABLE = {
    "gdpo@nvlabs_trl": [
        [0.218257, -0.218257, 0.810907, -0.810907],
        [-1.056648, 1.985101, -0.240205, -0.688249],
    ],
    "gdpo@verl": [
        [0.218097, -0.218097, 0.810694, -0.810694],
        [-1.056877, 1.985442, -0.240302, -0.688263],
    ],
    "gdpo@nemo_loo": [
        [0.035931, -0.096550, 0.557540, -0.618158],
        [-0.993695, 2.137766, -0.182898, -0.839935],
    ],
}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_presets_known_from_tables(name: str) -> None:
    output = run(name, INPUTS["A"], weights=W)
    np.testing.assert_allclose(output.advantages, TABLE[name], atol=ATOL)


def test_whitening_over_ten_tokens_per_sample() -> None:
    expected = [
        [0.231694, -0.231694, 0.861234, -0.861234],
        [-1.122765, 2.109219, -0.255283, -0.731171],
    ]
    output = run("gdpo@verl", INPUTS["A"], {"tokens": 10}, weights=W)
    np.testing.assert_allclose(output.advantages, expected, atol=ATOL)
    counted = run("gdpo@verl", INPUTS["A"], weights=W, extras={"tokens": np.full((2, 4), 10)})
    np.testing.assert_allclose(counted.advantages, expected, atol=ATOL)


def test_released_gdpo_scores_missing_as_zero() -> None:
    output = run("gdpo@nvlabs_trl", INPUTS["NANS"])
    expected = [[0.051179, -0.374865, 1.345925, -1.022238]]
    np.testing.assert_allclose(output.advantages, expected, atol=ATOL)


def test_t24_released_gdpo_with_one_component_is_grpo() -> None:
    """A small weight makes the epsilon visible: normalising first would not see it."""
    weights = np.array([0.01])
    got = run("gdpo@nvlabs_trl", INPUTS["A"][..., :1], weights=weights).advantages
    s = 0.01 * INPUTS["A"][..., 0]
    expected = (s - s.mean(1, keepdims=True)) / (s.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_nemo_leave_one_out_on_one_hot() -> None:
    output = run("grpo@nemo_loo", INPUTS["ONEHOT"])
    np.testing.assert_allclose(output.advantages, [[1.0] + [-0.577349] * 3], atol=ATOL)


def test_ddof_zero_of_cosmos_on_the_reference_input() -> None:
    output = run("grpo@cosmos", INPUTS["A"], weights=W)
    assert output.advantages[0, 0] == pytest.approx(0.759255, abs=ATOL)


def test_taros_on_scores_outside_the_unit_interval() -> None:
    output = run("taros", INPUTS["VA"], {"rescale": False})
    np.testing.assert_allclose(output.component_weights[0], [0.4808, 0.2849, 0.2343], atol=5e-5)


def test_taros_reversed_order_changes_the_weights() -> None:
    forward = run("taros", INPUTS["A"], bounds=unit(3)).component_weights[0]
    backward = run("taros", INPUTS["A"][..., ::-1], bounds=unit(3)).component_weights[0][::-1]
    np.testing.assert_allclose(forward, [0.355, 0.331, 0.314], atol=5e-4)
    np.testing.assert_allclose(backward, [0.394, 0.292, 0.314], atol=5e-4)


def test_gdpo_worked_example_of_the_paper() -> None:
    """Figure 2: GRPO cannot tell (0,1), (0,2) and (1,2) apart, GDPO can."""
    groups = {(0, 1): [[0, 0], [1, 0]], (0, 2): [[0, 0], [1, 1]], (1, 2): [[1, 0], [1, 1]]}
    for sums, rewards in groups.items():
        rewards = np.array([rewards], dtype=np.float64)
        grpo = run("grpo@paper", rewards).advantages[0]
        np.testing.assert_allclose(grpo, [-(0.5**0.5), 0.5**0.5])
        gdpo = run("gdpo", rewards, {"batch": None}).advantages[0]
        scale = 2.0 if sums == (0, 2) else 1.0
        np.testing.assert_allclose(gdpo, scale * grpo)
