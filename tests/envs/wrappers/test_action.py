"""Velocity and guidance as actions, single and batched."""

from __future__ import annotations

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reelrl.envs.sampling import euler_ode, initial_noise, step_noise
from reelrl.envs.wrappers import (
    GuidanceAction,
    ScalarReward,
    VectorGuidanceAction,
    VectorScalarReward,
    VectorVelocityAction,
    VelocityAction,
)

TWINS = {
    "velocity": (VelocityAction, VectorVelocityAction),
    "guidance": (GuidanceAction, VectorGuidanceAction),
}


RESCALE = (gym.wrappers.RescaleAction, gym.wrappers.vector.RescaleAction)


def quietly(check, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(*args, **kwargs)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("flat", [False, True])
def test_the_twin_equals_a_batch_of_single_envs(make_single, make_batch, name, mode, flat):
    single, batched = TWINS[name]
    sync = SyncVectorEnv(
        [lambda: ScalarReward(single(make_single(flat=flat)))] * 3,
        autoreset_mode=AutoresetMode(mode),
    )
    native = VectorScalarReward(batched(make_batch(3, autoreset_mode=mode, flat=flat)))
    assert native.action_space == sync.action_space
    assert data_equivalence(sync.reset(seed=3), native.reset(seed=3), exact=True)
    native.action_space.seed(0)
    mask = np.array([False, True, False])
    for step in range(9):
        actions = native.action_space.sample()
        one, other = sync.step(actions), native.step(actions)
        for part, again in zip(one[:4], other[:4], strict=True):
            assert data_equivalence(part, again), f"step {step}"
        mask = other[2] if mode == "Disabled" and other[2].any() else mask
        if step == 1 or (mode == "Disabled" and other[2].any()):
            one = sync.reset(options={"reset_mask": mask.copy()})
            other = native.reset(options={"reset_mask": mask})
            assert data_equivalence(one, other, exact=True)


@pytest.mark.parametrize("name", TWINS)
def test_checkers_pass(make_single, name):
    from stable_baselines3.common.env_checker import check_env as check_sb3

    quietly(check_env, TWINS[name][0](make_single()))
    check_sb3(ScalarReward(TWINS[name][0](make_single(flat=True))), warn=False)


@pytest.mark.parametrize("name", TWINS)
def test_specs_and_pickles_rebuild_the_wrapper(make_single, name):
    env = TWINS[name][0](make_single(), kernel="cps")
    for again in (gym.make(env.spec), pickle.loads(pickle.dumps(env))):
        assert type(again.unwrapped).__name__ == "TextToVideoEnv"
        assert again.action_space == env.action_space
        one, other = env.reset(seed=1), again.reset(seed=1)
        action = env.action_space.sample()
        one, other = env.step(action), again.step(action)
        assert data_equivalence(one, other, exact=True)


def test_the_models_velocity_and_no_noise_is_the_euler_solution(make_batch, tiny_model):
    envs = VectorVelocityAction(make_batch(3, model=tiny_model), "ode")
    observations, infos = envs.reset(seed=0)
    base = envs.unwrapped
    embedding = base.embeddings[torch.from_numpy(infos["prompt_id"])]
    for _ in range(base.num_steps):
        latent = torch.from_numpy(observations["latent"])
        sigma = torch.from_numpy(observations["sigma"][:, 0])
        observations, *_ = envs.step(tiny_model.velocity(latent, sigma, embedding).numpy())
    noise = initial_noise(base.task.latent_shape, infos["noise_seed"].tolist())
    expected = euler_ode(tiny_model, embedding, noise, num_steps=4, shift=3.0)
    np.testing.assert_allclose(observations["latent"], expected, atol=1e-5)


def test_guidance_without_noise_reaches_the_point_the_guided_model_means(make_batch, tiny_model):
    """Of a point mass c and an empty prompt at 0, scale g reaches g c."""
    envs = VectorGuidanceAction(make_batch(2, model=tiny_model))
    envs.reset(seed=0, options={"prompt_id": 0})
    tiny_model.calls["velocity"] = 0
    for _ in range(4):
        observations, *_ = envs.step(np.array([[1.0, 0.0], [3.0, 0.0]], np.float32))
    assert tiny_model.calls["velocity"] == 4
    np.testing.assert_allclose(observations["latent"][0], 0.4, atol=1e-5)
    np.testing.assert_allclose(observations["latent"][1], 1.2, atol=1e-5)


def test_noise_levels_act_per_sub_env(make_batch, tiny_model):
    envs = VectorGuidanceAction(make_batch(3, model=tiny_model))
    start, _ = envs.reset(seed=0, options={"prompt_id": 0, "noise_seed": 1})
    after, *_ = envs.step(np.array([[1, 0], [1, 0], [1, 1]], np.float32))
    assert (after["latent"][0] == after["latent"][1]).all()
    assert not np.isclose(after["latent"][0], after["latent"][2]).any()
    assert (start["latent"][0] == start["latent"][2]).all()


def test_t14_one_noise_seed_starts_alike_and_goes_different_ways(make_batch):
    envs = VectorVelocityAction(make_batch(2))
    start, _ = envs.reset(seed=0, options={"prompt_id": 0, "noise_seed": 1})
    assert (start["latent"][0] == start["latent"][1]).all()
    after, *_ = envs.step(np.zeros(envs.action_space.shape, np.float32))
    assert not (after["latent"][0] == after["latent"][1]).any()


def test_t15_step_noise_depends_on_seed_and_step_alone():
    alone = step_noise((2, 3), [5], [2])
    together = step_noise((2, 3), [4, 5, 5], [2, 2, 3])
    assert (alone[0] == together[1]).all()
    assert not (together[1] == together[2]).any()
    assert not (together[0] == together[1]).any()
    many = step_noise((1000,), range(50), [0] * 50)
    assert abs(float(many.std()) - 1) < 0.02
    correlation = np.corrcoef(many.numpy())
    assert abs(correlation[~np.eye(50, dtype=bool)]).max() < 0.2


@pytest.mark.parametrize("name", TWINS)
def test_non_finite_actions_name_the_sub_env(make_batch, name):
    envs = TWINS[name][1](make_batch(3))
    envs.reset(seed=0)
    actions = envs.action_space.sample()
    actions[1, 0] = np.nan
    with pytest.raises(ValueError, match="sub-env 1 holds nan"):
        envs.step(actions)
    with pytest.raises(ValueError, match=r"shape \(3, .*got \(2, "):
        envs.step(envs.action_space.sample()[:2])


def test_guidance_actions_are_clipped_to_their_ranges(make_single):
    env = GuidanceAction(make_single(), guidance_range=(1.0, 2.0), noise_range=(0.0, 0.5))
    outcomes = []
    for action in ([2.0, 0.5], [99.0, 99.0]):
        env.reset(seed=0)
        outcomes.append(env.step(np.array(action, np.float32))[0]["latent"])
    assert (outcomes[0] == outcomes[1]).all()


def test_ranges_given_as_arrays_survive_json():
    env = gym.make("reelrl:reelrl/MovingShapes-v0")
    env = GuidanceAction(env, guidance_range=np.array([1, 4], np.float32))
    assert gym.make(EnvSpec.from_json(env.spec.to_json())).action_space == env.action_space


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda env: VelocityAction(env, "flow"), "unknown kernel 'flow'; did you mean"),
        (lambda env: VelocityAction(env, "ode", eta=1), "unexpected keyword argument 'eta'"),
        (lambda env: GuidanceAction(env, "ode"), "take one of cps, dance_sde, flow_sde$"),
        (lambda env: GuidanceAction(env, "cps", noise_range=(0, 2)), "eta must be a number"),
        (lambda env: GuidanceAction(env, guidance_range=(2, 2)), "guidance_range must be"),
    ],
)
def test_bad_arguments(make_single, wrap, message):
    with pytest.raises(ValueError, match=message):
        wrap(make_single())


def test_an_ordinary_agent_learns_on_it(make_single):
    """PPO with a small network, unmodified; its normalised actions through RescaleAction."""
    from stable_baselines3 import PPO

    low, high = np.full(2, -1, np.float32), np.full(2, 1, np.float32)
    env = ScalarReward(GuidanceAction(make_single(flat=True)))
    env = gym.wrappers.RescaleAction(env, low, high)
    agent = PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    before = agent.policy.mlp_extractor.policy_net[0].weight.detach().clone()
    agent.learn(32)
    assert not (agent.policy.mlp_extractor.policy_net[0].weight == before).all()


def test_another_environment_is_refused():
    with pytest.raises(TypeError, match=r"expected wrappers over a TextToVideoEnv.*CartPole"):
        VelocityAction(gym.make("CartPole-v1"))


@pytest.mark.parametrize(
    "inner",
    [
        lambda env, kind: TWINS["velocity"][kind](env),
        lambda env, kind: TWINS["guidance"][kind](env),
        lambda env, kind: RESCALE[kind](env, np.float32(-1), np.float32(1)),
        lambda env, kind: (ScalarReward, VectorScalarReward)[kind](TWINS["velocity"][kind](env)),
    ],
)
@pytest.mark.parametrize("name", TWINS)
def test_action_wrappers_do_not_stack(make_single, make_batch, name, inner):
    for kind, env in enumerate((make_single(), make_batch(2))):
        with pytest.raises(ValueError, match=r"expected .* actions are latents, Box\(-10.* got"):
            TWINS[name][kind](inner(env, kind))


@pytest.mark.parametrize("control", [0, 1])
def test_a_control_that_is_nan_is_refused_at_every_step(make_batch, control):
    for last in range(4):
        envs = VectorGuidanceAction(make_batch(2))
        envs.reset(seed=0)
        actions = np.array([[2.0, 0.5], [2.0, 0.5]], np.float32)
        for _ in range(last):
            envs.step(actions)
        actions[1, control] = np.nan
        with pytest.raises(ValueError, match="sub-env 1 holds nan"):
            envs.step(actions)
