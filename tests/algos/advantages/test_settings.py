"""Settings do what they say; those that would do nothing, or something else, are refused."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from reelrl.algos.advantages import (
    EstimatorConfig,
    NormSpec,
    RewardBatch,
    advantages,
    estimator_class,
    list_estimators,
    make_estimator,
    make_transform,
)
from reelrl.algos.advantages.batch import open_batch


def test_a_mapping_says_only_what_differs() -> None:
    """From the estimator's own normalisation, or the preset's."""
    rloo = make_estimator("rloo", group={"eps": 1e-8}).config.group
    assert rloo == NormSpec(baseline="loo", scale="none", eps=1e-8)
    flow = make_estimator("grpo@flow_grpo", group={"clip": 2.0}).config.group
    assert flow == NormSpec(ddof=0, eps=1e-4, clip=2.0)
    gdpo = make_estimator("gdpo", batch={"ddof": 0}).config.batch
    assert gdpo == NormSpec("batch", "batch", eps=1e-8, ddof=0)
    verl = make_estimator("gdpo@verl", batch={"ddof": 0}).config.batch
    assert verl == NormSpec("batch", "batch", ddof=0, eps=1e-8, eps_mode="insqrt")
    assert make_estimator("grpo", batch={"eps": 1e-4}).config.batch == NormSpec(
        "batch", "batch", eps=1e-4
    )
    full = make_estimator("global_std").config.group
    assert make_estimator("grpo", group=dataclasses.asdict(full)).config.group == full


def declared(config: type) -> set[str]:
    """Settings that a class declares itself, inherited ones left out."""
    return set(vars(config).get("__annotations__", {}))


def test_no_estimator_takes_a_letter_of_the_common_settings_for_another_thing() -> None:
    """``sa_mrpo`` has the paper's gamma, so that it has no discount."""
    common = {field.name for field in dataclasses.fields(EstimatorConfig)}
    for name in list_estimators():
        cls = estimator_class(name)
        own = set() if cls.Config is EstimatorConfig else declared(cls.Config) & common
        assert not own or (name == "sa_mrpo" and own == {"gamma"}), name
    r = np.random.default_rng(0).random((2, 4, 3, 2))
    batch = RewardBatch(r, ("a", "b"), bounds=np.array([[0, 1], [0, 1.0]]))
    to_go = RewardBatch(r[:, :, ::-1].cumsum(2)[:, :, ::-1].copy(), ("a", "b"),
                        bounds=np.array([[0, 1], [0, 1.0]]))  # fmt: skip
    by_credit = make_estimator("sa_mrpo", credit="return_to_go")(batch)[0].advantages
    np.testing.assert_allclose(by_credit, make_estimator("sa_mrpo")(to_go)[0].advantages)


SILENT: dict[str, tuple[str, dict[str, Any], str]] = {
    "batch over groups": ("gdpo", {"batch": NormSpec()}, "batch is a normalisation over the batch"),
    "no tokens": ("grpo", {"tokens": 0}, "tokens must be at least 1, got 0"),
    "negative exponent": ("sa_mrpo", {"gamma": -3.0}, "gamma must be at least 0, got -3.0"),
    "no window": ("gardo", {"window": 0}, "window must be at least 1, got 0"),
    "weight of nothing": ("pref_grpo", {"pref_weight": 0.4}, "set append=True"),
    "norm of no loss": ("dancegrpo", {"batch": {"eps": 1e-4}}, "batch must be None"),
    "frozen gain": (
        "taros",
        {"calibration": {"rule": "gain", "frozen": True}},
        "rule 'gain' has no use for frozen",
    ),
    "fraction of a quantile": (
        "taros",
        {"calibration": {"fraction": 0.5}},
        "rule 'quantile' has no use for fraction",
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_a_setting_that_would_do_nothing_is_refused(case: str) -> None:
    name, config, message = SILENT[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        make_estimator(name, **config)


def test_scales_of_the_median_map_are_positive() -> None:
    step = make_transform({"name": "median_map", "medians": (0.5,), "scales": (0.0,)})
    with pytest.raises(ValueError, match="scales above 0"):
        step(open_batch(RewardBatch(np.zeros((1, 2, 1)), ("a",))))


def test_weights_reach_who_asks_for_them() -> None:
    r = np.random.default_rng(0).random((8, 2))
    first, second = (
        advantages(r, np.repeat([0, 1], 4), "fixed_weights", weights=np.array(w))
        for w in ([1.0, 0.0], [0.0, 1.0])
    )
    np.testing.assert_allclose(first, advantages(r[:, :1], np.repeat([0, 1], 4), "grpo"))
    assert not np.allclose(first, second)
    wins = np.random.default_rng(1).integers(0, 2, (2, 4, 4, 2)).astype(float)
    batch = RewardBatch(r.reshape(2, 4, 2), ("a", "b"), weights=np.array([1.0, 0.0]),
                        extras={"pairwise": wins})  # fmt: skip
    alone = RewardBatch(r.reshape(2, 4, 2)[..., :1], ("a",), extras={"pairwise": wins[..., 0]})
    np.testing.assert_allclose(
        make_estimator("pref_grpo")(batch)[0].advantages,
        make_estimator("pref_grpo")(alone)[0].advantages,
    )


def test_a_component_of_weight_0_takes_no_part_in_the_balance() -> None:
    marble = make_estimator("marble")
    state = marble.feedback(
        marble.init_state(("a", "b")), gram=np.eye(2), weights=np.array([1.0, 0.0])
    )
    assert state["alphas"].tolist() == [1.0, 0.0]
    state = marble.feedback(
        marble.init_state(("a", "b")), gram=np.eye(2), weights=np.array([2.0, 1.0])
    )
    assert state["alphas"].tolist() == pytest.approx([0.2, 0.8])


def test_feedback_that_is_not_finite_is_refused() -> None:
    dynamic = make_estimator("dynamic_weight")
    with pytest.raises(ValueError, match=r"needs finite metrics, got \[nan, 1.0\]"):
        dynamic.feedback(dynamic.init_state(("a", "b")), metrics=np.array([np.nan, 1.0]))


def test_gd2po_reports_what_it_kept() -> None:
    output = make_estimator("gd2po")(
        RewardBatch(np.random.default_rng(0).random((6, 4, 2)), ("a", "b"))
    )[0]
    kept = output.sample_weight.mean()
    assert 0 < kept < 1 and output.diagnostics["kept_frac"] == pytest.approx(kept)


def test_the_null_of_an_estimator_needs_what_it_needs() -> None:
    assert make_estimator("random_sign", base="dynamic_weight").needs_feedback == "metrics"
    assert make_estimator("random_sign").needs_feedback == ""
