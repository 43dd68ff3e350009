"""Episodes to advantages: the same numbers as the one-line form and our learner, and a memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import RewardBatch, list_estimators, make_estimator
from reelrl.algos.interop.episodes import EpisodeEstimator
from reelrl.envs.scoring import RewardFacts

FACTS = RewardFacts(("a", "b"), ((0.0, 1.0), (0.0, 1.0)), (1.0, 1.0))
MORE_THAN_EPISODES = {
    "arena": "pairwise",
    "branch_grpo": "tree_parent",
    "dense_grpo": "ode_rewards",
    "dynamic_weight": "feedback",
    "gardo": "features",
    "mapo_mica": "dense",
    "marble": "gradient of every component",
    "pref_grpo": "pairwise",
    "tp_grpo": "ode_rewards",
}
"""Estimators that no rollout of another library can serve, and what they miss."""


@pytest.fixture
def episodes():
    rng = np.random.default_rng(0)
    rewards = rng.random((12, 2)).astype(np.float32)
    return rewards, rng.permutation(np.repeat([3, 1, 8], 4))


@pytest.mark.parametrize("name", sorted(set(list_estimators()) - set(MORE_THAN_EPISODES)))
def test_every_estimator_of_the_zoo_that_episodes_can_serve(episodes, name):
    rewards, ids = episodes
    estimate = EpisodeEstimator(name)(rewards, ids, FACTS)
    prompts = np.unique(ids)
    rows = np.stack([np.flatnonzero(ids == prompt) for prompt in prompts])
    bounds = np.array(FACTS.bounds)
    batch = RewardBatch(rewards[rows], FACTS.names, bounds=bounds, prompt_ids=prompts)
    output, _ = make_estimator(name)(batch)
    np.testing.assert_allclose(estimate.advantages[rows], output.advantages, atol=1e-6)
    assert np.isfinite(estimate.advantages).all() and estimate.counted.any()


@pytest.mark.parametrize(("name", "missing"), MORE_THAN_EPISODES.items())
def test_the_others_say_what_they_miss(name, missing):
    with pytest.raises(ValueError, match=f"{name}.*needs .*{missing}"):
        EpisodeEstimator(name)


def test_groups_of_other_sizes(episodes):
    rewards, _ = episodes
    ids = np.array([5, 5, 5, 2, 2, 2, 2, 2, 9, 9, 9, 9])
    estimate = EpisodeEstimator("grpo")(rewards, ids, FACTS)
    total = rewards.sum(axis=1)
    for prompt in np.unique(ids):
        rows = ids == prompt
        alone = EpisodeEstimator("grpo")(rewards[rows], ids[rows], FACTS)
        np.testing.assert_allclose(estimate.advantages[rows], alone.advantages, atol=1e-6)
        order = np.argsort(total[rows])
        assert (np.diff(estimate.advantages[rows][order]) > 0).all()


def test_a_penalty_changes_sign(episodes):
    rewards, ids = episodes
    signed = RewardFacts(("a", "b"), FACTS.bounds, (1.0, -1.0))
    estimate = EpisodeEstimator("gdpo")(rewards, ids, signed)
    by_hand = EpisodeEstimator("gdpo")(rewards * [1, -1], ids, FACTS)
    np.testing.assert_allclose(estimate.advantages, by_hand.advantages, atol=1e-6)


def test_unscored_and_dropped_episodes_do_not_count(episodes):
    rewards, ids = episodes
    rewards = rewards.copy()
    rewards[0] = np.nan
    rewards[1, 0] = np.nan
    estimate = EpisodeEstimator("gdpo")(rewards, ids, FACTS)
    assert estimate.counted.tolist() == [False] + [True] * 11
    assert estimate.advantages[0] == 0 and np.isfinite(estimate.advantages).all()
    assert np.isfinite(estimate.components).all()


def test_components_are_handed_out_with_their_weights(episodes):
    rewards, ids = episodes
    estimate = EpisodeEstimator("dancegrpo")(rewards, ids, FACTS)
    assert estimate.components.shape == estimate.component_weights.shape == (12, 2)
    np.testing.assert_allclose(
        (estimate.components * estimate.component_weights).sum(axis=1),
        estimate.advantages,
        atol=1e-6,
    )
    assert EpisodeEstimator("grpo")(rewards, ids, FACTS).components is None


def test_what_it_remembers_survives_saving(episodes):
    rewards, ids = episodes
    one, other = EpisodeEstimator("taros@calibrated"), EpisodeEstimator("taros@calibrated")
    assert one.state_dict() == {}
    one(rewards, ids, FACTS)
    saved = one.state_dict()
    other.load_state_dict(saved)
    np.testing.assert_equal(other.state_dict(), saved)
    one(rewards / 2, ids, FACTS), other(rewards / 2, ids, FACTS)
    np.testing.assert_equal(other.state_dict(), one.state_dict())
    assert other.calls == 2
    fresh = EpisodeEstimator("taros@calibrated")
    fresh(rewards / 2, ids, FACTS)
    with pytest.raises(AssertionError):
        np.testing.assert_equal(fresh.state_dict(), one.state_dict())


def test_another_estimators_memory_is_refused(episodes):
    rewards, ids = episodes
    one = EpisodeEstimator("taros@calibrated")
    one(rewards, ids, FACTS)
    other = EpisodeEstimator("taros")
    other.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="state of 'taros'"):
        other(rewards, ids, FACTS)


def test_an_instance_with_settings(episodes):
    rewards, ids = episodes
    estimator = make_estimator("gdpo", preset="trl")
    assert EpisodeEstimator(estimator).estimator is estimator
    assert torch.is_tensor(
        torch.as_tensor(EpisodeEstimator(estimator)(rewards, ids, FACTS).advantages)
    )
