"""Estimators, a flow policy and our learner inside Stable-Baselines3."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecMonitor

from reelrl.algos.advantages import advantages
from reelrl.algos.interop.sb3 import (
    DenoisingPolicy,
    DenoisingTask,
    EstimatorRolloutBuffer,
    FlatEstimatorRolloutBuffer,
    GroupPPO,
)
from reelrl.envs.interop.sb3 import SB3VecEnv
from reelrl.envs.wrappers import VectorGuidanceAction, VectorPromptGroups

T = 4  # steps of an episode


@pytest.fixture
def make_venv(make_env):
    def make(num_envs=8, group_size=4, wrap=lambda env: env, **changes):
        native = make_env(num_envs, output="numpy", **changes)
        return VecMonitor(SB3VecEnv(wrap(VectorPromptGroups(native, group_size))))

    return make


def ppo(venv, estimator="gdpo", **changes):
    arguments = {
        "n_steps": T,
        "batch_size": 16,
        "n_epochs": 1,
        "normalize_advantage": False,
        "vf_coef": 0.0,
        "learning_rate": 1e-2,
        "rollout_buffer_class": EstimatorRolloutBuffer,
        "rollout_buffer_kwargs": {"estimator": estimator},
        "policy_kwargs": {"task": DenoisingTask.of(venv), "eta": 0.7},
        "device": "cpu",
        "seed": 0,
        **changes,
    }
    return PPO(DenoisingPolicy, venv, **arguments)


def weights(model):
    return torch.cat([w.flatten() for w in model.policy.state_dict().values()])


class Recorder(BaseCallback):
    """Keeps what the environment said at every step."""

    def __init__(self):
        super().__init__()
        self.infos, self.log_probs = [], []

    def _on_step(self):
        self.infos.append(self.locals["infos"])
        self.log_probs.append(self.locals["log_probs"].clone())
        return True


@pytest.mark.parametrize("episodes", [1, 2])
def test_the_buffer_holds_what_the_estimator_says(make_venv, episodes):
    venv = make_venv()
    model, recorder = ppo(venv, n_steps=T * episodes, learning_rate=0.0), Recorder()
    model.learn(8 * T * episodes, recorder)
    ends = recorder.infos[T - 1 :: T]
    vectors = np.array([info["vector_reward"] for row in ends for info in row])
    ids = [info["prompt_id"] for row in ends for info in row]
    expected = advantages(vectors, ids, "gdpo").reshape(episodes, 1, 8)
    table = np.broadcast_to(expected, (episodes, T, 8)).reshape(-1, 8)
    # After training SB3 has flattened it, sub-environment by sub-environment.
    np.testing.assert_allclose(model.rollout_buffer.advantages.ravel(), table.T.ravel(), atol=1e-6)


def test_steps_without_a_density_are_not_handed_out(make_venv):
    model = ppo(make_venv(), learning_rate=0.0)
    recorder = Recorder()
    model.learn(8 * T, recorder)
    assert (recorder.log_probs[-1] == 0).all()  # the step to the clip is deterministic
    samples = list(model.rollout_buffer.get(5))
    assert sum(len(sample.advantages) for sample in samples) == 8 * (T - 1)
    assert all((sample.old_log_prob != 0).all() for sample in samples)
    sigmas = torch.cat([sample.observations["sigma"] for sample in samples])
    last = model.policy.task.sigmas[-2]
    assert sigmas.min() > last + 1e-3


def test_unmodified_ppo_learns_by_an_estimator(make_venv):
    model = ppo(make_venv(16, 8), "grpo")
    start = brightness(model)
    model.learn(16 * T * 40)
    assert brightness(model) > start + 0.05


def brightness(model):
    """Mean brightness of clips from fixed noise without noise on the way."""
    venv = model.get_env()
    venv.set_options([{"prompt_id": i % 4, "noise_seed": i} for i in range(venv.num_envs)])
    obs = venv.reset()
    for _ in range(T):
        actions, _ = model.predict(obs, deterministic=True)
        obs, _, _, infos = venv.step(actions)
    model._last_obs = None  # the episodes it was in are over
    return float(np.mean([info["vector_reward"][0] for info in infos]))


def test_what_a_buffer_refuses(make_venv):
    venv = make_venv()
    with pytest.raises(ValueError, match=r"multiple of the 4 denoising steps .* got 6"):
        ppo(venv, n_steps=6).learn(48)
    with pytest.raises(ValueError, match="'tp_grpo' needs ode_rewards"):
        ppo(venv, "tp_grpo")
    model = ppo(venv)
    model.rollout_buffer.reset()
    with pytest.raises(TypeError, match=r"reward vectors of .*SB3VecEnv"):
        model.rollout_buffer.add({}, None, np.zeros(8), None, None, None)


def test_part_of_an_episode_is_refused(make_venv):
    venv = make_venv()
    model = ppo(venv)
    model.learn(8 * T)
    venv.step(model.predict(model._last_obs)[0])
    with pytest.raises(ValueError, match="whole episodes of 4 steps"):
        model.learn(8 * T, reset_num_timesteps=False)


@pytest.mark.filterwarnings("ignore:.*could not score.*")
def test_nothing_to_learn_from_is_an_error(make_venv, tiny_types):
    venv = make_venv(rewards=[tiny_types["flaky"](fails=(0, 1, 2, 3))])
    with pytest.raises(RuntimeError, match="no step of this rollout"):
        ppo(venv).learn(8 * T)


def test_any_policy_of_sb3_by_an_estimator(make_venv):
    shared = {"n_steps": T, "batch_size": 8, "device": "cpu", "vf_coef": 0.0}
    shared |= {"normalize_advantage": False, "rollout_buffer_kwargs": {"estimator": "rloo"}}
    flat = make_venv(flat=True, wrap=VectorGuidanceAction)
    buffer = {"rollout_buffer_class": FlatEstimatorRolloutBuffer}
    PPO("MlpPolicy", flat, **buffer, **shared).learn(2 * 8 * T)
    buffer = {"rollout_buffer_class": EstimatorRolloutBuffer}
    dicts = make_venv(wrap=VectorGuidanceAction)
    model = PPO("MultiInputPolicy", dicts, **buffer, **shared)
    model.learn(2 * 8 * T)
    assert len(model.rollout_buffer._rows) == 8 * T  # all of them have a density
    assert isinstance(model.rollout_buffer, DictRolloutBuffer)


def test_a_denoising_policy_under_plain_ppo(make_venv):
    venv = make_venv()
    model = PPO(DenoisingPolicy, venv, n_steps=2 * T, batch_size=32, device="cpu", seed=0,
                policy_kwargs={"task": DenoisingTask.of(venv)})  # fmt: skip
    before = weights(model)
    model.learn(2 * 8 * T)
    assert weights(model).isfinite().all() and (weights(model) != before).any()


def test_log_probabilities_are_means_and_replay_exactly(make_venv):
    model = ppo(make_venv())
    policy, venv = model.policy, model.get_env()
    assert isinstance(policy, BasePolicy)
    obs = {key: torch.as_tensor(value) for key, value in venv.reset().items()}
    with torch.no_grad():
        latent, values, log_prob = policy(obs)
        again = policy.evaluate_actions(obs, latent.flatten(1))
    assert values.shape == (8, 1) and (values == 0).all()
    assert (again[1] == log_prob).all() and again[2] is None
    step = policy.flow.forward(obs).step
    normal = torch.distributions.Normal(step.mean, step.step_std.view(-1, 1, 1, 1, 1))
    expected = normal.log_prob(latent).flatten(1).mean(dim=1)
    torch.testing.assert_close(log_prob.float(), expected, atol=1e-5, rtol=0)


def test_a_deterministic_step_has_no_gradient(make_venv):
    model = ppo(make_venv())
    obs = {key: torch.as_tensor(value) for key, value in model.get_env().reset().items()}
    obs["sigma"][:] = model.policy.task.sigmas[-2].float()
    latent, _, log_prob = model.policy(obs)
    assert (log_prob == 0).all()
    _, log_prob, _ = model.policy.evaluate_actions(obs, latent + 1)
    log_prob.exp().sum().backward()
    assert all((p.grad == 0).all() for p in model.policy.transformer.parameters())


def test_latents_beyond_the_bounds_are_refused_instead_of_clipped(make_venv):
    model = ppo(make_venv())
    obs = {key: torch.as_tensor(value) for key, value in model.get_env().reset().items()}
    with pytest.raises(ValueError, match="beyond the action bound 10"):
        model.policy({**obs, "latent": obs["latent"] * 100})
    with pytest.raises(ValueError, match="use_sde must be False"):
        ppo(model.get_env(), use_sde=True)


def test_flat_environments_are_no_task(make_venv):
    with pytest.raises(ValueError, match="needs structured observations"):
        DenoisingTask.of(make_venv(flat=True))


@pytest.mark.parametrize("kind", ["ppo", "group"])
def test_save_and_load(make_venv, tmp_path, kind):
    venv = make_venv()
    if kind == "ppo":
        model = ppo(venv)
    else:
        model = GroupPPO("DenoisingPolicy", venv, "taros@calibrated", learning_rate=1e-2, seed=0)
    model.learn(2 * 8 * T)
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model", env=make_venv())
    assert (weights(again) == weights(model)).all()
    obs = venv.reset()
    one, other = (m.predict(obs, deterministic=True)[0] for m in (model, again))
    assert (one == other).all() and one.shape == obs["latent"].shape
    moments = [m.policy.optimizer.state_dict()["state"][0]["exp_avg"] for m in (model, again)]
    assert (moments[0] == moments[1]).all()
    again.learn(8 * T)
    assert (weights(again) != weights(model)).any()
    if kind == "group":
        assert again.rollout_buffer.signal.calls == 3
        assert type(model).load(tmp_path / "model").predict(obs)[0].shape == one.shape


def test_the_policy_saves_and_loads_alone(make_venv, tmp_path):
    model = ppo(make_venv())
    model.policy.save(tmp_path / "policy")
    again = DenoisingPolicy.load(tmp_path / "policy", device="cpu")
    assert again.flow.settings() == model.policy.flow.settings()
    obs = model.get_env().reset()
    one, other = (p.predict(obs, deterministic=True)[0] for p in (model.policy, again))
    assert (one == other).all()


def test_adapters_are_all_that_is_saved(make_venv):
    venv = make_venv()
    kwargs = {"task": DenoisingTask.of(venv), "lora_rank": 2, "lora_targets": ("to_q",)}
    model = ppo(venv, policy_kwargs=kwargs)
    names = list(model.policy.state_dict())
    assert names and all("lora" in name for name in names)
    model.learn(8 * T)
    frozen = dict(model.policy.transformer.named_parameters())
    assert any(not p.requires_grad for p in frozen.values())


def test_group_ppo_learns_and_logs_as_sb3_users_expect(make_venv, tmp_path):
    venv = make_venv(16, 8)
    model = GroupPPO(
        "DenoisingPolicy", venv, "grpo", learning_rate=1e-2, n_epochs=2, batch_size=24,
        tensorboard_log=str(tmp_path), seed=0,
    )  # fmt: skip
    start = brightness(model)
    evaluation = EvalCallback(make_venv(4), eval_freq=10 * T, verbose=0)
    saving = CheckpointCallback(10 * T, str(tmp_path / "checkpoints"))
    model.learn(16 * T * 20, [evaluation, saving])
    assert brightness(model) > start + 0.05
    assert math.isfinite(evaluation.last_mean_reward)
    assert len(list((tmp_path / "checkpoints").glob("*.zip"))) == 2
    tags = read_tags(tmp_path / "GroupPPO_1")
    assert tags >= {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/brightness", "rollout/contrast",
        "time/fps", "train/loss", "train/approx_kl", "train/clip_fraction", "train/clip_range",
        "train/grad_norm", "train/learning_rate", "eval/mean_reward", "advantage/std",
    }  # fmt: skip


def read_tags(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return set(EventAccumulator(str(folder)).Reload().Tags()["scalars"])


def test_group_ppo_takes_the_native_batch_and_makes_it_whole(make_env):
    model = GroupPPO("DenoisingPolicy", make_env(4, output="numpy"), policy_kwargs={"eta": 0.3})
    assert isinstance(model.get_env(), VecMonitor)
    assert model.policy.flow.config.eta == 0.3 and model.n_steps == T
    with pytest.raises(ValueError, match="output must be 'numpy'"):
        GroupPPO("DenoisingPolicy", make_env(4))


def test_group_ppo_with_other_policies_and_schedules(make_venv):
    venv = make_venv(flat=True, wrap=VectorGuidanceAction)
    model = GroupPPO(
        "MlpPolicy", venv, "gdpo", learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left, episodes=2, device="cpu",
    )  # fmt: skip
    model.learn(2 * 2 * 8 * T)
    assert isinstance(model.rollout_buffer, FlatEstimatorRolloutBuffer)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0


def test_an_update_that_is_not_finite_is_left_out(make_venv):
    model = GroupPPO("DenoisingPolicy", make_venv(), seed=0)
    model.learn(8 * T)
    before = weights(model)
    model.rollout_buffer.advantages[:] = np.nan
    with pytest.warns(UserWarning, match="update skipped"):
        model.train()
    assert (weights(model) == before).all()


def test_a_seed_decides_everything(make_venv):
    runs = []
    for seed in (0, 0, 1):
        model = GroupPPO("DenoisingPolicy", make_venv(), learning_rate=1e-2, seed=seed)
        model.policy.load_state_dict(start := model.policy.state_dict())
        model.learn(2 * 8 * T)
        runs.append(weights(model))
        model.policy.load_state_dict(start)  # the environments of one test share their model
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()
