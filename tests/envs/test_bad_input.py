"""Every wrong use fails early, with the expected and the actual value in the message."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest
import torch

from reelrl.envs.scoring import RewardError, RewardWarning
from reelrl.rewards import Reward

MODES = ["NextStep", "SameStep", "Disabled"]


def good(envs):
    return envs.action_space.sample()


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_action_names_its_sub_env_and_changes_nothing(make_batch, value, output):
    envs = make_batch(4, output=output)
    before, _ = envs.reset(seed=0)
    actions = good(envs)
    actions[2, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="sub-env 2 holds nan or inf"):
        envs.step(actions)
    actions[2] = 0
    after = envs.step(actions)[0]
    assert (after["sigma"] < before["sigma"]).all()


def test_on_an_accelerator_a_non_finite_action_is_found_at_the_end(make_batch, monkeypatch):
    """Looking at once would stall the device; a later finite action must not hide it."""
    envs = make_batch(2, output="torch", num_steps=3)
    envs.reset(seed=0)
    monkeypatch.setattr(envs.unwrapped.task, "device", FakeAccelerator())
    actions = torch.zeros(envs.action_space.shape)
    actions[1] = torch.nan
    envs.step(actions)
    envs.step(torch.zeros_like(actions))
    with pytest.raises(ValueError, match=r"sub-env 1 .* or an earlier step"):
        envs.step(torch.zeros_like(actions))


class FakeAccelerator:
    """A device that says it is an accelerator while tensors stay where they are."""

    type = "cuda"


@pytest.fixture(autouse=True)
def tensors_ignore_the_fake_device(monkeypatch):
    move = torch.Tensor.to

    def stay(tensor, *args, **kwargs):
        return move(tensor, *[a for a in args if not isinstance(a, FakeAccelerator)] or ["cpu"])

    monkeypatch.setattr(torch.Tensor, "to", stay)


def test_ignored_rows_may_hold_anything(make_batch):
    envs = make_batch(2, num_steps=1)
    envs.reset(seed=0)
    envs.step(good(envs))
    envs.step(np.full(envs.action_space.shape, np.nan, np.float32))
    with pytest.raises(ValueError, match="sub-env 0, 1"):
        envs.step(np.full(envs.action_space.shape, np.nan, np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_shape_or_dtype(make_batch, make_single, mode):
    envs = make_batch(2, autoreset_mode=mode)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 3, 2, 2\), got \(1, 2, 3, 2, 2\)"):
        envs.step(good(envs)[:1])
    with pytest.raises(ValueError, match=r"floating point.*int64"):
        envs.step(np.zeros(envs.action_space.shape, np.int64))
    with pytest.raises(ValueError, match=r"floating point.*object"):
        envs.step(np.full(envs.action_space.shape, None))
    env = make_single()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 2, 2\), got \(3,\)"):
        env.step(np.zeros(3, np.float32))


def test_other_float_dtypes_are_taken(make_single):
    env = make_single()
    env.reset(seed=0)
    for dtype in (np.float16, np.float64):
        observation, *_ = env.step(np.ones(env.action_space.shape, dtype))
        assert observation["latent"].dtype == np.float32
    observation, *_ = env.step(torch.ones(env.action_space.shape, dtype=torch.bfloat16))
    assert observation["latent"].dtype == np.float32


def test_stepping_after_the_end_or_before_the_beginning(make_single, make_batch):
    env = make_single(num_steps=1)
    with pytest.raises(gym.error.ResetNeeded):
        env.unwrapped.step(env.action_space.sample())
    env.reset(seed=0)
    env.step(env.action_space.sample())
    with pytest.raises(gym.error.ResetNeeded, match="ended after 1 steps"):
        env.step(env.action_space.sample())
    envs = make_batch(2)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(good(envs))
    with pytest.raises(gym.error.ResetNeeded, match="all sub-envs before"):
        envs.reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_id": 3}, r"prompt_id must be in 0\.\.2, got values from 3 to 3"),
        ({"prompt_id": -1}, "prompt_id must be in"),
        ({"prompt_id": "dark"}, "prompt_id must be one integer or 2"),
        ({"prompt_id": [0, 1, 2]}, "prompt_id must be one integer or 2"),
        ({"prompt_id": 1.0}, "prompt_id must be one integer"),
        ({"noise_seed": -1}, "noise_seed must be in"),
        ({"noise_seed": 2**32}, "noise_seed must be in"),
        ({"prompt": 1}, "unknown reset option 'prompt'; did you mean 'prompt_id'"),
        ({"reset_mask": np.array([1, 0])}, "reset_mask must be"),
        ({"reset_mask": np.array([True])}, "reset_mask must be"),
        ({"reset_mask": np.zeros(2, bool)}, "at least one True"),
    ],
    ids=str,
)
def test_reset_options(make_batch, options, message):
    with pytest.raises(ValueError, match=message):
        make_batch(2).reset(seed=0, options=options)


def test_refused_options_leave_the_generator_where_it_was(make_single, make_batch):
    for one, other in ((make_single(), make_single()), (make_batch(1), make_batch(1))):
        one.reset(seed=0), other.reset(seed=0)
        with pytest.raises(ValueError, match="unknown reset option"):
            one.reset(seed=7, options={"prompt": 1})
        assert one.reset()[1]["noise_seed"] == other.reset()[1]["noise_seed"]


def test_seeds_of_another_length(make_batch):
    with pytest.raises(ValueError, match="expected one seed or 2 of them, got 3"):
        make_batch(2).reset(seed=[1, 2, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "at least one text"),
        ({"prompts": "moving_shape"}, "did you mean 'moving_shapes'"),
        ({"prompts": ["fine", 3]}, "prompt 1 must be a text, got int"),
        ({"prompts": ["fine", "what?"]}, "words that 'tiny' does not know"),
        ({"rewards": []}, "at least one component"),
        ({"rewards": ["gold_alin"]}, "unknown reward 'gold_alin'"),
        ({"rewards": [3]}, "a reward is a Reward"),
        ({"rewards": "gold"}, "rewards must be a list"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 2.5}, "num_steps must be an integer, got 2.5"),
        ({"num_steps": True}, "num_steps must be an integer, got True"),
        ({"height": 8.0}, "height must be an integer, got 8.0"),
        ({"shift": 0.0}, "shift must be positive"),
        ({"num_frames": 6}, "4k.1, got 6"),
        ({"output": "jax"}, "output must be 'numpy' or 'torch', got 'jax'"),
        ({"device": "meta"}, "device must hold numbers, got 'meta'"),
        ({"device": "nope"}, "device must be one that torch knows, got 'nope': "),
        ({"device": 1.5}, "device must be one that torch knows, got 1.5"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not there: "),
        ({"shift": "abc"}, "shift must be a number or None, got 'abc'"),
        ({"flat": "yes"}, "flat must be True or False, got 'yes'"),
        ({"observe_embedding": 1}, "observe_embedding must be True or False, got 1"),
        ({"model": 5}, "model must be a name, a folder or a VideoModel, got 5"),
        ({"render_mode": "ansi"}, "render_mode must be None or one of"),
        ({"on_reward_error": "ignore"}, "on_reward_error must be"),
        ({"reward_timeout": 0}, "reward_timeout must be positive"),
        ({"scalar_weights": [1.0]}, "expected 3 finite weights"),
        ({"scalar_weights": [1.0, 2.0, np.nan]}, "expected 3 finite weights"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_arguments(make_single, changes, message):
    with pytest.raises(ValueError, match=message):
        make_single(**changes)


def test_more_arguments(make_single, make_batch, reward_types):
    with pytest.raises(ValueError, match="argument 'num_step'; did you mean 'num_steps'"):
        make_single(num_step=3)
    with pytest.raises(ValueError, match="argument 'guidance'; known: device, "):
        make_batch(2, guidance=3)
    with pytest.raises(ValueError, match="'Never'"):
        make_batch(2, autoreset_mode="Never")
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got 0"):
        make_batch(0)
    twice = [reward_types["brightness"](), reward_types["brightness"]()]
    with pytest.raises(ValueError, match="'brightness' is already one of"):
        make_single(rewards=twice)


class Faulty(Reward):
    """Fails in the way it is told to."""

    name = "faulty"
    bounds = (0.0, 1.0)

    def __init__(self, fault):
        self.fault = fault

    def score(self, videos, prompts, infos):
        if self.fault == "raises":
            raise ZeroDivisionError("no pixels")
        if self.fault == "late":
            time.sleep(0.5)
        if self.fault == "shape":
            return torch.zeros(len(videos), 2)
        if self.fault == "text":
            return ["good"] * len(videos)
        if self.fault == "typo":
            return vidoes.mean()  # noqa: F821  # the slip that is tested
        if self.fault == "import":
            import no_such_module_at_all  # noqa: F401
        if self.fault == "type error":
            return videos + "1"
        values = torch.full((len(videos),), 0.5)
        if self.fault == "nan":
            values[0] = torch.nan
        return values


class WrongType(Faulty):
    def __call__(self, videos, prompts, infos=None):
        return torch.zeros(len(videos))


FAULTS = {
    "raises": (Faulty("raises"), "faulty.*ZeroDivisionError: no pixels", [False, False]),
    "late": (Faulty("late"), "faulty.*TimeoutError: no answer within 0.05 s", [False, False]),
    "nan": (Faulty("nan"), "faulty.*could not score 1 of 2 clips", [False, True]),
}


BUGS = {
    "shape": (Faulty("shape"), r"faulty.*must return shape \(2,\), got \(2, 2\)"),
    "text": (Faulty("text"), r"faulty.*must return 2 numbers, a torch.Tensor \(2,\), got list"),
    "type": (WrongType("type"), "faulty.*expected a RewardOutput, got Tensor"),
    "typo": (Faulty("typo"), "faulty.*has a bug: NameError: name 'vidoes' is not defined"),
    "import": (Faulty("import"), "faulty.*ModuleNotFoundError: No module named 'no_such_module"),
    "type error": (Faulty("type error"), "faulty.*has a bug: TypeError"),
}


@pytest.mark.parametrize("on_error", ["mask", "raise"])
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_a_reward_always_stops_the_run(make_batch, reward_types, bug, on_error):
    reward, message = BUGS[bug]
    rewards = [reward_types["brightness"](), reward]
    envs = make_batch(2, num_steps=1, rewards=rewards, on_reward_error=on_error)
    envs.reset(seed=0)
    with pytest.raises(RewardError, match=message):
        envs.step(good(envs))


def faulty_batch(make_batch, reward_types, fault, **changes):
    rewards = [reward_types["brightness"](), FAULTS[fault][0]]
    timeout = 0.05 if fault == "late" else None
    envs = make_batch(2, num_steps=1, rewards=rewards, reward_timeout=timeout, **changes)
    envs.reset(seed=0)
    return envs


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_reward_is_masked_with_a_warning(make_batch, reward_types, fault):
    envs = faulty_batch(make_batch, reward_types, fault)
    _, message, valid = FAULTS[fault]
    with pytest.warns(RewardWarning, match=message):
        _, rewards, _, _, infos = envs.step(good(envs))
    assert infos["reward_valid"].tolist() == [[True, valid[0]], [True, valid[1]]]
    assert (np.isnan(rewards) == ~infos["reward_valid"]).all()
    assert (rewards[:, 0] > 0).all()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_reward_stops_the_run_if_told_to(make_batch, reward_types, fault):
    envs = faulty_batch(make_batch, reward_types, fault, on_reward_error="raise")
    with pytest.raises(RewardError, match=FAULTS[fault][1]):
        envs.step(good(envs))


@pytest.mark.parametrize("mode", ["Disabled", None])
def test_a_reward_cannot_write_into_the_clip_that_is_shown(make_single, make_batch, mode):
    class Writer(Faulty):
        def score(self, videos, prompts, infos):
            return videos.zero_().flatten(1).mean(dim=1)

    changes = {"num_steps": 1, "rewards": [Writer("none")]}
    env = make_batch(2, autoreset_mode=mode, **changes) if mode else make_single(**changes)
    env.reset(seed=0)
    with pytest.raises(RewardError, match="'faulty' must leave the videos as they are"):
        env.step(env.action_space.sample())


def test_a_reward_in_time_is_scored(make_batch, reward_types):
    rewards = [reward_types["brightness"](), Faulty("none")]
    envs = make_batch(2, num_steps=1, rewards=rewards, reward_timeout=30.0)
    envs.reset(seed=0)
    assert (envs.step(good(envs))[1][:, 1] == 0.5).all()


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_an_invalid_component_makes_the_scalar_nan_unless_it_has_no_weight(make_batch, output):
    rewards = [Faulty("nan"), "exposure"]
    for weight, expected in ((1.0, [True, False]), (0.0, [False, False])):
        weights = [weight, 1.0]
        envs = make_batch(2, num_steps=1, rewards=rewards, scalar_weights=weights, output=output)
        envs.reset(seed=0)
        with pytest.warns(RewardWarning):
            assert np.isnan(np.asarray(envs.step(good(envs))[1])).tolist() == expected


def test_score_refuses_what_step_refuses(make_batch):
    envs = make_batch(2)
    latents = good(envs)
    with pytest.raises(ValueError, match=r"prompt_id must be in 0\.\.2"):
        envs.unwrapped.score(latents, [0, 3])
    with pytest.raises(ValueError, match="prompt_id must be one integer or 2"):
        envs.unwrapped.score(latents, [0, 1, 2])
    with pytest.raises(ValueError, match="actions must have shape"):
        envs.unwrapped.score(latents[:, 0], [0, 1])


class OnceBroken(Faulty):
    """Raises when first called and scores from then on."""

    def score(self, videos, prompts, infos):
        fault, self.fault = self.fault, "none"
        return Faulty(fault).score(videos, prompts, infos)


@pytest.mark.parametrize("mode", [None, *MODES])
def test_a_reward_that_stops_the_run_leaves_the_episode_where_it_was(make_single, make_batch, mode):
    """The same step can be taken again, once the cause is gone."""
    changes = {"rewards": [OnceBroken("raises")], "on_reward_error": "raise", "num_steps": 2}
    env = make_batch(2, autoreset_mode=mode, **changes) if mode else make_single(**changes)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    with pytest.raises(RewardError, match="no pixels"):
        env.step(env.action_space.sample())
    _, reward, terminated, _, _ = env.step(env.action_space.sample())
    assert np.all(terminated)
    assert (reward == 0.5).all()


def test_a_reward_class_without_name_or_bounds(make_single):
    class Nameless(Reward):
        def score(self, videos, prompts, infos):
            return videos.flatten(1).mean(dim=1)

    with pytest.raises(ValueError, match="Nameless declares no name, bounds"):
        make_single(rewards=[Nameless()])


@pytest.mark.parametrize("seed", [1.5, "1", True, -1, [0, 1.5], [0, "x"], [0], np.float64(1)])
def test_seeds_are_integers(make_batch, seed):
    envs = make_batch(2)
    with pytest.raises(ValueError, match=r"seed must be an integer from 0 on or None|expected one"):
        envs.reset(seed=seed)


@pytest.mark.parametrize("seed", [np.int64(3), np.array([3, 4]), (3, 4), [3, np.int32(4)]])
def test_seeds_of_numpy_are_integers(make_batch, seed):
    plain, _ = make_batch(2).reset(seed=[3, 4])
    other, _ = make_batch(2).reset(seed=seed)
    assert (plain["latent"] == other["latent"]).all()


@pytest.mark.parametrize("seed", [1.5, "1", True, -1])
def test_the_single_environment_reads_seeds_alike(make_single, seed):
    with pytest.raises(ValueError, match="seed must be an integer from 0 on or None, got "):
        make_single().unwrapped.reset(seed=seed)


@pytest.mark.parametrize("options", [5, "prompt_id", [("prompt_id", 1)]])
def test_options_are_a_mapping(make_single, make_batch, options):
    for env in (make_single().unwrapped, make_batch(2)):
        with pytest.raises(ValueError, match="reset options must be a dict or None, got "):
            env.reset(options=options)


def test_an_action_without_numbers_is_refused(make_batch):
    envs = make_batch(2, output="torch")
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="must hold numbers, got a tensor on the device 'meta'"):
        envs.step(torch.zeros(envs.action_space.shape, device="meta"))
    with pytest.raises(ValueError, match="actions must be one array of numbers"):
        envs.step([[1.0], [1.0, 2.0]])


@pytest.mark.parametrize("dtype", [np.longdouble, ">f4", ">f8", np.float16, np.float64])
def test_floats_of_any_width_and_byte_order_are_actions(make_batch, dtype):
    plain, other = make_batch(2), make_batch(2)
    for envs in (plain, other):
        envs.reset(seed=0)
    actions = np.round(plain.action_space.sample(), 1).astype(np.float16)
    seen = plain.step(actions.astype(np.float32))[0]
    assert (other.step(actions.astype(dtype))[0]["latent"] == seen["latent"]).all()


@pytest.mark.parametrize("mode", ["never", None, 5, ["Disabled"]])
def test_the_known_autoreset_modes_are_named(make_batch, mode):
    words = "autoreset_mode must be one of NextStep, SameStep, Disabled, got "
    with pytest.raises((ValueError, TypeError), match=words):
        make_batch(2, autoreset_mode=mode)
