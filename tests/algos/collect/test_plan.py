from __future__ import annotations

import pytest

from reelrl.algos.collect.plan import RolloutConfig, make_plan

STOCHASTIC = [True] * 9 + [False]


def steps(iteration=0, seed=0, **config):
    return make_plan(RolloutConfig(**config), STOCHASTIC, 4, seed, iteration).steps


def test_t7_which_steps_are_trained():
    assert steps() == tuple(range(9))
    assert steps(first_step=1, last_step=3) == (1, 2, 3)
    assert make_plan(RolloutConfig(), [True] * 10, 4, 0, 0).steps == tuple(range(10))


def test_sliding_window_moves_and_starts_over():
    seen = [steps(i, window="sliding", window_size=3, last_step=4) for i in range(4)]
    assert seen == [(0, 1, 2), (1, 2, 3), (2, 3, 4), (0, 1, 2)]
    assert steps(5, window="sliding", window_stride=3) == (1, 2)
    slow = [
        steps(i, window="sliding", window_size=2, window_stride=2, last_step=3) for i in range(7)
    ]
    assert slow == [(0, 1), (0, 1), (1, 2), (1, 2), (2, 3), (2, 3), (0, 1)]


def test_t17_random_window_follows_from_seed_and_iteration():
    seen = [steps(i, window="random", window_size=3) for i in range(200)]
    assert seen == [steps(i, window="random", window_size=3) for i in range(200)]
    assert all(len(set(window)) == 3 and list(window) == sorted(window) for window in seen)
    assert {t for window in seen for t in window} == set(range(9))
    assert len(set(seen[:9])) > 3
    assert seen[:9] != [steps(i, 1, window="random", window_size=3) for i in range(9)]


def test_blocks_of_shared_noise_end_at_the_first_stochastic_step():
    plan = make_plan(RolloutConfig(initial_noise="shared", first_step=2), STOCHASTIC, 4, 0, 0)
    assert plan.blocks == (4, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1)
    assert make_plan(RolloutConfig(), STOCHASTIC, 4, 0, 0).blocks == (1,) * 11


def test_blocks_of_a_tree_shrink_at_its_branchings():
    plan = make_plan(RolloutConfig(branch_steps=(0, 3)), STOCHASTIC, 4, 0, 0)
    assert plan.blocks == (4, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"window": "slide"}, "window must be one of all, random, sliding, none, got 'slide'"),
        ({"initial_noise": "same"}, "initial_noise must be .* got 'same'"),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"window": "random", "window_size": 12}, "12 steps does not fit into the 9"),
        ({"first_step": 9}, "no step from 9 to 9 of 10 is stochastic"),
        ({"branch_steps": (0, 9)}, r"branch_steps \[9\] are not among"),
        ({"branch_steps": (1, 1)}, r"branch_steps must be different steps, got \(1, 1\)"),
        ({"branch_steps": (0,)}, "make 2 leaves, but the group size is 4"),
    ],
)
def test_bad_plans_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        steps(**config)
