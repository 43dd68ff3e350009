"""Public names and signatures that other people's code may rely on."""

from __future__ import annotations

import importlib
import inspect

import pytest

NAMES = {
    "reelrl.rewards": "Reward RewardOutput make_reward register_reward list_rewards",
    "reelrl.envs.wrappers": (
        "AddReward VectorAddReward ScalarReward VectorScalarReward VelocityAction "
        "VectorVelocityAction GuidanceAction VectorGuidanceAction"
    ),
    "reelrl.envs.models": "VideoModel register_model",
    "reelrl.envs.interop.sb3": "SB3VecEnv",
    "reelrl.envs.interop.tianshou": "TianshouVectorEnv",
    "reelrl.algos.advantages": (
        "RewardBatch AdvantageOutput make_estimator advantages register_estimator list_estimators"
    ),
    "reelrl.algos.policies.flow": "FlowPolicy",
    "reelrl.algos.grpo": "GRPO GRPOConfig",
    "reelrl.algos.trainer": "Trainer",
    "reelrl.algos.learners": "Learner make_learner list_learners register_learner",
    "reelrl.zoo.benchmark.truth": "Truth",
}
SIGNATURES = {
    "reelrl.algos.grpo:GRPO": "env policy estimator config folder",
    "reelrl.algos.grpo:GRPO.learn": "iterations",
    "reelrl.algos.grpo:GRPO.load": "folder",
    "reelrl.algos.trainer:Trainer": "env policy estimator learner config folder",
    "reelrl.algos.policies.flow:FlowPolicy": "model kernel eta guidance_scale",
    "reelrl.algos.policies.flow:FlowPolicy.act": "obs generator",
    "reelrl.algos.policies.flow:FlowPolicy.log_prob": "obs action",
    "reelrl.algos.policies.flow:FlowPolicy.predict": "obs deterministic",
    "reelrl.algos.policies.flow:FlowPolicy.velocity": "latent sigma prompt_ids",
    "reelrl.envs.models:VideoModel.from_pretrained": "name_or_path",
    "reelrl.envs.models:VideoModel.encode": "prompts",
    "reelrl.envs.models:VideoModel.velocity": "latent sigma embedding",
    "reelrl.envs.models:VideoModel.decode": "latent",
    "reelrl.envs.models:VideoModel.latent_shape": "num_frames height width",
    "reelrl.envs.models:VideoModel.schedule": "num_steps shift latent_shape",
    "reelrl.envs.models:VideoModel.guided": "latent sigma embedding scale empty",
    "reelrl.zoo.benchmark.truth:Truth.prompts": "split",
    "reelrl.zoo.benchmark.truth:Truth.__call__": "videos prompts",
}
"""Where -> the names of its first parameters, in order."""
FIELDS = "latents prompt_ids group_id noise_seeds rewards valid extras transitions"
"""Of a rollout."""
ARGUMENTS = (
    "model prompts rewards num_steps shift num_frames height width observe_embedding "
    "scalar_weights output device"
)
"""Of both environments."""


@pytest.mark.parametrize("module", NAMES)
def test_names_are_where_they_were_promised(module):
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


@pytest.mark.parametrize("place", SIGNATURES)
def test_parameters_have_their_names_and_order(place):
    module, _, path = place.partition(":")
    item = importlib.import_module(module)
    for part in path.split("."):
        item = getattr(item, part)
    # What binds itself is no parameter.
    names = [name for name in inspect.signature(item).parameters if name not in ("self", "cls")]
    wanted = SIGNATURES[place].split()
    assert [name for name in names if name in wanted] == wanted
    assert names[: len(wanted) - 1] == wanted[:-1]


def test_a_rollout_has_its_fields():
    from reelrl.algos.collect.rollout import Rollout

    known = {*Rollout.__dataclass_fields__, *vars(Rollout)}
    assert set(FIELDS.split()) <= known


def test_environments_take_their_arguments():
    from reelrl.envs.task import Task

    assert set(ARGUMENTS.split()) <= set(inspect.signature(Task).parameters)
