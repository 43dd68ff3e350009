"""Estimators and a flow policy inside Tianshou 2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, CollectStats, VectorReplayBuffer
from tianshou.trainer import OnPolicyTrainerParams
from torch import nn
from torch.distributions import Independent, Normal

from reelrl.algos.advantages import advantages
from reelrl.algos.interop.tianshou import DenoisingPolicy, DenoisingTask, EstimatorPG
from reelrl.envs.interop.tianshou import TianshouVectorEnv
from reelrl.envs.wrappers import VectorGuidanceAction, VectorPromptGroups

T, N = 4, 8


@pytest.fixture
def make_venv(make_env):
    def make(group_size=4, wrap=lambda env: env, mask_failed=False, **changes):
        native = wrap(VectorPromptGroups(make_env(N, output="numpy", **changes), group_size))
        return TianshouVectorEnv(native, mask_failed=mask_failed)

    return make


def denoising(venv, **changes):
    space = venv.get_env_attr("action_space", 0)[0]
    return DenoisingPolicy(task=DenoisingTask.of(venv), action_space=space, eta=0.7, **changes)


def build(venv, estimator="gdpo", lr=1e-2, episodes=N, policy=None, **changes):
    policy = policy or denoising(venv)
    algorithm = EstimatorPG(
        policy=policy,
        optim=AdamOptimizerFactory(lr=lr),
        estimator=estimator,
        facts=venv.facts,
        **changes,
    )
    buffer = VectorReplayBuffer(T * episodes, N, ignore_obs_next=True)
    return algorithm, Collector(algorithm, venv, buffer)


def train(algorithm, collector, epochs=1, batch_size=None, episodes=N):
    torch.manual_seed(0)
    np.random.seed(0)
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            collection_step_num_env_steps=None,
            collection_step_num_episodes=episodes,
            batch_size=batch_size,
            max_epochs=epochs,
            epoch_num_steps=T * episodes,
            verbose=False,
            show_progress=False,
        )
    )


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


class Spy(EstimatorPG):
    """Keeps the batch of the last update."""

    def _preprocess_batch(self, batch, buffer, indices):
        self.batch = super()._preprocess_batch(batch, buffer, indices)
        return self.batch


@pytest.mark.parametrize("repeats", [1, 2])
def test_every_transition_gets_its_episodes_advantage(make_venv, repeats):
    venv = make_venv()
    _, collector = build(venv, episodes=N * repeats)
    policy = denoising(venv)
    algorithm = Spy(
        policy=policy, optim=AdamOptimizerFactory(lr=0.0), estimator="gdpo", facts=venv.facts
    )
    collector.policy = policy
    train(algorithm, collector, episodes=N * repeats)
    batch = algorithm.batch
    done = batch.terminated
    expected = advantages(batch.info.vector_reward[done], batch.info.prompt_id[done], "gdpo")
    np.testing.assert_allclose(batch.adv, expected.repeat(T), atol=1e-6)
    stochastic = batch.obs.sigma.ravel() > float(policy.task.sigmas[-2]) + 1e-3
    assert (batch.counted == stochastic).all() and stochastic.sum() == N * repeats * (T - 1)


def test_actions_reach_the_environment_as_they_were_scored(make_venv):
    venv = make_venv()
    algorithm, collector = build(venv)
    collector.collect(n_episode=N, reset_before_collect=True)
    batch, _ = collector.buffer.sample(0)
    inner = ~batch.terminated
    following = np.roll(batch.obs.latent, -1, axis=0)
    assert (batch.act[inner] == following[inner]).all()
    assert np.abs(batch.act).max() > 1  # what Tianshou clips by default
    with torch.no_grad():
        again = algorithm.policy.log_prob(batch).numpy()
    np.testing.assert_allclose(again, batch.policy.log_prob, atol=1e-6)
    assert batch.policy.log_prob.dtype == np.float64


def test_no_statistics_per_latent_dimension(make_venv):
    _, collector = build(make_venv())
    stats = collector.collect(n_episode=N, reset_before_collect=True)
    assert isinstance(stats, CollectStats) and stats.pred_dist_std_array is None


def test_it_learns(make_venv):
    venv = make_venv(group_size=8)
    algorithm, collector = build(venv, "grpo", episodes=2 * N)
    before = collector.collect(n_episode=2 * N, reset_before_collect=True).returns.mean()
    collector.reset()
    train(algorithm, collector, epochs=30, batch_size=24, episodes=2 * N)
    collector.reset()
    after = collector.collect(n_episode=2 * N, reset_before_collect=True).returns.mean()
    assert after > before + 0.02


def test_deterministic_outside_of_training(make_venv):
    venv = make_venv()
    policy = denoising(venv, deterministic_eval=True)
    obs, info = venv.reset(seed=0)
    one, other = (policy(Batch(obs=obs, info=info)) for _ in range(2))
    assert (one.act == other.act).all() and (one.policy.log_prob == 0).all()
    policy.is_within_training_step = True
    assert (policy(Batch(obs=obs, info=info)).act != one.act).any()
    with pytest.raises(ValueError, match="beyond the action bound"):
        policy(Batch(obs=Batch({**Batch(obs=obs).obs, "latent": 100 * Batch(obs=obs).obs.latent})))


class Controls(nn.Module):
    """Guidance and noise from the noise level alone."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 2)

    def forward(self, obs, state=None, info=None):
        mean = self.net(torch.as_tensor(obs.sigma)) + torch.tensor([3.0, 0.5])
        return (mean, torch.full_like(mean, 0.3)), state


def test_a_policy_of_tianshous_own(make_venv):
    venv = make_venv(wrap=VectorGuidanceAction)
    policy = ProbabilisticActorPolicy(
        actor=Controls(),
        dist_fn=lambda loc_scale: Independent(Normal(*loc_scale), 1),
        action_space=venv.get_env_attr("action_space", 0)[0],
        action_scaling=False,
        action_bound_method=None,
    )
    algorithm, collector = build(venv, "rloo", policy=policy)
    before = weights(policy)
    train(algorithm, collector, batch_size=16)
    assert (weights(policy) != before).any() and algorithm.clip == 0.025


def test_one_loss_per_component(make_venv):
    venv = make_venv()
    algorithm, collector = build(venv, "dancegrpo")
    before = weights(algorithm.policy)
    train(algorithm, collector)
    assert (weights(algorithm.policy) != before).any()


def test_a_buffer_too_small_for_an_episode_is_an_error(make_venv):
    venv = make_venv()
    algorithm, _ = build(venv)
    # Room for 6 steps each, the last two of the first episode and the second.
    collector = Collector(algorithm, venv, VectorReplayBuffer(6 * N, N, ignore_obs_next=True))
    with pytest.raises(ValueError, match="in a buffer of 48"):
        train(algorithm, collector, episodes=2 * N)


def test_parts_of_episodes_are_an_error(make_venv):
    venv = make_venv()
    algorithm, collector = build(venv, episodes=2 * N)
    collector.collect(n_step=N * (T + 1), reset_before_collect=True)
    algorithm.policy.is_within_training_step = True
    with pytest.raises(ValueError, match="needs whole episodes"):
        algorithm.update(collector.buffer, None, 1)


@pytest.mark.filterwarnings("ignore:.*could not score.*")
def test_failed_rewards(make_venv, tiny_types):
    rewards = [tiny_types["flaky"](fails=(0, 1, 2, 3))]
    algorithm, collector = build(make_venv(rewards=rewards, mask_failed=True))
    with pytest.raises(RuntimeError, match="no step of this rollout"):
        train(algorithm, collector)


def test_what_is_refused(make_venv):
    venv = make_venv()
    with pytest.raises(ValueError, match="'branch_grpo' needs tree_parent"):
        build(venv, "branch_grpo")
    with pytest.raises(ValueError, match="needs dict observations"):
        denoising(venv)(Batch(obs=np.zeros((2, 5))))


def test_state_is_saved_with_the_estimators_memory(make_venv, tmp_path):
    venv = make_venv()
    algorithm, collector = build(venv, "taros@calibrated")
    train(algorithm, collector)
    torch.save(algorithm.state_dict(), tmp_path / "state.pt")
    again, _ = build(venv, "taros@calibrated")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(saved)
    assert again.signal.calls == 1
    np.testing.assert_equal(again.signal.state_dict(), algorithm.signal.state_dict())
    assert "_estimator" in saved and "_optimizers" in saved
    moments = [a.optim.state_dict()["state"][0]["exp_avg"] for a in (algorithm, again)]
    assert (moments[0] == moments[1]).all()
