"""The dynamics, without an environment around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.envs import mdp
from reelrl.envs.schedule import sigma_schedule

SHAPE = (2, 3, 2, 2)
CPU = torch.device("cpu")


def begin(seeds):
    seeds = np.array(seeds, dtype=np.int64)
    return mdp.initial(SHAPE, seeds % 3, seeds, seeds + 1, CPU)


def test_the_initial_latent_is_standard_normal_and_row_wise():
    state = begin(list(range(500)))
    assert abs(float(state.latent.mean())) < 0.02
    assert abs(float(state.latent.std()) - 1) < 0.02
    assert (begin([7]).latent[0] == state.latent[7]).all()


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_only_rows_that_act_move(moved):
    moved = np.array(moved)
    state = begin(range(len(moved)))
    action = torch.randn(len(moved), *SHAPE, generator=torch.Generator().manual_seed(0))
    after = mdp.transition(state, action, moved)
    for i, acts in enumerate(moved):
        assert after.step[i] == int(acts)
        assert (after.latent[i] == (action if acts else state.latent)[i]).all()
    assert (state.step == 0).all()


def test_the_state_is_the_action_itself_where_all_act():
    action = torch.zeros(2, *SHAPE)
    assert mdp.transition(begin([1, 2]), action).latent is action


def test_a_non_finite_action_is_remembered():
    state, action = begin([0, 1]), torch.zeros(2, *SHAPE)
    broken = action.clone()
    broken[1, 0, 0, 0, 0] = torch.inf
    state = mdp.transition(mdp.transition(state, broken), action)
    assert state.finite.tolist() == [True, False]
    fresh = mdp.restarted(state, np.array([1]), begin([5]))
    assert fresh.finite.all()


@given(st.sets(st.integers(0, 4), min_size=1))
def test_restarted_replaces_exactly_those_rows(rows):
    rows = np.array(sorted(rows))
    state = mdp.transition(begin(range(5)), torch.zeros(5, *SHAPE))
    fresh = begin([100 + row for row in rows])
    merged = mdp.restarted(state, rows, fresh)
    for row in range(5):
        source, index = (fresh, list(rows).index(row)) if row in rows else (state, row)
        assert (merged.latent[row] == source.latent[index]).all()
        for name in ("step", "prompt_id", "noise_seed", "step_seed"):
            assert getattr(merged, name)[row] == getattr(source, name)[index]


@pytest.mark.parametrize("num_steps", [1, 4])
def test_an_episode_walks_the_schedule_from_one_to_zero(num_steps):
    sigmas = sigma_schedule(num_steps, 3.0)
    state, seen = begin([0]), []
    while not mdp.terminal(state, num_steps)[0]:
        seen.append(mdp.observation(state, sigmas.float())["sigma"].item())
        state = mdp.transition(state, torch.zeros(1, *SHAPE))
    seen.append(mdp.observation(state, sigmas.float())["sigma"].item())
    assert seen == sigmas.float().tolist()
    assert (seen[0], seen[-1]) == (1, 0)


def test_the_observation_shows_the_embedding_of_the_prompt():
    embeddings = torch.arange(24.0).reshape(3, 4, 2)
    seen = mdp.observation(begin([4, 2]), torch.ones(1), embeddings)
    assert (seen["prompt_embedding"] == embeddings[[1, 2]]).all()
    assert seen["prompt_id"].tolist() == [[1], [2]]
    assert seen["prompt_id"].dtype == torch.int64
