"""Every preset against plain NumPy written from the published readings, degenerate groups included.

The numbers of a preset are only as good as its ddof, epsilon and place of the epsilon; here each is
spelt out a second time, and a preset without a second spelling fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelrl.algos.advantages import RewardBatch, estimator_class, list_estimators, make_estimator

METHODS = Path(__file__).parent / "methods"

W = np.array([1.0, 0.5, 2.0])
Function = Callable[[np.ndarray], np.ndarray]


def rewards() -> np.ndarray:
    """(5, 6, 3) with a constant group, a constant component and a binary one."""
    rng = np.random.default_rng(1)
    r = rng.random((5, 6, 3))
    r[1], r[2, :, 1], r[3, :, 0] = 0.4, 0.7, rng.integers(0, 2, 6)
    return r


# Small enough that every epsilon of the tables shows, at scales that no tolerance hides.
SCALES = (1.0, 1e-3, 1e-6)


def run(name: str, r: np.ndarray, **kw: Any) -> Any:
    count = r.shape[-1]
    batch = RewardBatch(
        r, tuple("abc"[:count]), weights=W[:count], bounds=np.tile([0.0, 1.0], (count, 1)), **kw
    )
    return make_estimator(name)(batch)[0]


def centre(x: np.ndarray) -> np.ndarray:
    """Minus the group mean; exactly zero where there is no spread."""
    return np.where(np.ptp(x, axis=1, keepdims=True) < 1e-14, 0.0, x - x.mean(1, keepdims=True))


def divisor(std: Any, eps: float, mode: str) -> Any:
    return {
        "add": std + eps,
        "floor": np.maximum(std, eps),
        "root": np.sqrt(std**2 + eps),
        "clampvar": np.sqrt(np.maximum(std**2, eps)),
    }[mode]


def z(x: np.ndarray, ddof: int, eps: float, mode: str = "add") -> np.ndarray:
    """Group z-score; where there is no spread the numerator is zero whatever the divisor."""
    d = divisor(x.std(1, ddof=ddof, keepdims=True), eps, mode)
    return centre(x) / np.where(d == 0, 1.0, d)


def group(ddof: int, eps: float, mode: str = "add") -> Function:
    return lambda x: z(x, ddof, eps, mode)


def batch(ddof: int, eps: float, mode: str = "add") -> Function:
    return lambda a: (a - a.mean()) / divisor(a.std(ddof=ddof), eps, mode)


def batch_scale(ddof: int, eps: float, mode: str = "add") -> Function:
    return lambda s: centre(s) / divisor(s.std(ddof=ddof), eps, mode)


def leave_one_out(x: np.ndarray) -> np.ndarray:
    """NeMo's default: mean and std of the others, undivided where that std is zero."""
    out = np.zeros_like(x)
    for p, i in np.ndindex(x.shape):
        others = np.delete(x[p], i)
        std = others.std(ddof=1)
        flat = np.ptp(others) < 1e-14
        out[p, i] = (x[p, i] - others.mean()) / (1.0 if flat else std + 1e-6)
    return np.where(np.ptp(x, axis=1, keepdims=True) < 1e-14, 0.0, out)


def loo_baseline(s: np.ndarray) -> np.ndarray:
    g = s.shape[1]
    return centre(s) * g / (g - 1)


def then(first: Function, second: Function) -> Function:
    return lambda x: second(first(x))


WHITEN = batch(1, 1e-8, "root")
SUM_FIRST: dict[str, Function] = {
    "grpo@paper": group(1, 0.0),
    "grpo@dancegrpo": group(1, 1e-8),
    "grpo@pref_grpo": group(1, 1e-8),
    "grpo@mixgrpo": group(1, 1e-8),
    "grpo@trl": group(1, 1e-4),
    "grpo@trl_batch": batch_scale(1, 1e-4),
    "grpo@verl": group(1, 1e-6),
    "grpo@openrlhf": group(1, 1e-9),
    "grpo@nemo": group(1, 1e-6),
    "grpo@nemo_loo": leave_one_out,
    "grpo@flow_grpo": group(0, 1e-4),
    "grpo@flow_factory": group(0, 1e-6, "floor"),
    "grpo@cosmos": group(0, 1e-6),
    "grpo@unirl": group(0, 1e-8, "root"),
    "grpo@arena_rl": group(1, 1e-6),
    "dr_grpo@paper": centre,
    "dr_grpo@trl": centre,
    "dr_grpo@cosmos": centre,
    "dr_grpo@verl": centre,
    "rloo@paper": loo_baseline,
    "rloo@trl": loo_baseline,
    "rloo@verl": loo_baseline,
    "rloo@trl_norm": then(loo_baseline, batch(1, 1e-4)),
    "reinforce_pp@verl": WHITEN,
    "reinforce_pp@nemo": batch(0, 1e-8, "clampvar"),
    "reinforce_pp@openrlhf": batch(0, 1e-8, "clampvar"),
    "reinforce_pp_baseline@verl": then(centre, WHITEN),
    "reinforce_pp_baseline@nemo": then(centre, batch(0, 1e-8, "clampvar")),
    "reinforce_pp_baseline@openrlhf": then(centre, batch(0, 1e-8, "clampvar")),
    "global_std@flow_grpo": batch_scale(0, 1e-4),
    "global_std@trl": batch_scale(1, 1e-4),
    "global_std@verl_omni": batch_scale(1, 1e-4),
    "global_std@unirl": batch_scale(0, 1e-8, "root"),
}

NORMALISE_FIRST: dict[str, tuple[Function, Function]] = {
    "gdpo@paper": (group(1, 0.0), batch(1, 1e-8)),
    "gdpo@trl": (group(1, 1e-4), batch(1, 1e-4)),
    "gdpo@nvlabs_trl": (group(1, 1e-4), batch(1, 1e-4)),
    "gdpo@nvlabs": (group(1, 1e-4), batch(1, 1e-4)),
    "gdpo@verl": (group(1, 1e-6), WHITEN),
    "gdpo@nemo": (group(1, 1e-6), batch(1, 0.0)),
    "gdpo@nemo_loo": (leave_one_out, batch(1, 0.0)),
    "gdpo@flow_factory": (group(0, 1e-6, "floor"), batch(0, 1e-6, "floor")),
    "gdpo@pref_grpo_repo": (group(1, 1e-8), batch(1, 1e-8)),
    "advantage_sum@mo_grpo": (group(1, 0.0), lambda a: a),
    "advantage_sum@mixgrpo": (group(1, 1e-8), lambda a: a),
    "advantage_sum@pref_grpo": (group(1, 1e-8), lambda a: a),
    "dancegrpo@hunyuan": (then(group(1, 1e-8), lambda a: a.clip(-5, 5)), lambda a: a),
}


def summed_after(r: np.ndarray, weights: np.ndarray, first: Function) -> np.ndarray:
    return sum(w * first(r[..., k]) for k, w in enumerate(weights))


def same(got: Any, expected: np.ndarray) -> None:
    """To rounding: an epsilon of 1e-8 against values of order one must show."""
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", sorted(SUM_FIRST))
def test_presets_that_sum_first(name: str, scale: float) -> None:
    r = rewards() * scale
    same(run(name, r).advantages, SUM_FIRST[name](r @ W))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", sorted(NORMALISE_FIRST))
def test_presets_that_normalise_first(name: str, scale: float) -> None:
    r = rewards() * scale
    first, last = NORMALISE_FIRST[name]
    output, total = run(name, r), summed_after(r, W, first)
    # The ddof of the group cancels in the batch norm, so the sum before it is compared too.
    same(output.aggregated_reward, total)
    same(output.advantages, last(total))


def test_released_verl_fork_of_gdpo_has_two_components_and_no_weights() -> None:
    r = rewards()[..., :2]
    expected = WHITEN(summed_after(r, np.ones(2), group(1, 1e-6)))
    np.testing.assert_allclose(run("gdpo@nvlabs_verl", r).advantages, expected, atol=1e-9)
    with pytest.raises(ValueError, match="takes 2 to 2 components, got 3"):
        run("gdpo@nvlabs_verl", rewards())


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("grpo@verl", lambda s: s / (1 + 1e-6)),
        ("dr_grpo@verl", lambda s: s),
        ("rloo@verl", lambda s: s),
        ("reinforce_pp_baseline@verl", WHITEN),
        ("gdpo@verl", lambda s: WHITEN(s / (1 + 1e-6))),
        ("grpo@trl", np.zeros_like),
        ("grpo@nemo_loo", np.zeros_like),
        ("gdpo@nemo_loo", np.zeros_like),
        ("gdpo@flow_factory", np.zeros_like),
        ("rloo@trl", np.zeros_like),
    ],
)
def test_singletons_are_raw_in_verl_and_zero_elsewhere(name: str, kept: Function) -> None:
    r = np.array([[[0.4, 0.6]], [[0.1, 0.9]]])
    np.testing.assert_allclose(run(name, r).advantages, kept(r @ W[:2]), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "tau"), [("scripts", 0.8), ("config", 0.2), ("hard", float("inf"))]
)
def test_gd2po_presets(name: str, tau: float) -> None:
    r = rewards()
    zs = np.stack([z(r[..., k], 1, 1e-6) for k in range(3)], -1)
    mixed = (zs > 0).any(-1) & (zs < 0).any(-1)
    total = np.where(mixed, np.abs(zs).sum(-1), 1.0)
    keep = ~(mixed & (np.abs(zs.sum(-1)) / total < tau))
    a = (zs @ W) * keep.mean(1, keepdims=True)
    white = (a - a[keep].mean()) / np.sqrt(a[keep].var(ddof=1) + 1e-8)
    output = run(f"gd2po@{name}", r)
    np.testing.assert_allclose(output.advantages, np.where(keep, white, 0.0), atol=1e-9)
    np.testing.assert_array_equal(output.sample_weight, keep)


def test_saw_presets() -> None:
    r = rewards()
    flat = r.reshape(-1, 3)
    cv = flat.std(0) / (flat.mean(0) + 1e-8)
    w = W * 3 * cv / cv.sum()
    np.testing.assert_allclose(run("saw@grpo_h", r).advantages, z(r @ w, 1, 1e-8), atol=1e-9)
    expected = batch(1, 1e-8)(summed_after(r, w, group(1, 0.0)))
    np.testing.assert_allclose(run("saw@gdpo_h", r).advantages, expected, atol=1e-9)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def hoyer(r: np.ndarray) -> np.ndarray:
    root = np.sqrt(r.shape[1])
    return (root - np.abs(r).sum(1) / np.sqrt((r**2).sum(1))) / (root - 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits + np.log(W))  # the static weights are the prior
    return e / e.sum(-1, keepdims=True)


TAROS = {
    "wan_1.3b": ((0.75, 0.75, 0.75), 1.0),
    "wan_14b": ((0.75, 0.73, 0.73), 1.0),
    "hunyuan": ((0.70, 0.68, 0.68), 1.0),
    "two_thresholds": ((0.75, 0.75, None), 1.0),
    "headroom": ((0.75, 0.75, 0.75), -10.0),
    "calibrated": ((0.75, 0.75, 0.75), 1.0),  # of the first batch, with no history yet
}


@pytest.mark.parametrize("name", sorted(TAROS))
def test_taros_presets(name: str) -> None:
    r, (tau, slope) = rewards(), TAROS[name]
    h = [0 if t is None else sigmoid(slope * (r[..., k].mean(1) - t)) for k, t in enumerate(tau)]
    s = hoyer(r)
    utility = np.stack(np.broadcast_arrays(*h), -1) + 0.3 * (s - np.c_[s[:, 1:], np.zeros(5)])
    w = softmax(utility)
    output = run(f"taros@{name}", r)
    np.testing.assert_allclose(output.component_weights, w, atol=1e-12)
    np.testing.assert_allclose(output.advantages, z((r * w[:, None]).sum(-1), 1, 1e-8), atol=1e-9)


def test_taros_third_party_v1() -> None:
    """softmax of 5 (sigmoid(8 (mean - .75)) + .5 (S_{j-1} - S_j)), statistics of the batch."""
    r = rewards()
    flat = r.reshape(1, -1, 3)
    s = hoyer(flat)[0]
    logits = 5 * (sigmoid(8 * (flat.mean((0, 1)) - 0.75)) + 0.5 * np.r_[0, s[:-1] - s[1:]])
    weights = run("taros@third_party_v1", r).component_weights
    np.testing.assert_allclose(weights, np.tile(softmax(logits), (5, 1)), atol=1e-12)


def test_taros_self_paced_gates() -> None:
    """A gate opens when those before have passed and closes when its own has; the last stays."""
    r = rewards()
    passed, s = sigmoid(10 * (r.mean(1) - 0.75)), hoyer(r)
    gate = np.stack(
        [
            1 - passed[:, 0],
            passed[:, 0] * (1 - passed[:, 1]),
            passed[:, 0] * passed[:, 1],
        ],
        -1,
    )
    w = softmax(gate + 0.3 * (s - np.c_[s[:, 1:], np.zeros(5)]))
    np.testing.assert_allclose(run("taros@self_paced", r).component_weights, w, atol=1e-12)


@pytest.mark.parametrize("name", ["paper", "paper_constrained", "code"])
def test_tp_grpo_presets(name: str) -> None:
    completion = np.round(np.random.default_rng(0).random((4, 5, 7)), 2)
    d = np.diff(completion, axis=-1)
    first, here, last = completion[..., :1], completion[..., :-1], completion[..., -1:]
    side = np.sign(d) * np.sign(last - first)
    turn = (side > 0) & (np.concatenate([-np.ones((4, 5, 1)), side[..., :-1]], -1) < 0)
    if name == "paper_constrained":
        loose, turn = turn, turn & (np.sign(d) == np.sign(last - here))
        assert (loose != turn).any()
    step = (last - first) + turn * d if name == "code" else np.where(turn, last - here, d)
    got = run(f"tp_grpo@{name}", np.zeros((4, 5, 1)), extras={"ode_rewards": completion})
    np.testing.assert_allclose(got.advantages, z(step, 0, 1e-4), atol=1e-9)


@pytest.mark.parametrize("name", ["mica", "mapo"])
def test_mapo_and_mica(name: str) -> None:
    r = np.random.default_rng(0).random((3, 4, 5, 3))
    s = r @ W
    turn = z(s[..., ::-1].cumsum(-1)[..., ::-1], 0, 1e-8)
    if name == "mica":
        pooled = z(s.reshape(3, -1), 0, 1e-8).reshape(s.shape)
    else:
        pooled = batch(0, 1e-8)(s)
    np.testing.assert_allclose(
        run(f"mapo_mica@{name}", r).advantages, 0.5 * turn + 0.5 * pooled, atol=1e-9
    )


def test_verl_return_to_go_is_whitened_over_steps() -> None:
    r = np.random.default_rng(0).random((3, 4, 5, 3))
    to_go = (r @ W)[..., ::-1].cumsum(-1)[..., ::-1]
    np.testing.assert_allclose(run("reinforce_pp@verl", r).advantages, WHITEN(to_go), atol=1e-9)


@pytest.mark.parametrize("name", ["paper", "code", "diversity_only"])
def test_gardo_presets(name: str) -> None:
    rng = np.random.default_rng(2)
    r, features = rewards(), rng.normal(size=(5, 6, 3))
    extras = {"features": features, "aux_rewards": rng.random((5, 6, 2))}
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    distance = 1 - unit @ unit.transpose(0, 2, 1) + 9 * np.eye(6)
    d = distance.min(-1)
    a = centre(r @ W) if name == "code" else z(r @ W, 0, 0.0)
    d = d / d.mean(1, keepdims=True) if name == "code" else d
    output = run(f"gardo@{name}", r, extras=extras)
    np.testing.assert_allclose(output.advantages, np.where(a > 0, a * d, a), atol=1e-9)
    assert (output.kl_gate is None) == (name == "diversity_only")


ELSEWHERE = {
    "arena": "test_interface.test_tournaments, test_slow_loop",
    "branch_grpo": "test_fixtures, test_interface.test_path_weights_of_a_tree",
    "dense_grpo": "test_fixtures.test_dense_grpo_fixture",
    "dvao": "test_fixtures",
    "dynamic_weight": "test_interface.test_hypervolume_multiplier_..., test_gradient_weights",
    "marble": "test_slow_loop",
    "pref_grpo": "test_fixtures.test_pref_grpo_fixture",
    "sa_mrpo": "test_fixtures.test_sa_mrpo_fixture",
}
HERE = {
    "gd2po": {"scripts", "config", "hard"},
    "saw": {"grpo_h", "gdpo_h"},
    "taros": {*TAROS, "third_party_v1", "self_paced"},
    "tp_grpo": {"paper", "paper_constrained", "code"},
    "mapo_mica": {"mica", "mapo"},
    "gardo": {"paper", "code", "diversity_only"},
    "fixed_weights": {"rescaled"},
}


def test_rescaled_is_the_sum_of_rewards_in_their_bounds() -> None:
    r = np.random.default_rng(0).random((4, 6, 2)) * [10.0, 0.1] + [5.0, 0.0]
    bounds = np.array([[5.0, 15.0], [0.0, 0.1]])
    batch = RewardBatch(r, ("a", "b"), bounds=bounds)
    output, _ = make_estimator("fixed_weights@rescaled")(batch)
    total = ((r - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0])).mean(-1)
    np.testing.assert_allclose(output.advantages, z(total, 1, 1e-8), atol=1e-9)


def test_no_preset_is_without_a_second_spelling() -> None:
    known = {*SUM_FIRST, *NORMALISE_FIRST, "gdpo@nvlabs_verl", "dancegrpo@hunyuan_best_of_8"}
    known |= {f"{name}@{preset}" for name, presets in HERE.items() for preset in presets}
    shipped = {
        f"{name}@{preset}"
        for name in list_estimators()
        if estimator_class(name).__module__.startswith("reelrl.algos.advantages")
        and name not in ELSEWHERE
        and not (METHODS / f"test_{name}.py").is_file()
        for preset in estimator_class(name).presets
    }
    assert shipped == known


def test_best_of_eight_ranks_the_batch_by_the_summed_advantage() -> None:
    r = np.random.default_rng(0).random((4, 6, 3))
    a = summed_after(r, W, group(1, 1e-8))
    order = a.ravel().argsort()
    keep = np.zeros(24, bool)
    keep[[*order[:4], *order[-4:]]] = True
    output = run("dancegrpo@hunyuan_best_of_8", r)
    np.testing.assert_allclose(output.advantages, np.where(keep.reshape(4, 6), a, 0.0), atol=1e-9)
    np.testing.assert_array_equal(output.sample_weight, keep.reshape(4, 6))


def test_rounded_win_rates_of_the_preference_code() -> None:
    """Three comparisons each: thirds are rounded to three places before the z-score."""
    wins = np.array([[[0.5, 1, 1, 0], [0, 0.5, 1, 0], [0, 0, 0.5, 0.5], [1, 1, 0.5, 0.5]]])
    rate = (wins.sum(2) - 0.5) / 3
    for preset, expected in (("paper", rate), ("repo", rate.round(3))):
        output = run(f"pref_grpo@{preset}", np.zeros((1, 4, 1)), extras={"pairwise": wins})
        np.testing.assert_allclose(output.advantages, z(expected, 1, 1e-8), atol=1e-12)
