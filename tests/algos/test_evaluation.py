from __future__ import annotations

import pytest
import torch

from reelrl.algos.evaluation import Evaluation
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.policies import FlowPolicy
from reelrl.algos.policies.weights import EMA
from reelrl.envs.sampling import euler_ode, initial_noise
from reelrl.rewards import Reward


def test_an_evaluation_is_the_euler_solution_from_fixed_noise(make_env, tiny_model):
    env = make_env(2)
    rewards, videos = Evaluation(env, [0, 1, 2, 3], seed=5)(FlowPolicy(tiny_model))
    noise = initial_noise((2, 3, 2, 2), [5, 6, 7, 8])
    clean = euler_ode(tiny_model, env.unwrapped.embeddings, noise, num_steps=4)
    expected = env.unwrapped.score(clean, [0, 1, 2, 3])
    torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=0)
    assert videos.shape == (4, 5, 8, 8, 3)


def test_the_average_is_examined_if_there_is_one(make_env, tiny_model):
    policy = FlowPolicy(tiny_model)
    examination = Evaluation(make_env(4), [0, 1, 2, 3])
    before, _ = examination(policy)
    average = EMA(policy.parameters, 0.9)
    with torch.no_grad():
        tiny_model.transformer.to_k.bias.add_(0.5)
    assert torch.equal(examination(policy, average)[0], before)
    assert not torch.allclose(examination(policy)[0], before)


def test_t41_a_learner_watches_rewards_it_is_not_trained_on(make_env, tiny_model, tiny_types):
    held_out = make_env(4, rewards=[tiny_types["contrast"]()], num_steps=6)
    env = make_env(8, rewards=[tiny_types["brightness"]()])
    config = GRPOConfig(prompts_per_iteration=2, group_size=4)
    examination = Evaluation(held_out, [0, 1, 2, 3], every=2)
    learner = GRPO(env, FlowPolicy(tiny_model), "grpo", config, evaluation=examination)
    history = learner.learn(3)
    assert ["eval/contrast" in metrics for metrics in history] == [True, False, True]
    tiny_model.transformer.load_state_dict(tiny_types["model"]().transformer.state_dict())
    blind = GRPO(env, FlowPolicy(tiny_model), "grpo", config).learn(3)
    assert blind[2]["reward/brightness"] == history[2]["reward/brightness"]


def test_a_clip_that_cannot_be_scored_costs_itself_alone(make_env, tiny_model, tiny_types):
    env = make_env(4, rewards=[tiny_types["flaky"]((1,)), tiny_types["contrast"]()])
    examination = Evaluation(env, [0, 1, 2, 3])
    with pytest.warns(UserWarning, match="flaky"):
        rewards, _ = examination(FlowPolicy(tiny_model))
        metrics = examination.metrics(FlowPolicy(tiny_model))
    assert rewards[:, 0].isnan().tolist() == [False, True, False, False]
    assert metrics == pytest.approx({
        "eval/flaky": float(rewards[[0, 2, 3], 0].mean()),
        "eval/contrast": float(rewards[:, 1].mean()),
    })  # fmt: skip


class Faithful(Reward):
    """What was wanted: a brightness of one half."""

    name = "faithful"
    bounds = (-0.5, 0.0)

    def score(self, videos, prompts, infos):
        return -(videos.flatten(1).mean(dim=1) - 0.5).abs()


def test_t41_a_held_out_reward_shows_that_the_trained_one_is_hacked(
    make_env, tiny_model, tiny_types
):
    def changes(reward):
        tiny_model.transformer.load_state_dict(tiny_types["model"]().transformer.state_dict())
        examination = Evaluation(make_env(4, rewards=[Faithful()]), [0, 1, 2, 3], every=5)
        config = GRPOConfig(prompts_per_iteration=4, group_size=4, learning_rate=3e-2)
        env = make_env(16, rewards=[reward])
        learner = GRPO(env, FlowPolicy(tiny_model), "grpo", config, evaluation=examination)
        history = learner.learn(11)
        name = f"reward/{reward.name}"
        return [
            history[10][name] - history[0][name],
            *(history[i]["eval/faithful"] - history[0]["eval/faithful"] for i in (5, 10)),
        ]

    trained, early, last = changes(tiny_types["brightness"]())
    assert trained > 0.05 and -0.05 > early > last
    # The alarm is about the reward and not about training.
    trained, *_, last = changes(Faithful())
    assert trained > 0 and last > 0


def test_numbers_that_do_not_fit_are_refused(make_env):
    with pytest.raises(ValueError, match="multiple of num_envs = 4 prompts, got 3"):
        Evaluation(make_env(4), [0, 1, 2])
