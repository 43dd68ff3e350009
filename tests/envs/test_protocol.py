"""What may be asked of an environment of this library, and the refusal of another one."""

from __future__ import annotations

import gymnasium as gym
import pytest

from reelrl.envs.protocol import DenoisingProblem, denoising_batch, denoising_env


def test_both_environments_are_found_below_their_wrappers():
    batch = gym.make_vec("reelrl/MovingShapes-v0", num_envs=2, num_steps=2)
    single = gym.make("reelrl/MovingShapes-v0", num_steps=2)
    assert denoising_batch(batch) is batch.unwrapped
    assert denoising_env(single) is single.unwrapped
    assert single is not single.unwrapped


def test_a_single_environment_is_no_batch():
    single = gym.make("reelrl/MovingShapes-v0", num_steps=2)
    with pytest.raises(TypeError, match=r"got TextToVideoEnv without autoreset_mode, num_envs$"):
        denoising_batch(single)


def test_a_foreign_environment_is_refused_with_what_it_lacks():
    with pytest.raises(
        TypeError, match=r"made by gymnasium\.make or make_vec, got CartPoleEnv"
    ) as e:
        denoising_env(gym.make("CartPole-v1"))
    lacks = str(e.value).split("without ")[1].split(", ")
    assert lacks == sorted(lacks)
    # Those of the task below it, too.
    assert {"model", "prompts", "embeddings", "sigmas", "num_steps", "score"} <= set(lacks)


@pytest.mark.parametrize("name", sorted(n for n in vars(DenoisingProblem) if not n.startswith("_")))
def test_an_environment_that_lacks_one_name_is_refused(name):
    """Made by hand: it offers everything else."""
    single = gym.make("reelrl/MovingShapes-v0", num_steps=2).unwrapped
    offered = {n: None for n in dir(single) if n != name and not n.startswith("__")}
    other = type("Almost", (), offered)()
    other.unwrapped = other
    with pytest.raises(TypeError, match=f"got Almost without {name}$"):
        denoising_env(other)
