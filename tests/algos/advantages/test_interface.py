"""Registry, state, the one-line form, transforms and post steps, feedback, and light imports."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import (
    AdvantageEstimator,
    Estimator,
    NormSpec,
    RewardBatch,
    advantages,
    estimator_class,
    list_estimators,
    list_posts,
    list_transforms,
    make_estimator,
    make_post,
    make_transform,
    register_estimator,
)
from reelrl.algos.advantages.batch import open_batch
from reelrl.algos.advantages.methods.dynamic_weight import hypervolume
from reelrl.algos.advantages.methods.marble import balance
from reelrl.algos.advantages.methods.pairwise import anchor_scores, bracket
from reelrl.algos.advantages.thresholds import Calibration

ASKED = [
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "global_std",
    "gdpo",
    "advantage_sum",
    "dancegrpo",
    "taros",
    "sa_mrpo",
    "saw",
    "dvao",
    "gd2po",
    "adv_min_norm",
    "dynamic_weight",
    "marble",
    "gardo",
    "branch_grpo",
    "dense_grpo",
    "tp_grpo",
    "mapo_mica",
    "pref_grpo",
    "arena",
    "random_sign",
    "fixed_weights",
]
UNIT = np.array([[0.0, 1.0], [0.0, 1.0]])


def batch_of(seed: int = 0, p: int = 6, g: int = 4, **kw: Any) -> RewardBatch:
    rewards = np.random.default_rng(seed).random((p, g, 2))
    kw.setdefault("bounds", UNIT)
    return RewardBatch(rewards, ("a", "b"), **kw)


# --- registry -----------------------------------------------------------------------------------


def test_all_estimators_are_found_by_name() -> None:
    assert set(ASKED) <= set(list_estimators())
    for name in ASKED:
        estimator = make_estimator(name)
        assert isinstance(estimator, AdvantageEstimator)
        assert estimator.name == name and estimator.source
        for preset in estimator_class(name).presets:
            make_estimator(name, preset)


def test_all_steps_are_found_by_name() -> None:
    assert set(list_transforms()) == {
        "par", "ensemble", "conditioned", "softmin_time", "win_rate", "rescale", "harmonic",
        "median_map", "tiered",
    }  # fmt: skip
    assert set(list_posts()) == {"clip", "best_of_n", "keep_ratio", "gardo_diversity"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_estimator("gdpoo"), "did you mean 'gdpo'"),
        (lambda: make_estimator("gdpo", "trll"), "did you mean 'trl'"),
        (lambda: make_estimator("gdpo@trl", "verl"), "two presets"),
        (lambda: make_estimator("taros", temprature=2.0), "did you mean 'temperature'"),
        (lambda: make_estimator("grpo", dof=1), "did you mean 'ddof'"),
        (lambda: make_estimator("grpo", eps_mode="plus"), "eps_mode must be one of"),
        (lambda: make_estimator("taros", h="relu"), "h must be one of"),
        (lambda: make_estimator("grpo", transforms=("parr",)), "did you mean 'par'"),
        (lambda: make_transform({"name": "par", "slope": 1}), "has no setting 'slope'"),
        (lambda: make_post({"name": "best_of_n", "n": 3}), "even"),
        (lambda: NormSpec(eps=-1.0), "eps must be at least 0, got -1.0"),
    ],
)
def test_mistakes_name_the_nearest_known_thing(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="is taken"):

        @register_estimator("gdpo")
        class Other(Estimator):
            pass


def test_settings_override_presets_and_reach_the_group_norm() -> None:
    config = make_estimator("grpo@trl", ddof=0, credit="trajectory").config
    assert config.group == NormSpec(ddof=0, eps=1e-4)
    assert config.credit == "trajectory"


def test_normalisations_may_come_from_a_config_file() -> None:
    for name in ("gdpo@trl", "gdpo@flow_factory", "rloo@trl_norm"):
        config = make_estimator(name).config
        again = make_estimator(name.split("@")[0], **dataclasses.asdict(config)).config
        assert again == config
    config = make_estimator("grpo", group={"ddof": 0}, eps=0.5).config
    assert config.group == NormSpec(ddof=0, eps=0.5)
    with pytest.raises(ValueError, match="did you mean 'ddof'"):
        make_estimator("grpo", group={"dof": 0})
    with pytest.raises(ValueError, match="got 'group'"):
        make_estimator("gdpo", batch="group")


def test_requirements_are_known_before_and_checked_at_the_call() -> None:
    assert make_estimator("taros").requires == {"bounds"}
    assert make_estimator("taros", rescale=False).requires == set()
    assert make_estimator("grpo", transforms=("par",)).requires == {"ref_rewards"}
    assert make_estimator("gardo", gate="none").requires == {"features"}
    with pytest.raises(ValueError, match=r"'taros' needs \['bounds'\]"):
        make_estimator("taros")(batch_of(bounds=None))
    infinite = np.array([[0.0, np.inf], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"\['a'\] are infinite"):
        make_estimator("taros")(batch_of(bounds=infinite))


def test_package_needs_nothing_heavy() -> None:
    code = (
        "import sys, reelrl.algos.advantages as a; a.list_estimators(); "
        "heavy = {'diffusers', 'transformers', 'scipy', 'matplotlib', 'tyro'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the one-line form --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "torch", "strings"])
def test_one_line_on_ragged_groups_equals_each_group_alone(kind: str) -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat([7, 3, 3, 9, 5], 4)[:17])
    rewards = rng.random((17, 2))
    given: Any = {"numpy": ids, "torch": torch.from_numpy(ids), "strings": [f"p{i}" for i in ids]}
    source: Any = torch.from_numpy(rewards) if kind == "torch" else rewards
    got = advantages(source, given[kind], "advantage_sum", weights=np.array([1.0, 3.0]))
    assert isinstance(got, torch.Tensor if kind == "torch" else np.ndarray)
    for group in np.unique(ids):
        rows = rewards[ids == group]
        alone = RewardBatch(rows[None], ("a", "b"), weights=np.array([1.0, 3.0]))
        expected = make_estimator("advantage_sum")(alone)[0].advantages[0]
        np.testing.assert_allclose(np.asarray(got)[ids == group], expected)


def test_one_line_defaults_and_errors() -> None:
    flat = advantages(np.array([0.0, 1.0, 0.0, 2.0]), [0, 0, 1, 1])
    assert flat.shape == (4,)
    assert advantages(np.zeros((0, 2)), np.zeros(0, int)).shape == (0,)
    with pytest.warns(UserWarning, match="alone in its group"):
        assert advantages(np.ones((3, 1)), [1, 2, 3], "grpo@trl").tolist() == [0.0, 0.0, 0.0]
    named = advantages(np.eye(2), [0, 0], "grpo", names=np.array(["a", "b"]))
    assert named.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match=r"ids of \(2, 2\)"):
        advantages(np.eye(2), [(0, 1), (0, 1)])
    with pytest.raises(ValueError, match="3 ids"):
        advantages(np.zeros((4, 2)), [0, 0, 1])
    with pytest.raises(ValueError, match="ready estimator"):
        advantages(np.zeros((4, 2)), [0, 0, 1, 1], make_estimator("grpo"), preset="trl")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("gdpo", {"transforms": ("tiered",)}, "transform 'tiered' needs thresholds"),
        ("gdpo", {"transforms": ("median_map",)}, "'median_map' needs medians, scales"),
        ("gdpo", {"transforms": ("conditioned",)}, "'conditioned' needs component, on, threshold"),
        ("gdpo", {"post": ({"name": "clip", "limit": "x"},)}, "limit must be float, got 'x'"),
        ("gdpo", {"post": "clip"}, "post must be a list, got 'clip'"),
        ("gdpo", {"transforms": (5,)}, "a name or a dict with 'name', got 5"),
        ("grpo", {"gamma": "x"}, "'grpo': gamma must be float, got 'x'"),
        ("grpo", {"ddof": "x"}, "ddof must be int, got 'x'"),
        ("grpo", {"group": 5}, "group must be NormSpec, got 5"),
        ("taros", {"tau": "x"}, "tau must be float or a list of float or None"),
        ("taros", {"calibration": {"ruel": "x"}}, "did you mean 'rule'"),
        ("fixed_weights", {"weights": ["a"]}, "weights must be a list of float or None"),
        ("random_sign", {"base": 5}, "base must be str, got 5"),
    ],
)
def test_settings_that_do_not_fit_end_in_one_line(name, config, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_estimator(name, **config)
    assert "\n" not in str(error.value)


# --- credit -------------------------------------------------------------------------------------


def test_credit_assignment_of_dense_rewards() -> None:
    r = np.random.default_rng(0).random((2, 5, 3, 2))
    dense = RewardBatch(r, ("a", "b"))

    def run(array: np.ndarray, **kw: Any) -> np.ndarray:
        return make_estimator("grpo", **kw)(RewardBatch(array, ("a", "b")))[0].advantages

    assert run(r).shape == (2, 5, 3)
    for t in range(3):
        np.testing.assert_allclose(run(r)[..., t], run(r[:, :, t]))
        to_go = sum(0.5 ** (s - t) * r[:, :, s] for s in range(t, 3))
        got = run(r, credit="return_to_go", gamma=0.5)[..., t]
        np.testing.assert_allclose(got, run(to_go))
        np.testing.assert_allclose(run(r, credit="trajectory")[..., t], run(r.sum(2)))
    whole = make_estimator("gdpo")(dense)[0].advantages
    assert whole.std(ddof=1) == pytest.approx(1.0)  # the batch norm pools prompts, members, steps
    mask = np.ones((2, 5, 3), bool)
    mask[0, 1, 2] = False
    masked = RewardBatch(r, ("a", "b"), extras={"step_mask": mask})
    holes = RewardBatch(np.where(mask[..., None], r, np.nan), ("a", "b"))
    for name in ("grpo", "gdpo"):
        a, b = (make_estimator(name)(x)[0].advantages for x in (masked, holes))
        np.testing.assert_array_equal(a, b)
        assert a[0, 1, 2] == 0


# --- transforms and post steps ------------------------------------------------------------------


def through(step: dict[str, Any], r: np.ndarray, **kw: Any) -> np.ndarray:
    names = tuple("abc"[: r.shape[-1]])
    return make_transform(step)(open_batch(RewardBatch(r, names, **kw))).scores.with_nan().numpy()


def test_transforms_against_their_formulas() -> None:
    r = np.array([[[0.5, 2.0], [1.0, -1.0], [np.nan, 4.0]]])
    bounds = np.array([[0.0, 2.0], [-1.0, 4.0]])
    np.testing.assert_allclose(
        through({"name": "rescale"}, r, bounds=bounds), (r - bounds[:, 0]) / np.ptp(bounds, axis=1)
    )
    harmonic = through({"name": "harmonic", "lam": (0.25, 0.75)}, r)[0, :, 0]
    np.testing.assert_allclose(harmonic, [1 / (0.25 / 0.5 + 0.75 / 2.0), 0.0, np.nan])
    mapped = through({"name": "median_map", "medians": (0.5, 2.0), "scales": (1.0, 2.0)}, r)
    np.testing.assert_allclose(mapped[0, 0], [0.5, 0.5])
    np.testing.assert_allclose(mapped[0, 1], 1 / (1 + np.exp([-0.5, 1.5])))
    tiered = through({"name": "tiered", "thresholds": (0.75,)}, r)
    np.testing.assert_allclose(tiered, [[[0.5, 0.0], [1.0, -1.0], [np.nan, 0.0]]])
    gate = {"name": "conditioned", "component": "b", "on": "a", "threshold": 0.75}
    np.testing.assert_allclose(through(gate, r), [[[0.5, 0.0], [1.0, -1.0], [np.nan, np.nan]]])


def test_transforms_compose_in_front_of_any_estimator() -> None:
    batch = batch_of(extras={"ref_rewards": np.random.default_rng(1).random((6, 3, 2))})
    par = {"name": "par", "k": 2.0}
    work = make_transform(par)(open_batch(batch))
    by_hand = RewardBatch(work.scores.values, batch.names, bounds=UNIT)
    for name in ("grpo", "gdpo", "taros", "sa_mrpo"):
        got = make_estimator(name, transforms=(par,))(batch)[0].advantages
        np.testing.assert_allclose(got, make_estimator(name)(by_hand)[0].advantages)


def test_appended_win_rate_is_one_more_component() -> None:
    wins = (np.random.default_rng(0).random((6, 4, 4)) > 0.5).astype(float)
    batch = batch_of(weights=np.array([0.6, 0.0]), extras={"pairwise": wins})
    output, _ = make_estimator("pref_grpo", append=True, pref_weight=0.4)(batch)
    assert output.component_weights.tolist() == [0.6, 0.0, 0.4]


def test_best_of_n_keeps_both_ends() -> None:
    batch = batch_of(p=3, g=8)
    plain = make_estimator("grpo")(batch)[0].advantages
    output, _ = make_estimator("grpo", post=({"name": "best_of_n", "n": 4},))(batch)
    for row, kept, a in zip(plain, output.sample_weight, output.advantages, strict=True):
        order = np.argsort(row)
        assert set(np.flatnonzero(kept)) == {*order[:2], *order[-2:]}
        np.testing.assert_array_equal(a, row * kept)
    scope = {"name": "best_of_n", "n": 4, "scope": "batch"}
    whole, _ = make_estimator("grpo", post=(scope,))(batch)
    order = np.argsort(plain.ravel())
    assert set(np.flatnonzero(whole.sample_weight)) == {*order[:2], *order[-2:]}
    halved, _ = make_estimator("grpo", post=({"name": "best_of_n", "n": 4}, "keep_ratio"))(batch)
    np.testing.assert_allclose(halved.advantages, output.advantages / 2)
    assert float(halved.diagnostics["kept_frac"]) == 0.5


def test_best_of_n_keeps_n_among_equals() -> None:
    r = np.array([[1.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0], [0.5] * 8])[..., None]
    valid = np.ones((2, 8), bool)
    valid[0, 6:] = False
    batch = RewardBatch(r, ("a",), valid=valid)
    output, _ = make_estimator("grpo", post=({"name": "best_of_n", "n": 6},))(batch)
    assert output.sample_weight.sum(1).tolist() == [6, 6]
    assert not output.sample_weight[~valid].any()
    assert float(output.diagnostics["kept_frac"]) == pytest.approx(12 / 14)  # of the valid ones


def test_steps_that_cannot_reach_the_losses_per_component_are_refused() -> None:
    make_estimator("dancegrpo", post=("best_of_n",))
    for step in ("clip", "keep_ratio", "gardo_diversity"):
        with pytest.raises(ValueError, match=step):
            make_estimator("dancegrpo", post=(step,))


def test_clip_counts_what_it_clips() -> None:
    output, _ = make_estimator("grpo", post=({"name": "clip", "limit": 1.0},))(batch_of())
    free = make_estimator("grpo")(batch_of())[0].advantages
    np.testing.assert_allclose(output.advantages, free.clip(-1, 1))
    assert output.diagnostics["frac_clipped"] == pytest.approx((np.abs(free) > 1).mean())
    padded = np.concatenate([batch_of().rewards, np.zeros((6, 4, 2))], 1)
    valid = np.arange(8)[None].repeat(6, 0) < 4
    for settings in ({"clip": 1.0}, {"post": ({"name": "clip", "limit": 1.0},)}):
        a, b = RewardBatch(padded, ("a", "b"), valid=valid), batch_of()
        found = [
            make_estimator("grpo", **settings)(x)[0].diagnostics["frac_clipped"] for x in (a, b)
        ]
        assert found[0] == found[1] > 0  # padding is not among what could be clipped


# --- state --------------------------------------------------------------------------------------

STATEFUL = {
    "taros": {"calibration": {"min_groups": 4, "capacity": 16}},
    "saw": {"ema": 0.5},
    "dynamic_weight": {"mode": "gradient"},
    "marble": {},
    "gardo": {"adaptive": True, "window": 2},
}


@pytest.mark.parametrize("name", sorted(STATEFUL))
def test_restored_state_continues_bit_for_bit(name: str) -> None:
    rng = np.random.default_rng(0)
    estimator = make_estimator(name, **STATEFUL[name])

    def step(state: Any, seed: int) -> tuple[Any, Any]:
        extras = {"features": rng.normal(size=(6, 4, 3)), "aux_rewards": rng.random((6, 4, 2))}
        extras = {k: v for k, v in extras.items() if k in estimator.requires}
        output, state = estimator(batch_of(seed, extras=extras), state)
        if name in ("marble", "dynamic_weight"):
            state = estimator.feedback(state, gram=np.diag([1.0, 2.0 + seed]))
        return output, state

    state = estimator.init_state(("a", "b"))
    for seed in range(4):
        _, state = step(state, seed)
    saved = estimator.state_dict(state)
    assert all(isinstance(value, np.ndarray) for value in saved.values())
    restored = estimator.load_state_dict(saved, ("a", "b"))
    mark = rng.bit_generator.state
    one, after = step(state, 9)
    rng.bit_generator.state = mark
    two, again = step(restored, 9)
    np.testing.assert_array_equal(one.advantages, two.advantages)
    for key, value in estimator.state_dict(after).items():
        np.testing.assert_array_equal(value, estimator.state_dict(again)[key])


def test_a_state_of_something_else_is_refused() -> None:
    saw, taros = make_estimator("saw"), make_estimator("taros@calibrated")
    saved = saw.state_dict(saw.init_state(("a", "b")))
    with pytest.raises(ValueError, match="shapes"):
        taros.load_state_dict(saved, ("a", "b"))
    with pytest.raises(ValueError, match="shapes"):
        saw.load_state_dict(saved, ("a", "b", "c"))
    with pytest.raises(ValueError, match="version 1"):
        saw.load_state_dict({**saved, "version": np.array(2)}, ("a", "b"))


def test_a_state_of_something_else_is_refused_at_the_call() -> None:
    batch, saw = batch_of(), make_estimator("saw")
    with pytest.raises(ValueError, match=r"init_state\(\('a', 'b'\)\)"):
        saw(batch, saw.init_state(("a",)))  # would broadcast
    with pytest.raises(ValueError, match="state of 'marble'"):
        make_estimator("marble")(batch, saw.init_state(batch.names))


@pytest.mark.parametrize("name", ["saw", "marble", "dynamic_weight@gradient", "taros@calibrated"])
def test_states_follow_transforms_that_change_the_components(name: str) -> None:
    wins = (np.random.default_rng(0).random((6, 4, 4)) > 0.5).astype(float)
    batch = batch_of(extras={"pairwise": wins})
    estimator = make_estimator(name, transforms=({"name": "win_rate", "append": True},))
    _, state = estimator(batch)
    output, _ = estimator(batch, state)
    assert output.component_weights.shape[-1] == 3
    with pytest.raises(ValueError, match="'win_rate'"):
        estimator(batch, estimator.init_state(batch.names))


def test_calibrated_thresholds_are_quantiles_of_past_group_means() -> None:
    setting = {"min_groups": 12, "capacity": 12, "quantile": 0.75}
    estimator = make_estimator("taros", calibration=setting)
    state, means = estimator.init_state(("a", "b")), np.zeros((0, 2))
    for seed in range(4):
        batch = batch_of(seed)
        output, state = estimator(batch, state)
        known = means[-12:]
        expected = np.quantile(known, 0.75, axis=0) if len(known) >= 12 else [0.75, 0.75]
        np.testing.assert_allclose(output.diagnostics["tau"], expected)
        means = np.concatenate([means, batch.rewards.mean(1)])
    state = estimator.reset(state, ("a", "b"), ("b",))
    assert torch.isnan(state["tau"]).tolist() == [False, True]
    assert torch.isnan(state["history"][:, 1]).all()


def test_calibration_options() -> None:
    frozen = make_estimator("taros", calibration=Calibration(min_groups=6, frozen=True))
    slow = make_estimator("taros", calibration=Calibration(min_groups=6, refresh_every=3))
    gain = make_estimator("taros", calibration=Calibration(rule="gain", ema=0.0))
    states = {id(e): e.init_state(("a", "b")) for e in (frozen, slow, gain)}
    taus: dict[int, list[np.ndarray]] = {key: [] for key in states}
    batches = [batch_of(seed) for seed in range(5)]
    for batch in batches:
        for e in (frozen, slow, gain):
            output, states[id(e)] = e(batch, states[id(e)])
            taus[id(e)].append(output.diagnostics["tau"])
    assert np.array_equal(taus[id(frozen)][1], taus[id(frozen)][4])
    assert taus[id(slow)][2].tolist() == [0.75, 0.75]
    assert not np.array_equal(taus[id(slow)][3], [0.75, 0.75])
    first, last = (b.rewards.mean((0, 1)) for b in (batches[0], batches[3]))
    np.testing.assert_allclose(taus[id(gain)][4], first + 0.7 * (last - first))


def test_taros_saturated_component_under_the_options() -> None:
    z = np.linspace(-1, 1, 16) / np.linspace(-1, 1, 16).std()
    r = np.stack([0.95 + 0.01 * z, 0.6 + 0.2 * z[::-1]], -1)[None].clip(0, 1)
    weights = {}
    for preset in (None, "headroom", "self_paced"):
        estimator = make_estimator("taros", preset)
        weights[preset] = estimator(RewardBatch(r, ("sat", "new"), bounds=UNIT))[
            0
        ].component_weights
    assert weights[None][0, 0] > 0.5
    assert weights["headroom"][0, 0] < 0.5
    assert weights["self_paced"][0, 0] < 0.5


def test_hypervolume() -> None:
    reference = np.zeros(2)
    assert hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), reference) == pytest.approx(3.0)
    assert hypervolume(np.array([[-1.0, 2.0]]), reference) == 0.0
    rng = np.random.default_rng(0)
    points, samples = rng.random((5, 3)), rng.random((200_000, 3))
    inside = (samples[:, None] <= points).all(-1).any(1).mean()
    assert hypervolume(points, np.zeros(3)) == pytest.approx(inside, abs=5e-3)


def test_hypervolume_multiplier_works_where_no_std_undoes_it() -> None:
    batch = batch_of()
    for preset, moves in (
        ("hypervolume", True),
        ("hypervolume_repo", False),
        ("hypervolume_dr_grpo", True),
    ):
        estimator = make_estimator("dynamic_weight", preset)
        state = estimator.init_state(batch.names)
        before, state = estimator(batch, state)
        for metrics in ([0.2, 0.2], [0.7, 0.6]):
            state = estimator.feedback(state, metrics=np.array(metrics))
        assert float(state["multiplier"]) == pytest.approx(0.5 + 1.5 * np.tanh(0.5 * 0.4))
        worse = estimator.feedback(state, metrics=np.array([0.3, 0.3]))
        assert float(worse["multiplier"]) == 0.5
        assert torch.equal(worse["front"].nan_to_num(), state["front"].nan_to_num())
        after, _ = estimator(batch, state)
        factor = float(state["multiplier"]) if moves else 1.0
        np.testing.assert_allclose(after.advantages, factor * before.advantages, atol=1e-6)


def test_gradient_weights() -> None:
    estimator = make_estimator("dynamic_weight", "gradient", lr=0.5, mu=2.0, every=2)
    state = estimator.init_state(("a", "b"))
    grams = [np.array([[1.0, 0.5], [0.5, 3.0]]), np.array([[2.0, -1.0], [-1.0, 1.0]])]
    state = estimator.feedback(state, gram=grams[0])
    np.testing.assert_allclose(state["log_weights"].exp(), [0.5, 0.5])
    state = estimator.feedback(state, gram=grams[1])
    score = (grams[0] + grams[1]).sum(1) / 2
    expected = np.exp(0.25 * score) / np.exp(0.25 * score).sum()
    np.testing.assert_allclose(state["log_weights"].exp(), expected)
    with pytest.raises(ValueError, match=r"gram of shape \(2, 2\), got None"):
        estimator.feedback(state)


def test_marble_balances_and_amortises() -> None:
    gradients = np.array([[3.0, 0.0], [0.0, 0.5], [np.nan, 1.0]])
    alphas = balance(torch.from_numpy(gradients @ gradients.T)).numpy()
    np.testing.assert_allclose(alphas, [0.5, 0.5, 0.0], atol=1e-9)  # lengths do not matter
    assert balance(torch.zeros(2, 2, dtype=torch.float64)).tolist() == [0.5, 0.5]
    assert balance(torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64))).tolist() == [1.0, 0.0]
    floor = balance(torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double(), alpha_floor=0.1)
    assert float(floor.sum()) == pytest.approx(1.0) and float(floor.min()) >= 0.1

    estimator = make_estimator("marble", rho=0.8)
    assert estimator.needs_component_gradients
    state = estimator.init_state(("a", "b"))
    state = estimator.feedback(state, gram=np.diag([1.0, 0.0]))
    np.testing.assert_allclose(state["alphas"], [1.0, 0.0])
    state = estimator.feedback(state, gram=np.eye(2))
    np.testing.assert_allclose(state["alphas"], [0.9, 0.1])
    r = batch_of().rewards.copy()
    r[0, 0, 0] = np.nan
    output, _ = estimator(RewardBatch(r, ("a", "b")), state)
    assert np.isnan(output.component_advantages[0, 0, 0])
    parts = np.nan_to_num(output.component_advantages)
    np.testing.assert_allclose(output.advantages, parts @ np.array([0.9, 0.1]))
    assert [make_estimator("marble", every=3, warmup=2).solve_due(s) for s in range(6)] == [
        True, True, True, False, False, True,
    ]  # fmt: skip


def test_gardo_gates_where_the_proxy_outranks_the_auxiliaries() -> None:
    rng = np.random.default_rng(0)
    proxy = rng.random((5, 8, 1))
    aux = rng.random((5, 8, 2))
    aux[2, 3], proxy[2, 3] = -1.0, 2.0  # the proxy's favourite, the auxiliaries' worst
    extras = {"features": rng.normal(size=(5, 8, 4)), "aux_rewards": aux}
    batch = RewardBatch(proxy, ("proxy",), extras=extras)
    gate = make_estimator("gardo")(batch)[0].kl_gate
    assert gate.dtype == bool and gate[2, 3]

    def rate(x: np.ndarray) -> np.ndarray:
        flat = x.reshape(-1)
        beats = (flat[:, None] > flat).sum(1) + ((flat[:, None] == flat).sum(1) - 1) / 2
        return (beats / (len(flat) - 1)).reshape(x.shape)

    u = rate(proxy[..., 0]) - (rate(aux[..., 0]) + rate(aux[..., 1])) / 2
    np.testing.assert_array_equal(gate, u >= np.quantile(u, 0.9) - 1e-12)
    code = make_estimator("gardo@code")(batch)[0].kl_gate
    assert not code[2, 3] and code.any()  # the released sign is the opposite one


def test_gardo_share_adapts_within_its_limits() -> None:
    estimator = make_estimator("gardo", adaptive=True, window=2)
    rng, shares = np.random.default_rng(0), []
    state = estimator.init_state(("a", "b"))
    for seed in range(30):
        aux = rng.random((6, 4, 1)) if seed % 2 else batch_of(seed).rewards[..., :1]
        extras = {"features": rng.normal(size=(6, 4, 3)), "aux_rewards": aux}
        output, state = estimator(batch_of(seed, extras=extras), state)
        shares.append(float(output.diagnostics["kl_gate_share"]))
    assert len(set(shares)) > 2 and min(shares) >= 0.02 and max(shares) <= 0.2


def test_random_sign_is_a_fair_null() -> None:
    estimator = make_estimator("random_sign", base="gdpo", seed=3)
    batch = batch_of(p=400, g=16, prompt_ids=np.arange(400), step=5)
    output, _ = estimator(batch)
    base = make_estimator("gdpo")(batch)[0].advantages
    np.testing.assert_allclose(np.abs(output.advantages), np.abs(base))
    sign = np.sign(output.advantages) * np.sign(base)
    assert abs(sign.mean()) < 0.05
    assert abs((sign[:, 1:] * sign[:, :-1]).mean()) < 0.05
    np.testing.assert_array_equal(estimator(batch)[0].advantages, output.advantages)
    later = batch_of(p=400, g=16, prompt_ids=np.arange(400), step=6)
    assert abs((np.sign(estimator(later)[0].advantages) * np.sign(output.advantages)).mean()) < 0.05


def test_random_sign_takes_the_whole_of_its_base() -> None:
    batch = RewardBatch(np.random.default_rng(0).random((3, 4, 5, 2)), ("a", "b"))
    output, _ = make_estimator("random_sign", base="reinforce_pp@verl")(batch)
    base = make_estimator("reinforce_pp@verl")(batch)[0].advantages  # credit: return to go
    np.testing.assert_allclose(np.abs(output.advantages), np.abs(base))


def test_fixed_weights_are_those_of_the_config() -> None:
    batch = batch_of(weights=np.array([5.0, 7.0]))
    got, _ = make_estimator("fixed_weights", weights=(0.25, 0.75))(batch)
    plain = RewardBatch(batch.rewards, batch.names, weights=np.array([0.25, 0.75]))
    np.testing.assert_allclose(got.advantages, make_estimator("grpo")(plain)[0].advantages)
    with pytest.raises(ValueError, match="2 entries"):
        make_estimator("fixed_weights", weights=(1.0,))(batch)


def test_tournaments() -> None:
    assert bracket(8) == [0, 7, 3, 4, 1, 6, 2, 5]
    strict = np.array([[[0.5, 1, 1, 1], [0, 0.5, 1, 1], [0, 0, 0.5, 1], [0, 0, 0, 0.5]]])
    r = np.zeros((1, 4, 1))
    batch = RewardBatch(r, ("a",), extras={"pairwise": strict})
    score = make_estimator("arena")(batch)[0].aggregated_reward
    np.testing.assert_allclose(score[0], [1.0, 2 / 3, 1 / 3, 0.0])
    # Against the anchor everyone else lost: one rank above, three tied below.
    np.testing.assert_allclose(anchor_scores(torch.from_numpy(strict))[0], [1.0, 0, 0, 0])
    tied = torch.full((1, 4, 4), 0.5, dtype=torch.float64)
    assert anchor_scores(tied).tolist() == [[0.0] * 4]
    ranked = RewardBatch(r, ("a",), extras={"rank": np.array([[3, 0, 1, 2]])})
    got = make_estimator("arena", "rank")(ranked)[0].aggregated_reward
    np.testing.assert_allclose(got[0], [0.0, 1.0, 2 / 3, 1 / 3])
    unranked = RewardBatch(r, ("a",), extras={"rank": np.array([[np.nan, 0, 1, 2]])})
    got = make_estimator("arena", "rank")(unranked)[0].advantages
    np.testing.assert_allclose(got[0], [0.0, 1.0, 0.0, -1.0], atol=1e-5)


def test_path_weights_of_a_tree() -> None:
    """One level: eq. 3's softmax over leaves is the edge probabilities at beta 1."""
    rewards = np.array([1.0, 3.0, 2.0, 6.0]).reshape(1, 4, 1)
    tree = np.array([[-1, 0, 0, 1, 1, 2, 2]])
    p = np.array([0.9, 0.1, 0.3, 0.7])
    logp = np.concatenate([[0.0, -1.0, -2.0], np.log(p)])[None]
    extras = {"tree_parent": tree, "edge_logp": logp}
    batch = RewardBatch(rewards, ("a",), extras=extras)
    value = make_estimator("branch_grpo", "path_weighted")(batch)[0].aggregated_reward[0, [0, 2], 0]
    np.testing.assert_allclose(value, [0.9 * 1 + 0.1 * 3, 0.3 * 2 + 0.7 * 6])
    with pytest.raises(ValueError, match="same depth"):
        lopsided = {"tree_parent": np.array([[-1, 0, 0, 0, 0, 1, 1]])}
        make_estimator("branch_grpo")(RewardBatch(rewards, ("a",), extras=lopsided))
    with pytest.raises(ValueError, match="earlier node"):
        cyclic = {"tree_parent": np.array([[3, 0, 0, 0, 0, 0, 0]])}
        make_estimator("branch_grpo")(RewardBatch(rewards, ("a",), extras=cyclic))


# --- diagnostics --------------------------------------------------------------------------------


def test_every_promised_diagnostic_is_there() -> None:
    per_component = [
        "reward_mean",
        "reward_std_within",
        "reward_std_between",
        "hoyer",
        "cv",
        "saturation",
        "zero_std_frac",
        "nan_frac",
        "weight",
        "influence",
        "advantage_corr",
        "conflict_rate",
        "tau",
        "utility",
    ]
    overall = [
        "effective_group_count",
        "small_group_count",
        "distinct_adv_per_group",
        "frac_clipped",
        "adv_abs_mean",
        "adv_std",
    ]
    found = make_estimator("taros")(batch_of())[0].diagnostics
    for key in per_component:
        assert found[key].shape == (2,), key
    for key in overall:
        assert np.shape(found[key]) == (), key
    assert found["agreement"].shape == (2, 2)
    assert "batch_norm_scale" in make_estimator("gdpo")(batch_of())[0].diagnostics


def test_diagnostics_against_plain_numpy() -> None:
    batch = batch_of(p=7, g=5)
    r = batch.rewards
    output, _ = make_estimator("grpo")(batch)
    found = output.diagnostics
    np.testing.assert_allclose(found["reward_mean"], r.mean((0, 1)))
    np.testing.assert_allclose(found["reward_std_within"], r.std(1, ddof=1).mean(0))
    np.testing.assert_allclose(found["reward_std_between"], r.mean(1).std(0, ddof=1))
    np.testing.assert_allclose(found["cv"], (r.std(1) / r.mean(1)).mean(0))
    np.testing.assert_allclose(found["saturation"], r.mean((0, 1)))
    std = r.std(1, ddof=1)
    np.testing.assert_allclose(found["influence"], (std / std.sum(1, keepdims=True)).mean(0))
    z = (r - r.mean(1, keepdims=True)) / std[:, None]
    for k in range(2):
        corr = np.corrcoef(output.advantages.ravel(), z[..., k].ravel())[0, 1]
        assert found["advantage_corr"][k] == pytest.approx(corr)
    assert found["conflict_rate"][0] == pytest.approx((z[..., 0] * z[..., 1] < 0).mean())
    assert found["effective_group_count"] == 7 and found["distinct_adv_per_group"] == 5
    pairs = [(i, j) for i in range(5) for j in range(i)]
    tau = [
        np.mean([np.sign((g[i] - g[j])[0]) * np.sign((g[i] - g[j])[1]) for i, j in pairs])
        for g in r
    ]
    assert found["agreement"][0, 1] == pytest.approx(np.mean(tau))


@pytest.mark.parametrize("preset", ["hypervolume", "gradient"])
def test_without_feedback_a_dynamic_weight_is_grpo_to_the_bit(preset: str) -> None:
    rewards = np.random.default_rng(0).random((4, 16, 2)).astype(np.float32)
    batch = RewardBatch(rewards, ("a", "b"))
    mine, _ = make_estimator("dynamic_weight", preset)(batch)
    theirs, _ = make_estimator("grpo")(batch)
    # Weights of 1/2 scale the sum by a power of two, which the normalisation takes out but for eps.
    np.testing.assert_allclose(mine.advantages, theirs.advantages, rtol=1e-6)
    assert preset == "gradient" or (mine.advantages == theirs.advantages).all()
