"""Prompts by groups: who shares one, in which order, and what is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from reelrl.envs.wrappers import VectorPromptGroups, VectorScalarReward

PROMPTS = 3  # of make_batch


@pytest.fixture
def make_groups(make_batch):
    def make(num_envs, group_size, **changes):
        arguments = {"autoreset_mode": "Disabled", "num_steps": 1, **changes}
        return VectorPromptGroups(make_batch(num_envs, **arguments), group_size)

    return make


def ids(envs, **arguments):
    return envs.reset(**arguments)[1]["prompt_id"].tolist()


@pytest.mark.parametrize(("num_envs", "group_size"), [(6, 2), (6, 6), (4, 3), (2, 6), (3, 1)])
def test_the_stream_is_groups_in_passes_over_all_prompts(make_groups, num_envs, group_size):
    envs = make_groups(num_envs, group_size)
    resets = 2 * PROMPTS * group_size // num_envs
    stream = ids(envs, seed=0) + [i for _ in range(resets) for i in ids(envs)]
    groups = [stream[i : i + group_size] for i in range(0, 2 * PROMPTS * group_size, group_size)]
    assert all(len(set(group)) == 1 for group in groups)
    heads = [group[0] for group in groups]
    assert sorted(heads[:PROMPTS]) == sorted(heads[PROMPTS:]) == list(range(PROMPTS))


@pytest.mark.parametrize(("num_envs", "group_size"), [(4, 2), (2, 4), (3, 3)])
def test_groups_are_numbered_on_through_resets_and_passes(make_groups, num_envs, group_size):
    envs = make_groups(num_envs, group_size)
    numbers = []
    for reset in range(14):
        _, infos = envs.reset(seed=None if reset else 0)
        numbers += infos["group_id"].tolist()
    assert numbers == [i // group_size for i in range(14 * num_envs)]
    assert 14 * num_envs > 2 * PROMPTS * group_size  # more than two passes
    _, infos = envs.reset(seed=5)
    assert infos["group_id"].tolist() == numbers[:num_envs]


def test_a_seed_begins_the_order_anew(make_groups):
    envs = make_groups(4, 2)
    first = [ids(envs, seed=3), ids(envs)]
    assert [ids(envs, seed=[3, 4, 5, 6]), ids(envs)] == first
    orders = {tuple(ids(envs, seed=seed)) for seed in range(12)}
    assert len(orders) > 1


def test_members_of_a_group_start_apart(make_groups):
    obs, _ = make_groups(4, 4).reset(seed=0)
    assert len(np.unique(obs["latent"].reshape(4, -1), axis=0)) == 4


def test_a_mask_takes_from_the_stream_only_what_it_begins(make_groups):
    one, other = make_groups(4, 2), make_groups(4, 2)
    ids(one, seed=0), ids(other, seed=0)
    whole = ids(other)
    parts = []
    for mask in ([True, False, True, False], [False, True, False, True]):
        mask = np.array(mask)
        _, infos = one.reset(options={"reset_mask": mask})
        parts += infos["prompt_id"][mask].tolist()
        assert (infos["_prompt_id"] == mask).all()
    assert parts == whole


def test_a_prompt_that_is_asked_for(make_groups):
    one, other = make_groups(2, 2), make_groups(2, 2)
    assert ids(one, seed=0) == ids(other, seed=0)
    options = {"prompt_id": [2, 1], "noise_seed": 5}
    obs, infos = one.reset(options=options)
    assert infos["prompt_id"].tolist() == [2, 1]
    assert (obs["latent"][0] == obs["latent"][1]).all()
    assert options == {"prompt_id": [2, 1], "noise_seed": 5}
    assert ids(one) == ids(other)


def test_an_option_that_is_none_is_not_given(make_groups):
    one, other = make_groups(4, 2), make_groups(4, 2)
    nothing = {"prompt_id": None, "reset_mask": None}
    assert ids(one, seed=0, options=nothing) == ids(other, seed=0)
    assert ids(one, options=nothing) == ids(other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_where_it_was_copied(make_groups, copied):
    envs = make_groups(4, 3)  # in the middle of a group
    ids(envs, seed=0)
    again = copied(envs)
    assert [ids(again, seed=None) for _ in range(5)] == [ids(envs) for _ in range(5)]


def test_tensors_and_other_wrappers(make_batch):
    envs = make_batch(4, autoreset_mode="Disabled", num_steps=1, output="torch")
    envs = VectorPromptGroups(VectorScalarReward(envs), 2)
    obs, infos = envs.reset(seed=0)
    assert infos["prompt_id"][0] == infos["prompt_id"][1]
    envs.step(obs["latent"])
    _, infos = envs.reset(options={"reset_mask": torch.tensor([True, True, False, False])})
    assert infos["prompt_id"][0] == infos["prompt_id"][1]


def test_what_is_refused(make_batch, make_groups):
    for mode in ("NextStep", "SameStep"):
        with pytest.raises(ValueError, match="autoreset_mode='Disabled'"):
            VectorPromptGroups(make_batch(2, autoreset_mode=mode), 2)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make_groups(2, 0)
    for size in (2.0, "2", True):
        with pytest.raises(ValueError, match=f"group_size must be an integer, got {size!r}"):
            make_groups(2, size)
