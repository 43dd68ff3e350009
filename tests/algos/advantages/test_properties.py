"""What the theory says of each estimator, as properties over random batches."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from reelrl.algos.advantages import (
    Moments,
    NormSpec,
    RewardBatch,
    list_estimators,
    make_estimator,
    make_transform,
    score_comparisons,
)
from reelrl.algos.advantages.batch import open_batch
from reelrl.algos.advantages.hoyer import hoyer
from reelrl.algos.advantages.masked import Masked
from reelrl.algos.advantages.methods.gardo import batch_win_rate
from reelrl.algos.advantages.methods.pairwise import anchor_scores, single_elimination_scores
from reelrl.algos.advantages.simplex import min_norm_weights
from reelrl.algos.advantages.transforms import pairwise_points, win_rate

settings.register_profile("estimators", max_examples=25, deadline=None)
settings.load_profile("estimators")

EXACT = {"group": NormSpec(ddof=1, eps=0.0)}
SIMPLE = ["grpo", "dr_grpo", "rloo", "advantage_sum", "taros", "dvao", "global_std"]


def grid(seed: int, levels: int, *shape: int) -> np.ndarray:
    """Multiples of 1/64 in [0, 1]; with few levels, ties and constant groups are common."""
    return np.random.default_rng(seed).integers(0, levels, shape) * (64 // levels) / 64.0


def rewards(prompts: int = 0, members: int = 0, components: int = 0) -> st.SearchStrategy:
    """(P, G, K) in [0, 1]. Seeds instead of element-wise draws: twenty times faster."""

    def size(fixed: int, low: int, high: int) -> st.SearchStrategy:
        return st.just(fixed) if fixed else st.integers(low, high)

    return st.builds(
        grid,
        st.integers(0, 10**6),
        st.sampled_from([2, 4, 64]),
        size(prompts, 1, 3),
        size(members, 2, 6),
        size(components, 1, 4),
    )


def weights_for(components: int) -> st.SearchStrategy[np.ndarray]:
    return st.tuples(*[st.sampled_from([0.25, 0.5, 1.0, 3.0])] * components).map(np.array)


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"r{k}" for k in range(count))


def run(name: str, r: np.ndarray, config: dict[str, Any] | None = None, **kw: Any) -> Any:
    kw.setdefault("bounds", np.tile([0.0, 1.0], (r.shape[-1], 1)))
    batch = RewardBatch(r, names_of(r.shape[-1]), **kw)
    return make_estimator(name, **(config or {}))(batch)[0]


def close(a: Any, b: Any, atol: float = 1e-7) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol, rtol=1e-6)


def work_of(r: np.ndarray, **extras: np.ndarray) -> Any:
    return open_batch(RewardBatch(r, names_of(r.shape[-1]), extras=extras))


# --- 1, 2: moments of the output ----------------------------------------------------------------


@pytest.mark.parametrize("name", [*SIMPLE, "adv_min_norm", "fixed_weights", "marble"])
@given(r=rewards())
def test_zero_mean_per_group(name: str, r: np.ndarray) -> None:
    close(run(name, r).advantages.sum(1), 0.0)


@given(r=rewards())
def test_gdpo_has_zero_group_means_before_the_batch_norm(r: np.ndarray) -> None:
    close(run("gdpo", r).aggregated_reward.sum(1), 0.0)


def test_the_known_exceptions_to_zero_mean() -> None:
    onehot = np.array([[[1.0], [0.0], [0.0], [0.0]]])
    assert run("grpo@nemo_loo", onehot).advantages.sum() == pytest.approx(-0.732, abs=1e-3)
    two = np.array([[[1.0], [0.9]], [[0.0], [0.3]]])
    assert abs(run("reinforce_pp", two).advantages[0].sum()) > 1
    mixed = np.array([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.9], [0.2, 0.1]]])
    assert abs(run("gd2po", mixed, {"batch": None}).advantages.sum()) > 0.1
    pair = np.random.default_rng(0).random((2, 4, 2))
    assert abs(run("gdpo@nemo_loo", pair).advantages[0].sum()) > 0.01
    assert abs(run("gdpo", pair).advantages[0].sum()) < 1e-12
    features = np.random.default_rng(0).normal(size=(1, 4, 3))
    gardo = run("gardo", onehot, {"gate": "none"}, extras={"features": features})
    assert abs(gardo.advantages.sum()) > 0.01


@pytest.mark.parametrize("name", ["grpo", "taros"])
@given(r=rewards())
def test_unit_variance_per_group_with_spread(name: str, r: np.ndarray) -> None:
    a = run(name, r, EXACT).advantages
    for group in a:
        if np.any(group):
            assert np.var(group, ddof=1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("name", "ddof"), [("gdpo", 1), ("sa_mrpo", 0), ("reinforce_pp", 1)])
@given(r=rewards())
def test_unit_variance_over_the_batch(name: str, ddof: int, r: np.ndarray) -> None:
    a = run(name, r, {"batch": NormSpec("batch", "batch", ddof=ddof, eps=0.0)}).advantages
    if np.any(a):
        assert np.var(a, ddof=ddof) == pytest.approx(1.0, abs=1e-6)
        assert a.mean() == pytest.approx(0.0, abs=1e-6)


# --- 3: invariances -----------------------------------------------------------------------------


@given(r=rewards(), scale=st.sampled_from([0.25, 3.0, 64.0]), shift=st.integers(-8, 8))
def test_grpo_is_invariant_to_a_joint_affine_map(r: np.ndarray, scale: float, shift: int) -> None:
    close(run("grpo", r, EXACT).advantages, run("grpo", r * scale + shift, EXACT).advantages)


@pytest.mark.parametrize("name", ["dr_grpo", "rloo"])
@given(r=rewards(), scale=st.sampled_from([0.25, 3.0, 64.0]), shift=st.integers(-8, 8))
def test_scale_equivariance_and_shift_invariance(
    name: str, r: np.ndarray, scale: float, shift: int
) -> None:
    close(scale * run(name, r).advantages, run(name, r * scale + shift).advantages)


@pytest.mark.parametrize("name", ["gdpo", "advantage_sum", "gd2po"])
@given(r=rewards(components=3), shift=st.integers(-8, 8))
def test_componentwise_affine_invariance(name: str, r: np.ndarray, shift: int) -> None:
    config: dict[str, Any] = {"eps": 0.0}
    if name == "gd2po":
        # The borderline |sum z| / sum |z| = tau may fall either way by rounding.
        config["mode"] = "hard"
        config["margin"] = 1e-9
    moved = r * np.array([0.25, 3.0, 64.0]) + np.array([shift, 0, -shift])
    close(run(name, r, config).advantages, run(name, moved, config).advantages, 1e-6)


@given(r=rewards(components=3), w=weights_for(3), factor=st.sampled_from([0.125, 5.0]))
def test_gdpo_takes_only_ratios_of_weights(r: np.ndarray, w: np.ndarray, factor: float) -> None:
    exact = {"batch": NormSpec("batch", "batch", eps=0.0)}
    one = run("gdpo", r, exact, weights=w).advantages
    close(one, run("gdpo", r, exact, weights=w * factor).advantages, 1e-6)


@pytest.mark.parametrize("name", ["taros", "saw", "sa_mrpo"])
def test_these_are_not_shift_invariant(name: str) -> None:
    r = np.random.default_rng(3).random((2, 5, 2)) / 2
    wide = np.array([[0.0, 1.0], [0.0, 1.0]])
    moved = r + np.array([0.45, 0.0])
    a, b = run(name, r, bounds=wide).advantages, run(name, moved, bounds=wide).advantages
    assert np.abs(a - b).max() > 1e-4


def test_t40_one_component_on_a_large_scale_takes_over_grpo_but_not_gdpo() -> None:
    r, scale = np.array([[[1.0, 0.0], [0.0, 0.5], [0.2, 0.9]]]), np.array([10.0, 1.0])
    assert np.abs(run("grpo", r).advantages - run("grpo", r * scale).advantages).max() > 0.1
    close(run("gdpo", r).advantages, run("gdpo", r * scale).advantages)


# --- 4, 5, 6: identities between estimators -----------------------------------------------------


@given(r=rewards(), data=st.data())
def test_rloo_is_a_multiple_of_dr_grpo(r: np.ndarray, data: Any) -> None:
    w = data.draw(weights_for(r.shape[2]))
    g = r.shape[1]
    a = run("rloo", r, weights=w).advantages
    close(a, g / (g - 1) * run("dr_grpo", r, weights=w).advantages)


@given(r=rewards(components=1))
def test_one_component_identities(r: np.ndarray) -> None:
    grpo = run("grpo", r).advantages
    close(run("taros", r).advantages, grpo)
    whole = NormSpec("batch", "batch", ddof=0, eps=0.0)
    normed = run("grpo", r, {"group": NormSpec(ddof=0, eps=0.0), "batch": whole}).advantages
    close(run("sa_mrpo", r * 0.5).advantages, normed, 1e-6)


@given(r=rewards(prompts=1, components=1))
def test_gdpo_of_one_prompt_and_component_is_grpo(r: np.ndarray) -> None:
    close(run("gdpo", r).advantages, run("grpo", r).advantages, 1e-6)


@given(r=rewards(), data=st.data())
def test_sa_mrpo_without_gamma_is_gdpo(r: np.ndarray, data: Any) -> None:
    w = data.draw(weights_for(r.shape[2]))
    spec = {
        "group": NormSpec(ddof=0, eps=0.0),
        "batch": NormSpec("batch", "batch", ddof=0, eps=0.0),
    }
    a = run("sa_mrpo", r, {"gamma": 0.0}, weights=w).advantages
    close(a, run("gdpo", r, spec, weights=w).advantages)


@given(r=rewards(components=3), w=weights_for(3))
def test_dvao_is_grpo_on_another_scale(r: np.ndarray, w: np.ndarray) -> None:
    dvao = run("dvao", r, weights=w).advantages
    grpo = run("grpo", r, {"group": NormSpec(ddof=0, eps=0.0)}, weights=w).advantages
    top, bottom = (r @ w).std(1), (r.std(1) * w).sum(1)
    factor = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    close(dvao, grpo * factor[:, None])
    assert np.all(factor <= 1 + 1e-9)


# --- 7, 8: bounds, TaRoS ------------------------------------------------------------------------


@given(r=rewards())
def test_grpo_is_bounded_by_the_group_size(r: np.ndarray) -> None:
    g = r.shape[1]
    assert np.abs(run("grpo", r, EXACT).advantages).max() <= (g - 1) / math.sqrt(g) + 1e-9


@pytest.mark.parametrize("g", [2, 4, 16, 27])
def test_one_hot_attains_the_bound(g: int) -> None:
    onehot = np.eye(g)[:1, :, None]
    assert run("grpo", onehot, EXACT).advantages.max() == pytest.approx((g - 1) / math.sqrt(g))


@given(r=rewards(), beta=st.sampled_from([0.0, 0.3, 2.0]), slope=st.sampled_from([1.0, 10.0]))
def test_taros_weights_are_on_the_simplex_and_bounded(
    r: np.ndarray, beta: float, slope: float
) -> None:
    w = run("taros", r, {"beta": beta, "slope": slope}).component_weights
    assert np.all(w > 0)
    close(w.sum(1), 1.0)
    h = 1 / (1 + np.exp(-slope * (r.mean(1) - 0.75)))
    ratio = w.max(1) / w.min(1)
    # beta (S_j - S_{j+1}) lies in [-beta, beta], so two logits differ by at most range h + 2 beta.
    assert np.all(ratio <= np.exp(np.ptp(h, axis=1) + 2 * beta) * (1 + 1e-9))


@given(r=rewards())
def test_hoyer_is_a_function_of_the_coefficient_of_variation(r: np.ndarray) -> None:
    s = hoyer(Masked(torch.from_numpy(r))).numpy()[:, 0]
    assert np.all((s >= 0) & (s <= 1))
    mean, root = r.mean(1), math.sqrt(r.shape[1])
    cv2 = np.divide(r.var(1), mean**2, out=np.zeros_like(mean), where=mean > 0)
    close(s, root / (root - 1) * (1 - 1 / np.sqrt(1 + cv2)))


@given(r=rewards(components=3))
def test_taros_without_beta_does_not_see_component_order(r: np.ndarray) -> None:
    a = run("taros", r, {"beta": 0.0}).advantages
    close(a, run("taros", r[..., [2, 0, 1]], {"beta": 0.0}).advantages)


def test_taros_with_beta_does_see_component_order() -> None:
    r = np.array([[[1.0, 0.2, 0.5], [0.0, 0.8, 0.5], [1.0, 0.6, 0.5], [0.0, 0.4, 0.5]]])
    a = run("taros", r).component_weights[0]
    b = run("taros", r[..., ::-1]).component_weights[0][::-1]
    assert np.abs(a - b).max() > 0.03


@given(r=rewards(components=3))
def test_a_constant_component_is_silent_in_taros(r: np.ndarray) -> None:
    r[..., 1] = 0.5
    output = run("taros", r)
    assert float(output.diagnostics["hoyer"][1]) == pytest.approx(0.0, abs=1e-12)
    total = (r * output.component_weights[:, None]).copy()
    total[..., 1] = 0.0
    close(output.advantages, run("grpo", total).advantages, 1e-6)


# --- 9: who drives the update -------------------------------------------------------------------


@given(r=rewards(components=3))
def test_summed_rewards_keep_more_energy_than_summed_advantages(r: np.ndarray) -> None:
    w = np.array([0.5, 0.25, 0.25])
    spec = {"group": NormSpec(ddof=0, eps=0.0)}
    grpo = run("grpo", r, spec, weights=w).advantages
    parts = run("advantage_sum", r, spec, weights=w).advantages
    alive = (r @ w).std(1) > 1e-9
    assert np.all((grpo**2).mean(1)[alive] >= (parts**2).mean(1)[alive] - 1e-9)


def test_influence_law_for_independent_components() -> None:
    rng = np.random.default_rng(0)
    r = rng.normal(size=(4000, 16, 3)) * np.array([0.01, 0.1, 0.3])
    w = np.array([1.0, 2.0, 0.5])
    push = w * np.array([0.01, 0.1, 0.3])
    grpo = run("grpo", r, weights=w, bounds=None)
    close(grpo.diagnostics["influence"], push / push.sum(), 5e-3)
    close(grpo.diagnostics["advantage_corr"], push / np.linalg.norm(push), 2e-2)
    gdpo = run("gdpo", r, weights=w, bounds=None)
    close(gdpo.diagnostics["influence"], w / w.sum(), 1e-6)
    close(gdpo.diagnostics["advantage_corr"], w / np.linalg.norm(w), 2e-2)


# --- 10, 11: permutations, monotone maps --------------------------------------------------------

PERMUTABLE = [*SIMPLE, "gdpo", "sa_mrpo", "saw", "gd2po", "reinforce_pp", "adv_min_norm", "marble"]


@pytest.mark.parametrize("name", PERMUTABLE)
@given(r=rewards(components=3), seed=st.integers(0, 99))
def test_sample_permutation_equivariance(name: str, r: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(r.shape[1])
    # Rounding may move gd2po's borderline samples, whose score is then anything: use a margin.
    config = {"mode": "hard", "margin": 1e-9} if name == "gd2po" else {}
    a = run(name, r, config).advantages[:, order]
    close(a, run(name, r[:, order], config).advantages, 1e-6)


@pytest.mark.parametrize("name", [n for n in PERMUTABLE if n != "taros"])
@given(r=rewards(components=3), w=weights_for(3))
def test_component_permutation_invariance(name: str, r: np.ndarray, w: np.ndarray) -> None:
    order = [2, 0, 1]
    config = {"mode": "hard", "margin": 1e-9} if name == "gd2po" else {}
    a = run(name, r, config, weights=w).advantages
    close(a, run(name, r[..., order], config, weights=w[order]).advantages, 1e-6)


@given(r=rewards(components=1))
def test_comparisons_ignore_monotone_maps(r: np.ndarray) -> None:
    points = score_comparisons(torch.from_numpy(r[..., 0]))
    mapped = score_comparisons(torch.from_numpy(np.exp(3 * r[..., 0]) - 7))
    for score in (anchor_scores, single_elimination_scores):
        assert torch.equal(score(points), score(mapped))
    a = run("pref_grpo", r, extras={"pairwise": points.numpy()}).advantages
    assert np.array_equal(a, run("pref_grpo", r, extras={"pairwise": mapped.numpy()}).advantages)
    rate = batch_win_rate(Masked(torch.from_numpy(r[..., 0])))
    again = batch_win_rate(Masked(torch.from_numpy(np.exp(3 * r[..., 0]) - 7)))
    assert torch.equal(rate.values, again.values)


@given(r=rewards(components=1))
def test_win_rates_sum_to_half_the_group(r: np.ndarray) -> None:
    points = score_comparisons(torch.from_numpy(r[..., 0])).numpy()
    rates = win_rate(pairwise_points(work_of(r, pairwise=points))).values
    close(rates.sum(1), r.shape[1] / 2)
    # A half-filled table (one judgement per pair) says the same.
    points[:, np.tri(r.shape[1], dtype=bool)] = np.nan
    half = win_rate(pairwise_points(work_of(r, pairwise=points))).values
    close(half, rates)


# --- 12, 13, 14: dense rewards and transforms ---------------------------------------------------


@given(r=rewards(components=6))
def test_dense_gains_telescope(r: np.ndarray) -> None:
    output = run("dense_grpo", r[..., -1:], extras={"ode_rewards": r}, bounds=None)
    close(output.aggregated_reward.sum(-1), r[..., -1] - r[..., 0])


@given(r=rewards(members=4, components=1))
def test_branch_values_of_a_balanced_tree(r: np.ndarray) -> None:
    tree = np.tile([-1, 0, 0, 1, 1, 2, 2], (r.shape[0], 1))
    output = run("branch_grpo", r, extras={"tree_parent": tree})
    close(output.aggregated_reward.mean(1), np.repeat(r.mean(1), 2, axis=1))
    close(output.advantages[..., 1], run("grpo", r).advantages)


@given(r=rewards(components=5))
def test_mica_returns_of_potential_differences_telescope(r: np.ndarray) -> None:
    steps = np.diff(r, axis=-1)[..., None]
    only_turn = {"alpha": 1.0, "beta": 0.0}
    a = run("mapo_mica", steps, only_turn, bounds=None).advantages
    gap = (r[..., -1:] - r[..., :-1])[..., None]
    spec = {"group": NormSpec(ddof=0, eps=1e-8)}
    close(a, run("grpo", gap, spec, bounds=None).advantages, 1e-6)


@given(r=rewards(components=5), temperature=st.sampled_from([0.05, 0.5, 5.0]))
def test_softmin_lies_between_the_minimum_and_the_mean(r: np.ndarray, temperature: float) -> None:
    dense = r[..., None]

    def total(t: float) -> np.ndarray:
        step = make_transform({"name": "softmin_time", "temperature": t})
        return step(work_of(dense)).scores.values.sum(2).numpy()[..., 0]

    soft = total(temperature)
    assert np.all(soft >= r.min(-1) - 1e-9) and np.all(soft <= r.mean(-1) + 1e-9)
    close(total(1e-5), r.min(-1), 1e-6)
    close(total(1e7), r.mean(-1), 1e-6)


@given(seed=st.integers(0, 10**6))
def test_ensemble_bounds(seed: int) -> None:
    scores = 16 * grid(seed, 16, 2, 3, 4, 2) - 8
    work = work_of(np.zeros((2, 3, 2)), ensemble=scores)

    def value(**kw: Any) -> np.ndarray:
        return make_transform({"name": "ensemble", **kw})(work).scores.values.numpy()

    close(value(mode="uwo", lam=0.0), value(mode="mean"))
    assert np.all(value(mode="wco") <= value(mode="mean") + 1e-12)


@given(r=rewards(components=2), shift=st.integers(-5, 5))
def test_par_is_bounded_monotone_and_blind_to_a_common_shift(r: np.ndarray, shift: int) -> None:
    refs = np.random.default_rng(1).random((r.shape[0], 3, 2))
    value = make_transform("par")
    a = value(work_of(r, ref_rewards=refs)).scores.values.numpy()
    assert np.all((a > 0) & (a < 1))
    close(a, value(work_of(r + shift, ref_rewards=refs + shift)).scores.values)
    assert np.all(value(work_of(r + 0.01, ref_rewards=refs)).scores.values.numpy() > a)


# --- 15: the quadratic programme ----------------------------------------------------------------


@given(vectors=st.builds(lambda seed: 16 * grid(seed, 16, 4, 3) - 8, st.integers(0, 10**6)))
@example(vectors=np.zeros((4, 3)))
@example(vectors=np.ones((4, 3)))
def test_min_norm_point_is_a_common_ascent_direction(vectors: np.ndarray) -> None:
    gram = torch.from_numpy(vectors @ vectors.T)
    c = min_norm_weights(gram).numpy()
    assert np.all(c >= 0) and c.sum() == pytest.approx(1.0)
    d = c @ vectors
    assert np.all(vectors @ d >= d @ d - 1e-6 * max(1.0, np.abs(gram.numpy()).max()))


@given(angle=st.floats(0.1, 3.0))
def test_two_unit_vectors_share_equally(angle: float) -> None:
    gram = torch.tensor([[1.0, math.cos(angle)], [math.cos(angle), 1.0]], dtype=torch.float64)
    close(min_norm_weights(gram), [0.5, 0.5], 1e-6)


# --- 16, 17: missing scores, dtypes, purity -----------------------------------------------------


@pytest.mark.parametrize("name", [*SIMPLE, "gdpo", "sa_mrpo", "saw", "gd2po", "reinforce_pp"])
@given(r=rewards(components=2))
def test_padding_changes_nothing(name: str, r: np.ndarray) -> None:
    padded = np.concatenate([r, np.full_like(r[:, :2], 123.0)], 1)
    valid = np.arange(padded.shape[1])[None] < r.shape[1]
    valid = np.repeat(valid, len(r), 0)
    a = run(name, padded, valid=valid).advantages
    close(a[:, : r.shape[1]], run(name, r).advantages)
    assert not a[:, r.shape[1] :].any()
    close(run(name, np.where(valid[..., None], padded, np.nan)).advantages, a)


@given(r=rewards(components=2, members=4))
def test_a_missing_component_is_a_dropped_pair(r: np.ndarray) -> None:
    r[0, 1, 0] = np.nan
    parts = run("advantage_sum", r).component_advantages
    others = run("advantage_sum", np.delete(r, 1, 1)[..., :1]).component_advantages
    assert np.isnan(parts[0, 1, 0])
    close(np.delete(parts[0, :, 0], 1), others[0, :, 0])


@given(r=rewards())
def test_duplicating_members(r: np.ndarray) -> None:
    twice, g = np.concatenate([r, r], 1), r.shape[1]
    zero = {"group": NormSpec(ddof=0, eps=0.0)}
    close(run("grpo", twice, zero).advantages[:, :g], run("grpo", r, zero).advantages)
    factor = math.sqrt((2 * g - 1) / (2 * (g - 1)))
    close(run("grpo", twice, EXACT).advantages[:, :g], factor * run("grpo", r, EXACT).advantages)


@pytest.mark.parametrize("name", [*SIMPLE, "gdpo", "saw", "sa_mrpo"])
@given(r=rewards(components=2))
def test_narrow_dtypes_and_torch_agree_with_float64(name: str, r: np.ndarray) -> None:
    expected = run(name, r).advantages
    assert expected.dtype == np.float64
    single = run(name, r.astype(np.float32)).advantages
    assert single.dtype == np.float32
    close(single, expected, 1e-5)
    # Multiples of 1/64 up to 1 are exact in bfloat16 and float16.
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        narrow = run(name, torch.from_numpy(r).to(dtype)).advantages
        assert isinstance(narrow, torch.Tensor)
        assert narrow.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        close(narrow, expected, 1e-5)


@pytest.mark.parametrize("name", list_estimators())
def test_inputs_are_never_changed(name: str) -> None:
    rng = np.random.default_rng(0)
    estimator = make_estimator(name)
    r = rng.random((2, 4, 3, 2) if "dense" in estimator.requires else (2, 4, 2))
    r[0, 1, 0] = np.nan
    extras = {
        "features": rng.normal(size=(2, 4, 3)),
        "aux_rewards": rng.random((2, 4, 2)),
        "pairwise": score_comparisons(torch.from_numpy(rng.random((2, 4)))).numpy(),
        "ode_rewards": rng.random((2, 4, 4)),
        "tree_parent": np.tile([-1, 0, 0, 1, 1, 2, 2], (2, 1)),
    }
    keep = {key: value.copy() for key, value in extras.items()}
    before = r.copy()
    batch = RewardBatch(r, ("a", "b"), bounds=np.array([[0, 1], [0, 1.0]]), extras=extras)
    state = estimator.init_state(("a", "b"))
    frozen = {key: value.clone() for key, value in state.items()}
    one, after = estimator(batch, state)
    two, again = estimator(batch, state)
    np.testing.assert_array_equal(one.advantages, two.advantages)
    np.testing.assert_array_equal(r, before)
    for key, value in keep.items():
        np.testing.assert_array_equal(extras[key], value)
    for key, value in frozen.items():
        assert torch.equal(state[key].nan_to_num(-1), value.nan_to_num(-1)), key
        assert torch.equal(after[key].nan_to_num(-1), again[key].nan_to_num(-1)), key
    one.advantages[:] = 7.0
    np.testing.assert_array_equal(r, before)


# --- 18, 19, 20: conditioning, ranks, losses ----------------------------------------------------


@given(r=rewards(components=2))
def test_conditioning_on_minus_infinity_is_the_identity(r: np.ndarray) -> None:
    step = {"name": "conditioned", "component": "r0", "on": "r1", "threshold": -math.inf}
    assert np.array_equal(make_transform(step)(work_of(r)).scores.values.numpy(), r)
    gate = {**step, "threshold": 0.5}
    gated = make_transform(gate)(work_of(r)).scores.values.numpy()
    close(gated[..., 0], np.where(r[..., 1] >= 0.5, r[..., 0], 0.0))


class Ranks:
    """Two ranks as two threads that meet at every gather."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=20)
        self.parts: dict[int, torch.Tensor] = {}

    def gather(self, rank: int) -> Any:
        def together(tensor: torch.Tensor) -> torch.Tensor:
            self.parts[rank] = tensor
            self.barrier.wait()
            merged = torch.cat([self.parts[r] for r in sorted(self.parts)])
            self.barrier.wait()
            return merged

        return together


SPLIT = ["gdpo", "global_std", "reinforce_pp", "sa_mrpo", "saw", "gd2po", "adv_min_norm", "gardo",
         "taros@calibrated", "taros@third_party_v1", "random_sign", "mapo_mica@mapo"]  # fmt: skip
BY_THE_BATCH = ["dense_grpo", "tp_grpo", "mapo_mica", "adv_min_norm", "arena", "grpo"]
"""Estimators that are split with their group normalisation scaled by the batch's std."""


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("name", [*SPLIT, *(f"{name} by the batch" for name in BY_THE_BATCH)])
def test_ranks_together_equal_the_whole_batch(name: str, holes: bool) -> None:
    rng = np.random.default_rng(5)
    config: dict[str, Any] = {"scale": "batch"} if name.endswith(" by the batch") else {}
    config |= {"calibration": {"min_groups": 2}} if name == "taros@calibrated" else {}
    estimator = make_estimator(name.removesuffix(" by the batch"), **config)
    shape = (5, 4, 3, 2) if "dense" in estimator.requires else (5, 4, 2)
    r = rng.random(shape)
    if holes:
        r[0, 1] = np.nan  # on one rank only
        r[1, :, ..., 0] = np.nan  # a group without one component has the batch's mean of it
    wins = score_comparisons(torch.from_numpy(rng.random((5, 4)))).numpy()
    extras = {
        "features": rng.normal(size=(5, 4, 3)),
        "aux_rewards": rng.random((5, 4, 2)),
        "pairwise": wins,
        "ode_rewards": rng.random((5, 4, 4, 2)),
    }

    def part(rows: slice) -> RewardBatch:
        return RewardBatch(
            r[rows],
            ("a", "b"),
            bounds=np.array([[0, 1], [0, 1.0]]),
            prompt_ids=np.arange(5)[rows],
            extras={k: v[rows] for k, v in extras.items() if k in estimator.requires},
        )

    ranks, results = Ranks(2), {}

    def work(rank: int, rows: slice) -> None:
        results[rank] = estimator(part(rows), None, gather=ranks.gather(rank))

    threads = [threading.Thread(target=work, args=a) for a in ((0, slice(0, 2)), (1, slice(2, 5)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole, state = estimator(part(slice(0, 5)))
    joined = np.concatenate([results[0][0].advantages, results[1][0].advantages])
    close(joined, whole.advantages, 1e-10)
    for rank in (0, 1):
        for key, value in state.items():
            close(results[rank][1][key], value, 1e-10)


@given(r=rewards(components=2), cut=st.integers(0, 3))
def test_moments_merge(r: np.ndarray, cut: int) -> None:
    whole = Moments.of(Masked(torch.from_numpy(r)), per_component=True)
    pieces = [
        Moments.of(Masked(torch.from_numpy(x)), per_component=True) for x in (r[:cut], r[cut:])
    ]
    stacked = torch.stack([torch.stack([m.count, m.mean, m.m2, m.top]) for m in pieces])
    merged = pieces[0].merge(lambda _: stacked)
    for name in ("count", "mean", "m2", "top"):
        close(getattr(merged, name), getattr(whole, name), 1e-12)


def test_per_component_losses_equal_the_summed_one_only_on_policy() -> None:
    rng = np.random.default_rng(0)
    r = rng.random((1, 8, 2))
    output = run("dancegrpo", r)
    parts = torch.from_numpy(output.component_advantages[0])
    total = torch.from_numpy(output.advantages[0])

    def surrogate(ratio: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)

    def gradients(start: float) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for loss in (
            lambda x: surrogate(x, total).sum(),
            lambda x: surrogate(x[:, None], parts).sum(),
        ):
            ratio = torch.full((8,), start, dtype=torch.float64, requires_grad=True)
            found.append(torch.autograd.grad(loss(ratio), ratio)[0])
        return found[0], found[1]

    assert ((parts[:, 0] * parts[:, 1]) < 0).any()
    close(*gradients(1.0))
    summed, apart = gradients(1.5)
    assert (summed - apart).abs().max() > 0.1


@given(r=rewards(components=2), extra=st.integers(1, 3))
def test_a_batch_norm_of_nothing_is_nothing(r: np.ndarray, extra: int) -> None:
    """Groups without signal shrink the batch std and so inflate the others, but stay zero."""
    assume(np.any(run("gdpo", r).advantages))
    flat = np.full((extra, *r.shape[1:]), 0.5)
    a = run("gdpo", np.concatenate([r, flat])).advantages
    assert not a[len(r) :].any()
