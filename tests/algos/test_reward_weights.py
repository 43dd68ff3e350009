"""Static weights that do not fit the rewards are refused when a trainer is made."""

from __future__ import annotations

import pytest

from reelrl.algos.config import check_weights


@pytest.mark.parametrize("weights", [None, (1.0, 0.0), (-1.0, 2.0)])
def test_weights_that_fit(weights):
    check_weights(weights, ["a", "b"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 2.0, 3.0), "expected 2 weights, one for each of a, b, got [1.0, 2.0, 3.0]"),
        ((), "expected 2 weights, one for each of a, b, got []"),
    ],
)
def test_weights_that_do_not(weights, message):
    with pytest.raises(ValueError) as error:
        check_weights(weights, ["a", "b"])
    assert str(error.value) == f"learner.reward_weights: {message}"


def test_a_trainer_asks(make_env):
    from reelrl.algos.grpo import GRPO, GRPOConfig
    from reelrl.algos.policies import FlowPolicy

    env = make_env(4)
    config = GRPOConfig(prompts_per_iteration=2, group_size=2, reward_weights=(1.0,) * 9)
    with pytest.raises(ValueError, match=r"learner\.reward_weights: expected \d weights"):
        GRPO(env, FlowPolicy(env.unwrapped.model), "grpo", config)
