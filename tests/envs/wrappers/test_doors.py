"""Wrappers say which twin is meant, take weights by name and functions as rewards."""

import numpy as np
import pytest

from reelrl.envs.wrappers import (
    AddReward,
    GuidanceAction,
    ScalarReward,
    VectorAddReward,
    VectorGuidanceAction,
    VectorPromptGroups,
    VectorScalarReward,
    VectorVelocityAction,
    VelocityAction,
)

TWINS = [
    (lambda env: AddReward(env, "gold"), lambda env: VectorAddReward(env, "gold")),
    (ScalarReward, VectorScalarReward),
    (VelocityAction, VectorVelocityAction),
    (GuidanceAction, VectorGuidanceAction),
]


@pytest.mark.parametrize(
    ("single", "batch"), TWINS, ids=["AddReward", "ScalarReward", "Velocity", "Guidance"]
)
def test_the_wrong_twin_names_the_right_one(make_single, make_batch, single, batch):
    with pytest.raises(TypeError, match=r"is for one environment, got a batch of 2: use Vector"):
        single(make_batch(2))
    with pytest.raises(TypeError, match=r"^Vector\w+ is for a batch, got one environment: use"):
        batch(make_single())
    with pytest.raises(TypeError, match="expects an environment, got str"):
        single("reelrl/MovingShapes-v0")


def lightness(videos, prompts, infos):
    """Mean pixel."""
    return videos.flatten(1).mean(1)


def last_step(env):
    env.reset(seed=0)
    return env.step(np.zeros(env.action_space.shape, dtype=np.float32))


def test_weights_by_name_are_weights_in_order(make_single, make_batch):
    named, listed = {"contrast": 2.0, "brightness": -0.5}, [-0.5, 2.0, 0.0]
    changes = {"num_steps": 1}
    for first, second in (
        (ScalarReward(make_single(**changes), named), ScalarReward(make_single(**changes), listed)),
        (
            make_single(scalar_weights=named, **changes),
            make_single(scalar_weights=listed, **changes),
        ),
        (
            VectorScalarReward(make_batch(2, **changes), named),
            make_batch(2, scalar_weights=listed, **changes),
        ),
    ):
        np.testing.assert_array_equal(last_step(first)[1], last_step(second)[1])
    for make in (lambda w: ScalarReward(make_single(), w), lambda w: make_single(scalar_weights=w)):
        with pytest.raises(ValueError, match="'contrats'; did you mean 'contrast'"):
            make({"contrats": 1.0})


def test_a_component_is_added_by_name_with_what_goes_around_it_or_as_a_function(
    make_single, make_batch
):
    env = AddReward(make_single(num_steps=1), "proxy_vq", label="half", hackability=0.5)
    env = AddReward(env, {"name": "exposure", "transforms": [{"name": "sigmoid"}]})
    env = AddReward(env, lightness)
    assert env.unwrapped.reward_names[3:] == ["half", "exposure_sigmoid", "lightness"]
    reward = last_step(env)[1]
    assert 0 <= reward[5] <= 1
    batch = VectorAddReward(make_batch(2, num_steps=1), lightness)
    assert last_step(batch)[1].shape == (2, 4)
    with pytest.raises(ValueError, match="it takes no label"):
        AddReward(make_single(), lightness, label="x")


def test_groups_that_do_not_fit_the_batch_are_refused_where_clips_are_compared(make_batch):
    groups = {"autoreset_mode": "Disabled", "num_steps": 1}
    VectorPromptGroups(make_batch(4, **groups), 8)  # nobody compares
    VectorPromptGroups(make_batch(4, rewards=["vendi"], **groups), 2)
    with pytest.raises(ValueError, match=r"vendi compare the 8 clips.*multiple of 8, got 4"):
        VectorPromptGroups(make_batch(4, rewards=["vendi"], **groups), 8)
