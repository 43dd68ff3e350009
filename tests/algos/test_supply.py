"""What a rollout supplies, and estimators that need more."""

from __future__ import annotations

import pytest

from reelrl.algos.advantages import make_estimator
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.supply import check_supply, missing_from, rollout_for, supplied


@pytest.mark.parametrize(
    ("rollout", "names"),
    [
        (None, {"bounds"}),
        (RolloutConfig(window="none"), {"bounds"}),
        (RolloutConfig(), {"bounds", "ode_rewards"}),
        (
            RolloutConfig(initial_noise="shared"),
            {"bounds", "ode_rewards", "tree_parent", "edge_logp"},
        ),
        (
            RolloutConfig(branch_steps=(0,)),
            {"bounds", "ode_rewards", "tree_parent", "edge_logp"},
        ),
    ],
)
def test_what_is_supplied(rollout, names):
    assert supplied(rollout) == names


@pytest.mark.parametrize(
    ("estimator", "rollout", "message"),
    [
        ("dense_grpo", RolloutConfig(window="none"), r"\['ode_rewards'\], which .* 'none' lacks"),
        ("branch_grpo", RolloutConfig(), "needs a tree: set rollout.branch_steps"),
        ("gardo", RolloutConfig(), r"needs \['aux_rewards', 'features'\]"),
    ],
)
def test_an_estimator_that_needs_more_is_refused(estimator, rollout, message):
    with pytest.raises(ValueError, match=message):
        check_supply(make_estimator(estimator), rollout)


def test_what_is_missing_is_in_order():
    assert missing_from(make_estimator("gardo"), {"bounds"}) == ["aux_rewards", "features"]
    assert missing_from(make_estimator("grpo"), set()) == []


def test_completions_and_clips_are_asked_for_where_they_are_needed():
    plain, dense = make_estimator("grpo"), make_estimator("dense_grpo")
    given = RolloutConfig(keep_videos=3)
    assert rollout_for(plain, given, keep_all=None) == given
    assert rollout_for(dense, given, keep_all=None) == RolloutConfig(keep_videos=3, dense=True)
    assert rollout_for(plain, given, keep_all=8) == RolloutConfig(keep_videos=8)
