"""The box that costs no memory is the Box it replaces."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from gymnasium.spaces import Box, flatten_space
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from reelrl.envs.spaces import UniformBox


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (-10.0, 10.0), (0.0, np.inf)])
def test_it_is_the_box_it_replaces(low, high):
    ours, theirs = UniformBox(low, high, (3, 2), seed=1), Box(low, high, (3, 2), seed=1)
    assert ours == theirs
    assert theirs == ours
    assert (ours.sample() == theirs.sample()).all()
    assert ours.is_bounded() == theirs.is_bounded()
    assert ours.contains(np.full((3, 2), 1, np.float32))
    assert not ours.contains(np.full((3, 2), np.nan, np.float32))
    assert batch_space(ours, 4) == batch_space(theirs, 4)
    assert flatten_space(ours) == flatten_space(theirs)
    rows = [ours.sample(), ours.sample()]
    empty = create_empty_array(ours, 2)
    assert (concatenate(ours, rows, empty) == np.stack(rows)).all()
    assert ours != UniformBox(low, 99.0, (3, 2))


def test_a_batch_of_a_seeded_space_draws_what_gymnasiums_draws():
    ours, theirs = UniformBox(-1, 1, (2,), seed=5), Box(-1, 1, (2,), seed=5)
    assert (batch_space(ours, 3).sample() == batch_space(theirs, 3).sample()).all()
    assert (ours.sample() == theirs.sample()).all()  # the batch has a generator of its own


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda box: pickle.loads(pickle.dumps(box))])
def test_a_copy_is_equal_samples_alike_and_stays_small(copied):
    box = UniformBox(-1, 1, (16, 1000, 1000), seed=3)
    again = copied(box)
    assert again == box
    assert again.low.strides == (0, 0, 0)
    small = UniformBox(-1, 1, (5,), seed=3)
    assert (copied(small).sample() == small.sample()).all()


def test_spaces_of_eight_wan_sized_sub_envs_cost_little(make_batch, tiny_model):
    tiny_model.latent_shape = lambda *size: (16, 21, 60, 104)
    tracemalloc.start()
    envs = make_batch(8, model=tiny_model, num_frames=81, height=480, width=832)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert envs.observation_space["latent"].shape == (8, 16, 21, 60, 104)
    assert peak < 150e6
    assert peak < 5e6  # what it does cost: nothing that grows with the shape
