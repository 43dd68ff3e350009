"""Scores, clips and steps that are missing say nothing: neither good nor bad, of nobody else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reelrl.algos.advantages import RewardBatch, make_estimator, score_comparisons
from reelrl.algos.advantages.methods.dense import turning_points

SUMS_REWARDS = ["grpo", "dr_grpo", "rloo", "global_std", "reinforce_pp", "reinforce_pp_baseline",
                "fixed_weights", "dynamic_weight"]  # fmt: skip
STEPS = ["dense_grpo", "tp_grpo", "tp_grpo@code"]


def run(name: str, r: np.ndarray, config: dict[str, Any] | None = None, **kw: Any) -> np.ndarray:
    names = tuple(f"r{k}" for k in range(r.shape[-1]))
    kw.setdefault("bounds", np.tile([0.0, 1.0], (r.shape[-1], 1)))
    return make_estimator(name, **(config or {}))(RewardBatch(r, names, **kw))[0].advantages


def with_hole(seed: int, *shape: int) -> np.ndarray:
    r = np.random.default_rng(seed).random(shape)
    r[0, 1, 0] = np.nan
    return r


@pytest.mark.parametrize("name", SUMS_REWARDS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.sampled_from([-1.0, 0.5, 4.0]))
def test_where_zero_lies_on_the_scale_does_not_matter(name: str, seed: int, shift: float) -> None:
    """A sum over what is present would make a failed clip the best of [-1, 0]."""
    r = with_hole(seed, 3, 5, 2)
    np.testing.assert_allclose(run(name, r + shift), run(name, r), atol=1e-9)


@pytest.mark.parametrize("name", [*SUMS_REWARDS, "taros", "saw"])
def test_a_judge_that_fails_on_the_best_clip_does_not_make_it_the_worst(name: str) -> None:
    r = np.array([[[0.8, 0.8], [0.8, np.nan], [0.7, 0.7], [0.75, 0.75]]])
    a = run(name, r)[0]
    # By what is known of it the second clip is above the group's mean, less clearly than the first.
    assert a[0] > a[1] > 0 > a[2]


def test_a_missing_score_is_the_mean_of_its_group_or_of_the_batch() -> None:
    r = np.random.default_rng(0).random((2, 4, 2))
    holes, filled = r.copy(), r.copy()
    holes[0, 1, 0] = np.nan
    filled[0, 1, 0] = r[0, [0, 2, 3], 0].mean()
    holes[1, :, 1] = np.nan
    filled[1, :, 1] = r[0, :, 1].mean()
    for name in SUMS_REWARDS:
        np.testing.assert_allclose(run(name, holes), run(name, filled), atol=1e-12)


def test_trl_scores_a_missing_component_zero() -> None:
    """As its ``nansum`` does: fidelity of a preset, not advice."""
    holes = with_hole(0, 2, 4, 2)
    for name in ("grpo@trl", "grpo@trl_batch", "dr_grpo@trl", "rloo@trl", "rloo@trl_norm",
                 "global_std@trl"):  # fmt: skip
        np.testing.assert_allclose(run(name, holes), run(name, np.nan_to_num(holes)), atol=1e-12)
    with pytest.raises(ValueError, match="nan must be one of skip, zero, got 'drop'"):
        make_estimator("gdpo", nan="drop")
    with pytest.raises(ValueError, match="nan must be one of skip, zero, got 'drop'"):
        make_estimator("pref_grpo", nan="drop")


# --- invalid members ------------------------------------------------------------------------------


def world_of(seed: int, members: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(0, 4, (2, members)).astype(float))
    return rng.random((2, members, 2)), {
        "pairwise": score_comparisons(scores).numpy(),
        "features": rng.normal(size=(2, members, 3)),
        "aux_rewards": rng.random((2, members, 2)),
        "ode_rewards": rng.random((2, members, 5)),
    }


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "name", ["arena", "arena@anchor", "pref_grpo", "gardo", "gardo@code", *STEPS]
)
def test_padding_among_the_members_changes_nothing(name: str, seed: int) -> None:
    """In front, in between and behind; the padding's comparisons are there, and do not count."""
    r, extras = world_of(seed, 6)
    valid = np.zeros((2, 6), bool)
    kept = np.sort(np.random.default_rng(seed).permutation(6)[:4])
    valid[:, kept] = True
    needs = make_estimator(name).requires
    whole = {k: v for k, v in extras.items() if k in needs}
    part = {k: v[:, kept] for k, v in whole.items()}
    if "pairwise" in part:
        part["pairwise"] = part["pairwise"][:, :, kept]
    a = run(name, r, valid=valid, extras=whole)
    np.testing.assert_allclose(a[:, kept], run(name, r[:, kept], extras=part), atol=1e-12)
    assert not a[~valid].any()


def test_arena_of_fewer_than_two_is_zero() -> None:
    r, extras = world_of(0, 3)
    for name in ("arena", "arena@anchor"):
        for left in (0, 1):
            valid = np.arange(3)[None].repeat(2, 0) < left
            assert not run(name, r, valid=valid, extras={"pairwise": extras["pairwise"]}).any()


def test_an_invalid_leaf_however_likely_says_nothing_of_its_siblings() -> None:
    """Log-probabilities of latents are thousands of nats: their softmax underflows."""
    r = np.array([[[0.0], [1.0], [0.0], [0.25]]])
    parents = np.array([[-1, 0, 0, 1, 1, 2, 2]])
    logp = np.array([[0.0, 0.0, 0.0, 2000.0, 0.0, 0.0, 0.0]])
    valid = np.array([[False, True, True, True]])
    extras = {"tree_parent": parents, "edge_logp": logp}
    a = run("branch_grpo@path_weighted", r, valid=valid, extras=extras)
    assert a[0, 1, 0] > 0 > a[0, 2, 0]
    nobody = run("branch_grpo@path_weighted", r, valid=~valid.any(1, keepdims=True) & ~valid,
                 extras=extras)  # fmt: skip
    assert np.isfinite(nobody).all()


# --- embeddings -----------------------------------------------------------------------------------


def test_an_embedding_that_is_not_known_changes_no_advantage() -> None:
    r = np.array([[[0.9], [0.8], [0.1], [0.0]]])
    features = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]]])
    plain = run("grpo@flow_grpo", r, {"eps": 0.0})
    for unknown in (0.0, np.nan):
        broken = features.copy()
        broken[0, 0] = unknown
        for mode in ("paper", "code"):
            a = run("gardo", r, {"gate": "none", "diversity": mode}, extras={"features": broken})
            assert a[0, 0] == pytest.approx(plain[0, 0])


def test_nobody_pays_where_the_proxy_agrees_with_the_auxiliary_scores() -> None:
    r = np.random.default_rng(0).random((2, 8, 1))
    extras = {"features": np.random.default_rng(1).normal(size=(2, 8, 3)), "aux_rewards": r**2}
    batch = RewardBatch(r, ("a",), extras=extras)
    assert not make_estimator("gardo")(batch)[0].kl_gate.any()


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_a_component_unscored_at_one_time_makes_no_gain(name: str) -> None:
    rng = np.random.default_rng(0)
    ode = 0.5 + 0.01 * rng.random((1, 4, 5, 2))
    ode[0, 1, 2, 1] = np.nan
    a = run(name, rng.random((1, 4, 2)), extras={"ode_rewards": ode})
    # Steps 1 and 2 lead to and from the time that lacks a component.
    assert a[0, 1, 1] == a[0, 1, 2] == 0
    if name == "dense_grpo":
        assert a[0, 1, 0] != 0 and a[0, 1, 3] != 0


@pytest.mark.parametrize("name", STEPS)
def test_a_component_unscored_throughout_leaves_the_other(name: str) -> None:
    """Its gains count as the group's on average; a weight of 0 makes even that no matter."""
    rng = np.random.default_rng(0)
    ode = rng.random((1, 4, 5, 2))
    ode[0, 1, :, 1] = np.nan
    a = run(name, rng.random((1, 4, 2)), extras={"ode_rewards": ode})
    assert (a[0, 1] != 0).any()
    ode[0, 2, 2, 1] = np.nan
    first = run(name, rng.random((1, 4, 2)), weights=np.array([1.0, 0.0]),
                extras={"ode_rewards": ode})  # fmt: skip
    alone = run(name, rng.random((1, 4, 2)), extras={"ode_rewards": ode[..., 0]})
    np.testing.assert_allclose(first, alone, atol=1e-12)


def test_a_step_after_one_that_is_not_known_does_not_turn() -> None:
    completion = torch.tensor([[[0.0, 1.0, -1.0, 1.5, 3.0]]])
    assert turning_points(completion)[0, 0].tolist() == [True, False, True, False]
    known = torch.tensor([[[True, False, False, True]]])
    assert turning_points(completion, known)[0, 0].tolist() == [True, False, False, False]
    known = torch.tensor([[[True, False, True, True]]])
    assert turning_points(completion, known)[0, 0].tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", STEPS)
def test_masked_steps_are_left_out_of_step_estimators(name: str) -> None:
    rng = np.random.default_rng(0)
    r, ode = rng.random((2, 4, 2)), rng.random((2, 4, 4))
    mask = np.ones((2, 4, 3), bool)
    mask[0, 1, 2] = False
    a = run(name, r, extras={"ode_rewards": ode, "step_mask": mask})
    others = np.delete(np.arange(4), 1)
    without = run(name, r[:, others], extras={"ode_rewards": ode[:, others]})
    assert a[0, 1, 2] == 0 and a[0, 1, 1] != 0
    np.testing.assert_allclose(a[0, others, 2], without[0, :, 2], atol=1e-12)
    with pytest.raises(ValueError, match=r"step_mask must have shape \(2, 4, 3\), got \(7, 1\)"):
        run(name, r, extras={"ode_rewards": ode, "step_mask": np.ones((7, 1), bool)})
    dense = np.repeat(r[:, :, None], 3, 2)
    valid = run(name, dense, extras={"ode_rewards": ode}, valid=mask)
    np.testing.assert_allclose(valid, a, atol=1e-12)
    with pytest.raises(ValueError, match="3 steps"):
        run(name, dense[:, :, :2], extras={"ode_rewards": ode})


def test_credit_reaches_no_step_that_is_ruled_out_and_any_other() -> None:
    r = np.random.default_rng(0).random((1, 4, 3, 2))
    valid = np.ones((1, 4, 3), bool)
    valid[0, 0, 2] = False
    for credit in ("trajectory", "return_to_go"):
        assert run("grpo", r, {"credit": credit}, valid=valid)[0, 0, 2] == 0
    # A reward that comes with the last step alone credits all that lead to it.
    sparse = r.copy()
    sparse[:, :, :2] = np.nan
    last = run("grpo", r[:, :, 2])
    for credit in ("trajectory", "return_to_go"):
        a = run("grpo", sparse, {"credit": credit})
        np.testing.assert_allclose(a, np.repeat(last[:, :, None], 3, 2), atol=1e-12)
    # After the last reward there is nothing left to be credited with.
    early = r.copy()
    early[:, :, 1:] = np.nan
    assert not run("grpo", early, {"credit": "return_to_go"})[:, :, 1:].any()


def test_one_member_has_nobody_to_be_compared_with() -> None:
    r = np.random.default_rng(0).random((1, 1, 4, 2))
    assert not run("mapo_mica", r).any()


# --- what is remembered ---------------------------------------------------------------------------


def test_what_nobody_scored_moves_no_average() -> None:
    r = np.random.default_rng(0).random((2, 4, 2))
    hole = r.copy()
    hole[..., 1] = np.nan
    saw = make_estimator("saw", ema=0.9)
    _, state = saw(RewardBatch(r, ("a", "b")))
    _, after = saw(RewardBatch(hole, ("a", "b")), state)
    assert after["mean"][1] == state["mean"][1] and after["std"][1] == state["std"][1]
    _, first = saw(RewardBatch(hole, ("a", "b")))
    assert torch.isnan(first["mean"]).tolist() == [False, True]
    _, second = saw(RewardBatch(r, ("a", "b")), first)
    assert float(second["mean"][1]) == pytest.approx(r[..., 1].mean())

    bounds = np.array([[0, 1], [0, 1.0]])
    taros = make_estimator("taros", calibration={"rule": "gain", "ema": 0.5})
    _, state = taros(RewardBatch(r, ("a", "b"), bounds=bounds))
    _, state = taros(RewardBatch((1 + r) / 2, ("a", "b"), bounds=bounds), state)
    _, after = taros(RewardBatch(hole, ("a", "b"), bounds=bounds), state)
    assert state["gain"][1] > 0 and after["gain"][1] == state["gain"][1]
