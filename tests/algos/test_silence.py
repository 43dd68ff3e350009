"""A run in which nothing is learned says so and ends; it never looks like a finished one."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import make_estimator
from reelrl.algos.callbacks import Callback
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.interop.episodes import EpisodeEstimator
from reelrl.algos.learners.update import LearnerWarning, TrainingError
from reelrl.algos.policies import FlowPolicy
from reelrl.algos.silence import check_group_of_one
from reelrl.envs.models import VideoModel
from reelrl.envs.scoring import RewardError
from reelrl.envs.wrappers import VectorScalarReward
from reelrl.rewards import Reward

SMALL = {"prompts_per_iteration": 2, "group_size": 4}


class Constant(Reward):
    """The same score for every clip, from some iteration on, or none at all."""

    name, bounds = "constant", (0.0, 1.0)

    def __init__(self, value: float, *, after: int = 0, spread: float = 1.0) -> None:
        self.value, self.after, self.spread, self.calls = value, after, spread, 0

    def score(self, videos, prompts, infos):
        self.calls += 1
        if self.calls <= self.after:
            return self.spread * videos.flatten(1).mean(dim=1)
        return torch.full((len(videos),), self.value)


@pytest.fixture
def make(make_env, tiny_types):
    def make(*rewards, estimator="grpo", wrap=lambda env: env, folder=None, **changes):
        model = tiny_types["model"]()
        env = wrap(make_env(8, model=model, rewards=list(rewards)))
        config = GRPOConfig(**{**SMALL, **changes})
        return GRPO(env, FlowPolicy(model), estimator, config, folder=folder)

    return make


def test_a_reward_that_scores_nothing_ends_the_run_in_its_first_iteration(make, tmp_path):
    """The run went on to the end, with weights and exit code 0."""
    learner = make(Constant(torch.nan), folder=tmp_path)
    before = learner.policy.state_dict()
    with pytest.warns(UserWarning, match="could not score"):  # noqa: SIM117
        with pytest.raises(TrainingError, match="no reward scored any of 8 clips: 'constant'"):
            learner.learn(3)
    assert all(torch.equal(w, learner.policy.state_dict()[n]) for n, w in before.items())
    assert not list(tmp_path.glob("checkpoints/step_*"))


def test_an_iteration_without_a_spread_is_a_warning_and_a_run_of_them_an_end(make):
    learner = make(Constant(0.5), max_skipped=3)
    reason = "all clips of a group score the same in every reward"
    with pytest.warns(LearnerWarning, match=f"learned in iteration 0: {reason}"):
        metrics = learner.learn(1)[0]
    assert metrics["train/active"] == 0
    with pytest.warns(LearnerWarning, match="iteration 1"):
        learner.learn(1)
    with pytest.raises(TrainingError, match=f"in 3 iterations in a row: {reason}"):
        learner.learn(1)


class Alternating(Constant):
    """A constant in every second iteration."""

    def score(self, videos, prompts, infos):
        self.after = self.calls + self.calls % 2
        return super().score(videos, prompts, infos)


def test_a_signal_in_between_starts_the_count_again(make):
    learner = make(Alternating(0.5), max_skipped=2)
    with pytest.warns(LearnerWarning):
        learner.learn(5)
    assert learner.silence.iterations == 1


def test_the_count_is_in_the_checkpoint(make, make_env, tiny_types, tmp_path):
    learner = make(Constant(0.5), max_skipped=3, folder=tmp_path)
    with pytest.warns(LearnerWarning):
        learner.learn(2)
    env = make_env(8, model=tiny_types["model"](), rewards=[Constant(0.5)])
    with pytest.raises(TrainingError, match="in 3 iterations in a row"):
        GRPO.load(tmp_path, env=env, log_folder=tmp_path).learn(1)


def test_a_dead_component_beside_a_live_one_ends_the_run_later(make, tiny_types):
    learner = make(tiny_types["brightness"](), Constant(torch.nan, after=1), max_skipped=2)
    with pytest.warns(UserWarning, match="constant"):
        learner.learn(2)
    with pytest.warns(UserWarning, match="constant"):  # noqa: SIM117
        with pytest.raises(TrainingError, match="reward 'constant' has scored no clip in 2 iter"):
            learner.learn(1)


def test_a_dead_component_of_weight_zero_is_nobodys_loss(make, tiny_types):
    learner = make(
        tiny_types["brightness"](), Constant(torch.nan), max_skipped=1, reward_weights=(1.0, 0.0)
    )
    with pytest.warns(UserWarning, match="constant"):
        learner.learn(2)


GROUP_BASELINES = ["grpo", "gdpo", "taros", "rloo", "dancegrpo", "dr_grpo", "dvao", "saw"]


@pytest.mark.parametrize("estimator", GROUP_BASELINES)
def test_groups_of_one_are_refused_where_the_group_is_the_baseline(make, tiny_types, estimator):
    with pytest.raises(ValueError, match=f"at least 2 for estimator '{estimator}.*, got 1"):
        make(tiny_types["brightness"](), estimator=estimator, group_size=1)


def test_an_estimator_with_another_baseline_takes_groups_of_one():
    check_group_of_one(make_estimator("reinforce_pp"), ["a", "b"], 8)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0, 3.0)])
def test_weights_that_do_not_fit_are_found_before_anything_is_drawn(make, tiny_types, weights):
    with pytest.raises(ValueError, match=r"learner.reward_weights: expected 2 .*brightness, cont"):
        make(tiny_types["brightness"](), tiny_types["contrast"](), reward_weights=weights)


def test_weights_of_the_environment_are_refused(make, make_env, tiny_types):
    """They were ignored: the learner reads the vector."""
    rewards = [tiny_types["brightness"](), tiny_types["contrast"]()]
    with pytest.raises(ValueError, match=r"weighs its rewards \(\[1.0, 0.5\]\).*reward_weights"):
        make(*rewards, wrap=lambda env: VectorScalarReward(env, [1.0, 0.5]))
    env = make_env(8, rewards=rewards, scalar_weights=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"as learner\.reward_weights, and none to the env"):
        GRPO(env, FlowPolicy(env.unwrapped.model), "grpo", GRPOConfig(**SMALL))
    make(*rewards, wrap=VectorScalarReward).learn(1)  # The signs are no weights of somebody.


@pytest.mark.parametrize("learning_rate", [1e30, 1e20])
def test_a_policy_that_cannot_act_is_not_the_newest_checkpoint(nano_env, tmp_path, learning_rate):
    def config(rate):
        return GRPOConfig(
            prompts_per_iteration=1, group_size=4, learning_rate=rate, save_every=1, max_skipped=1
        )

    env = nano_env(4, num_steps=2)
    good = GRPO(env, FlowPolicy(env.unwrapped.model), "grpo", config(1e-5), folder=tmp_path)
    good.learn(1)
    good.updater.config = config(learning_rate)
    with pytest.raises(TrainingError, match=r"iteration 1 left a policy that cannot act"):
        good.learn(3)
    assert [p.name for p in (tmp_path / "checkpoints").glob("*step_*")] == ["step_00000001"]
    resumed = GRPO.load(tmp_path, env=nano_env(4, num_steps=2), log_folder=tmp_path)
    resumed.learn(1)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1]


def test_more_updates_than_items_are_divided_by_the_updates_there_are(make, tiny_types):
    """Thirty-two parts of eight items were eight, each divided by an eighth over thirty-two."""
    norms = []
    for updates in (8, 32, 1000):
        learner = make(
            tiny_types["contrast"](), updates_per_iteration=updates, max_grad_norm=1e9,
            rollout=RolloutConfig(last_step=0),
        )  # fmt: skip
        norms.append(learner.learn(1)[0]["train/grad_norm"])
    assert norms[0] == norms[1] == norms[2] > 0


def test_a_run_from_weights_of_another_run_says_so():
    """Two methods in a loop over one environment started from each other's weights."""
    model = VideoModel.from_pretrained("nano-early")
    assert model.trained_by is None
    first, second = FlowPolicy(model), FlowPolicy(model)
    assert first.token != second.token != copy.deepcopy(second).token


def test_the_second_of_two_learners_over_one_model_warns(make_env, tiny_types):
    env = make_env(8, model=tiny_types["model"]())

    def learner():
        return GRPO(env, FlowPolicy(env.unwrapped.model), "grpo", GRPOConfig(**SMALL))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = learner()
        first.learn(1)
        first.learn(1)
    with pytest.warns(LearnerWarning, match="were trained in this process by another policy"):
        learner().learn(1)


@pytest.mark.parametrize("value", [None, "0.5", torch.ones(2), True])
def test_an_observer_returns_numbers(make, tiny_types, value):
    learner = make(tiny_types["brightness"]())
    callback = Callback()
    callback.on_rollout = lambda *_: {"measured": value}
    learner.callbacks = (callback,)
    with pytest.raises(TypeError, match=r"on_rollout must return numbers, got .* for 'measured'"):
        learner.learn(1)


@pytest.mark.parametrize(
    "prompt_ids, rewards, words",
    [
        ([0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4], "no two of them have one prompt"),
        ([0, 0, 1, 1], [0.5, 0.5, 0.2, 0.2], "the scores of a group are alike, or cancel"),
    ],
)
def test_episodes_of_other_libraries_say_so_too(facts_of, prompt_ids, rewards, words):
    vectors = np.array(rewards, dtype=np.float32)[:, None]
    with pytest.warns(LearnerWarning, match=f"from these 4 episodes, because {words}: .*'grpo'"):
        EpisodeEstimator("grpo")(vectors, np.array(prompt_ids), facts_of("a"))


class Bug(Constant):
    """Works in its first iterations and has a bug then."""

    def score(self, videos, prompts, infos):
        if self.calls >= self.after:
            raise NameError("vidoes")
        return super().score(videos, prompts, infos)


@pytest.mark.parametrize(
    "reward, error",
    [(Constant(torch.nan, after=3), TrainingError), (Bug(0.5, after=3), RewardError)],
)
def test_a_run_that_has_to_end_keeps_what_is_done(
    make, make_env, tiny_types, tmp_path, reward, error
):
    """At save_every=50 all of it was lost."""
    learner = make(reward, save_every=50, max_skipped=1, folder=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error):
            learner.learn(9)
    env = make_env(8, model=tiny_types["model"](), rewards=[Constant(0.5, after=99)])
    resumed = GRPO.load(tmp_path, env=env, allow_changes=True)
    assert resumed.iteration == 3
    for name, weight in learner.policy.state_dict().items():
        assert torch.equal(weight, resumed.policy.state_dict()[name])


def test_weights_by_name(make, tiny_types):
    rewards = tiny_types["brightness"](), tiny_types["contrast"]()
    learner = make(*rewards, reward_weights={"contrast": 2.0})
    assert learner.config.reward_weights == (0.0, 2.0)
    with pytest.raises(ValueError, match="contrst"):
        make(*rewards, reward_weights={"contrst": 2.0})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rollout": RolloutConfig(first_step=7, last_step=9)}, r"rollout\.first_step to rollout"),
        ({"group_size": 3}, "must be a positive multiple of num_envs = 8"),
    ],
)
def test_settings_that_no_clip_can_be_drawn_with_are_found_at_construction(
    make, tiny_types, changes, words
):
    with pytest.raises(ValueError, match=words):
        make(tiny_types["brightness"](), **changes)


def test_rewards_without_bounds_are_found_at_construction(make):
    """After the first rollout, that is after the model was loaded and examined."""

    class Unbounded(Constant):
        bounds = (-float("inf"), float("inf"))

    with pytest.raises(ValueError, match=r"'taros' needs rewards with finite bounds"):
        make(Unbounded(0.5, after=9), estimator="taros")


def test_a_reward_that_compares_clips_wants_whole_groups_in_a_batch(make_env, tiny_types):
    """A group of eight was scored as two of four, in silence."""
    model = tiny_types["model"]()
    env = make_env(4, model=model, rewards=["pairwise_distance"])

    def trainer(group_size):
        config = GRPOConfig(prompts_per_iteration=1, group_size=group_size)
        return GRPO(env, FlowPolicy(model), "grpo", config)

    with pytest.raises(ValueError, match=r"pairwise_distance compares .* num_envs = 4 is no mult"):
        trainer(8)
    assert trainer(4).collect().valid.all()


def test_two_groups_of_one_prompt_are_scored_apart(make_env, tiny_types):
    model = tiny_types["model"]()
    env = make_env(8, model=model, prompts=["dim"], rewards=["pairwise_distance"])
    rollout = GRPO(env, FlowPolicy(model), "grpo", GRPOConfig(**SMALL)).collect()
    half = make_env(4, model=model, prompts=["dim"], rewards=["pairwise_distance"]).unwrapped
    for rows in (slice(0, 4), slice(4, 8)):
        alone = torch.as_tensor(half.score(rollout.latents[rows], [0] * 4))
        torch.testing.assert_close(rollout.rewards[rows], alone.to(rollout.rewards))
