"""What a component may be given as, made with, and return."""

import contextlib
import copy
import functools
import json
import pickle

import numpy as np
import pytest
import torch

from reelrl.envs.scoring import RewardError, RewardFacts, RewardList, RewardWarning, read_weights
from reelrl.rewards import Reward, list_rewards, make_reward, register_reward, reward_class
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.base import REWARDS
from reelrl.rewards.handed import frozen
from reelrl.rewards.returned import RewardMisuse
from reelrl.rewards.spec import build_reward


def brightness(videos, prompts, infos):
    """Mean pixel."""
    return videos.flatten(1).mean(1)


def batch(count=3, level=0.5):
    return torch.full((count, 2, 4, 4, 3), level), ["a"] * count, [{} for _ in range(count)]


class Given(Reward):
    """Returns what it is told to."""

    name, bounds = "given", (-10.0, 10.0)

    def __init__(self, made):
        self.made = made

    def score(self, videos, prompts, infos):
        return self.made(len(videos))


FORMS = {
    "list": lambda n: [0.25] * n,
    "tuple": lambda n: (0.25,) * n,
    "tensors": lambda n: [torch.tensor(0.25)] * n,
    "numpy": lambda n: np.full(n, 0.25),
    "float32": lambda n: np.full(n, 0.25, dtype=np.float32),
    "float64": lambda n: torch.full((n,), 0.25, dtype=torch.float64),
    "half": lambda n: torch.full((n,), 0.25, dtype=torch.float16),
    "column": lambda n: torch.full((n, 1), 0.25),
    "numpy column": lambda n: np.full((n, 1), 0.25),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 3])
def test_scores_in_any_usual_form_are_understood(form, count):
    output = Given(FORMS[form])(*batch(count))
    assert output.values.dtype == torch.float32 and output.values.tolist() == [0.25] * count
    videos, *rest = batch(count + 1)
    videos[0] = torch.nan  # left out; the other clips have a form too
    assert Given(FORMS[form])(videos, *rest).valid.tolist() == [False] + [True] * count


def test_integers_flags_and_single_numbers_are_numbers():
    assert Given(lambda n: list(range(n)))(*batch()).values.tolist() == [0, 1, 2]
    assert Given(lambda n: torch.arange(n))(*batch()).values.tolist() == [0, 1, 2]
    assert Given(lambda n: np.array([True, False, True]))(*batch()).values.tolist() == [1, 0, 1]
    for one in (0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)):
        assert Given(lambda n, one=one: one)(*batch(1)).values.tolist() == [0.5]
        with pytest.raises(RewardMisuse, match=r"shape \(3,\), got \(\)"):
            Given(lambda n, one=one: one)(*batch())
    found = Given(lambda n: [0.5, None, float("nan")])(*batch())
    assert found.valid.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda n: [0.5] * (n + 1), r"shape \(3,\), got \(4,\)"),
        (lambda n: torch.zeros(1, n), r"shape \(3,\), got \(1, 3\)"),
        (lambda n: torch.zeros(n, 2), r"shape \(3,\), got \(3, 2\)"),
        (lambda n: ["good"] * n, "3 numbers"),
        (lambda n: None, "got NoneType"),
        (lambda n: "0.5", "got str"),
        (lambda n: {"score": 1}, "got dict"),
        (lambda n: [[1.0], [2.0, 3.0], [1.0]], "got list"),
        (lambda n: torch.zeros(n, dtype=torch.complex64), "real numbers"),
    ],
)
def test_what_is_no_scores_stops_the_run(made, message):
    with pytest.raises(RewardMisuse, match=message):
        Given(made)(*batch())
    for wrap in (lambda reward: reward, AsyncReward):
        with pytest.raises(RewardError, match=message):
            RewardList([wrap(Given(made))], on_error="mask")(*batch())


@pytest.mark.parametrize(
    ("error", "masked"),
    [
        (OSError("disk"), True),
        (TimeoutError("late"), True),
        (ConnectionError("lost"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (KeyError("score"), True),
        (IndexError("empty reply"), True),
        (ValueError("too small"), True),
        (ZeroDivisionError("nothing"), True),
        (NameError("vidoes"), False),
        (TypeError("str + int"), False),
        (AttributeError("no such thing"), False),
        (ModuleNotFoundError("clip"), False),
        (SyntaxError("eval"), False),
        (NotImplementedError("later"), False),
        (AssertionError("never"), False),
    ],
)
def test_failures_are_masked_and_bugs_are_not(error, masked):
    def broken(videos, prompts, infos):
        raise error

    rewards = RewardList([broken], on_error="mask")
    if masked:
        with pytest.warns(RewardWarning, match="'broken' failed"):
            assert not rewards(*batch())[1].any()
    else:
        with pytest.raises(RewardError, match=f"'broken' has a bug: {type(error).__name__}"):
            rewards(*batch())


def test_a_plain_function_is_a_reward():
    rewards = RewardList(["exposure", brightness, {"name": "exposure", "label": "light"}])
    assert rewards.names == ["exposure", "brightness", "light"]
    assert rewards.facts().bounds[1] == (-np.inf, np.inf)
    assert rewards(*batch())[0][:, 1].tolist() == [0.5] * 3
    assert build_reward(functools.partial(brightness)).name == "brightness"
    assert build_reward(lambda v, p, i: v.mean((1, 2, 3, 4)))(*batch()).values.tolist() == [0.5] * 3
    with pytest.raises(ValueError, match=r"takes \(videos, prompts, infos\), got one\(videos\)"):
        build_reward(one)


def one(videos):
    return videos


def test_a_registered_function_has_a_name_bounds_and_a_sign():
    with REWARDS.isolated():

        @register_reward("dim", bounds=(0, 1), higher_is_better=False)
        def darkness(videos, prompts, infos):
            """How dark it is."""
            return 1 - brightness(videos, prompts, infos)

        for spec in ("dim", darkness, {"name": "dim"}):
            reward = build_reward(spec)
            assert (reward.name, reward.bounds, reward.higher_is_better) == ("dim", (0, 1), False)
            assert reward(*batch()).values.tolist() == [0.5] * 3
        assert "dim" in list_rewards() and reward_class("dim").bounds == (0, 1)
        assert darkness(*batch()).tolist() == [0.5] * 3  # still a function
        with pytest.raises(ValueError, match=r"'dim' has no setting 'x'; known: none"):
            make_reward("dim", x=1)


def test_registration_refuses_what_is_no_reward():
    class Plain:
        """No reward."""

    class Named(Given):
        """Has a name already."""

        name = "xyz"

    class Unnamed(Given):
        """Has none of its own."""

    with REWARDS.isolated():
        with pytest.raises(ValueError, match="got the class Plain"):
            register_reward("plain")(Plain)
        with pytest.raises(ValueError, match="has the name 'xyz' and is registered as 'abc'"):
            register_reward("abc")(Named)
        with pytest.raises(ValueError, match="got 5"):
            register_reward("five")(5)
        with pytest.raises(ValueError, match="low < high"):
            register_reward("flat", bounds=(1, 1))(brightness)
        assert not {"plain", "abc", "five", "flat"} & set(list_rewards())
        register_reward("unnamed")(Unnamed)
        assert Unnamed.name == "unnamed"
    with pytest.raises(ValueError, match=r"got the class: write Given\(\)"):
        build_reward(Given)


BAD = [
    ({"name": "proxy_vq", "hackabilty": 1}, "did you mean 'hackability'"),
    ({"name": "proxy_vq", "hackability": "abc"}, "hackability must be float, got 'abc'"),
    ({"name": "proxy_vq", "hackability": True}, "hackability must be float, got True"),
    ({"name": "gold", "x": 1}, "'gold' has no setting 'x'; known: none"),
    ({"name": "gold", "weight": 0.5}, r"scalar_weights=\{'gold': 0.5, ...\}"),
    ({"name": "vlm_judge"}, "'vlm_judge' needs model"),
    ({"name": "clip_score", "batch_siez": 4}, "did you mean 'batch_size'"),
    ({"name": "videoalign", "clip_fsp": 4, "model": "x"}, "did you mean 'clip_fps'"),
    ({"name": "raft_dynamic_degree", "dtyp": "x"}, "did you mean 'dtype'"),
    ({"name": "gold", "transforms": [{"name": "scale"}]}, "transform 'scale' needs by"),
    ({"name": "gold", "transforms": [{"name": "scale", "by": "a"}]}, "by must be float"),
    ({"name": "gold", "transforms": "sigmoid"}, "transforms must be a list"),
    ({"name": "gold", "label": 5}, "label must be a text, got 5"),
    ({"name": "ensemble", "of": 5}, "reward 'ensemble'"),
    ({"name": "openai_judge", "model": "m", "concurrency": "8"}, "concurrency must be int"),
    ({"name": 3}, "a dict with a 'name' or a function"),
    (5, "a dict with a 'name' or a function, got int: 5"),
]


@pytest.mark.parametrize(("spec", "message"), BAD, ids=str)
def test_an_entry_that_does_not_fit_is_told_in_one_line(spec, message):
    with pytest.raises(ValueError, match=message) as error:
        build_reward(spec)
    assert "\n" not in str(error.value)


def test_rewards_come_in_a_list_and_weights_apart():
    with pytest.raises(ValueError, match=r"write rewards=\['gold'\], and the weights as scalar"):
        RewardList({"gold": 1.0})
    for given in ("gold", brightness, {"name": "gold"}, 5):
        with pytest.raises(ValueError, match="rewards must be a list"):
            RewardList(given)


def test_weights_go_by_name_or_in_order():
    names = ["a", "b", "c"]
    assert read_weights({"c": 2, "a": -0.5}, names).tolist() == [-0.5, 0, 2]
    assert read_weights([1, 2, 3], names).tolist() == [1, 2, 3]
    for weights, message in (
        ({"d": 1}, "the reward 'd'; known: a, b, c"),
        ([1, 2], r"expected 3 finite weights, one per component \(a, b, c\), got \[1, 2\]"),
        ([1, 2, np.inf], "3 finite weights"),
        (["x", 1, 2], "3 finite weights"),
        ("abc", "3 finite weights"),
        ([0, 0, 0], "all 0"),
        ({}, "all 0"),
    ):
        with pytest.raises(ValueError, match=message):
            read_weights(weights, names)


class Meddler(Reward):
    """Writes into whatever it is handed."""

    name, bounds = "meddler", (0.0, 1.0)

    def __init__(self, way):
        self.way = way

    def score(self, videos, prompts, infos):
        with contextlib.suppress(TypeError, AttributeError):
            self.way(prompts, infos)
        return [0.5] * len(videos)


WAYS = {
    "prompts": lambda prompts, infos: prompts.__setitem__(0, "b"),
    "infos": lambda prompts, infos: infos.clear(),
    "an info": lambda prompts, infos: infos[0].update(prompt_id=7),
    "a key": lambda prompts, infos: infos[0].__setitem__("prompt_id", 7),
    "metadata": lambda prompts, infos: infos[0]["metadata"].update(target="b"),
    "a list": lambda prompts, infos: infos[0]["metadata"]["tags"].append("b"),
}


@pytest.mark.parametrize("wrap", [lambda reward: reward, AsyncReward])
@pytest.mark.parametrize("way", WAYS)
def test_no_component_changes_what_the_next_one_is_told(way, wrap):
    seen = []

    def witness(videos, prompts, infos):
        seen.append((list(prompts), [dict(info) for info in infos]))
        return [0.5] * len(videos)

    videos, prompts, _ = batch()
    infos = [{"prompt_id": 1, "metadata": {"target": "a", "tags": ["a"]}} for _ in range(3)]
    RewardList([wrap(Meddler(WAYS[way])), witness])(videos, prompts, infos)
    told, facts = seen[0]
    assert told == ["a"] * 3
    for info in facts:
        assert info["prompt_id"] == 1 and info["metadata"]["target"] == "a"
        assert list(info["metadata"]["tags"]) == ["a"]
    assert infos[0] == {"prompt_id": 1, "metadata": {"target": "a", "tags": ["a"]}}


def test_facts_are_ordinary_to_whoever_copies_them():
    facts = frozen({"a": [1, {"b": 2}]})
    assert json.loads(json.dumps(facts)) == {"a": [1, {"b": 2}]}
    for made in (pickle.loads(pickle.dumps(facts)), copy.deepcopy(facts), dict(facts)):
        made["c"] = 3
    assert facts == {"a": (1, {"b": 2})} and {**facts, "d": 1}["d"] == 1
    with pytest.raises(TypeError, match="read-only"):
        facts["c"] = 3


def test_bytes_and_arrays():
    reward = build_reward(brightness)
    videos, prompts, _ = batch()
    assert reward(videos.numpy(), prompts).values.tolist() == [0.5] * 3
    for given in ((videos * 255).to(torch.uint8), (videos * 255).numpy().astype(np.uint8)):
        with pytest.raises(ValueError, match=r"in \[0, 1\], got torch.uint8.*divide bytes by 255"):
            reward(given, prompts)


@pytest.mark.parametrize("name", list_rewards())
def test_clips_that_are_too_small_are_told_of(name):
    if reward_class(name).weights or name in ("soli_reward", "ensemble", "ctrl_u", "openai_judge"):
        pytest.skip("needs weights or other rewards")
    reward = make_reward(name)
    for frames in (1, 2, 3):
        for side in ((1, 1), (1, 32), (32, 1), (2, 2), (3, 3)):
            videos = torch.rand(2, frames, *side, 3, generator=torch.Generator().manual_seed(0))
            prompts = ["a red circle moving right"] * 2
            least = max(reward.least_side, 1)
            if min(side) < least:
                with pytest.raises(ValueError, match=f"at least 1 frame of {least}x{least} pixels"):
                    reward(videos, prompts)
                continue
            try:
                reward(videos, prompts)  # a number, or nan
            except ValueError as error:
                assert "square" in str(error)
    with pytest.raises(ValueError, match=r"at least 1 frame of .* got 0 of 4x4"):
        reward(torch.zeros(1, 0, 4, 4, 3), ["a"])


def test_a_list_tells_which_components_compare_clips():
    rewards = RewardList(["gold", "vendi", {"name": "vendi", "label": "v", "asynchronous": True}])
    assert rewards.groupwise == ("vendi", "v")
    assert rewards.facts().groupwise == (False, True, True)
    assert RewardFacts(("a",), ((0.0, 1.0),), (1.0,)).groupwise == ()


@pytest.mark.parametrize(
    "spec",
    [
        "vendi",
        {"name": "vendi", "asynchronous": True},
        {"name": "vendi", "transforms": [{"name": "scale", "by": 2.0}]},
        {"name": "ensemble", "of": ["vendi", "pairwise_distance"]},
    ],
    ids=str,
)
def test_a_group_that_is_cut_is_refused(spec):
    videos = torch.rand(4, 2, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    infos = [{"group_id": 0, "group_size": 4}] * 4
    rewards = RewardList([spec])
    assert bool(rewards(videos, ["a"] * 4, infos)[1].all())
    for rows in (3, 2):
        with pytest.raises(RewardError, match=f"the 4 clips of a group, got {rows} of group 0"):
            rewards(videos[:rows], ["a"] * rows, infos[:rows])
    two = [{"group_id": 0, "group_size": 4}] * 2 + [{"group_id": 1, "group_size": 2}] * 2
    with pytest.raises(RewardError, match="got 2 of group 0"):
        rewards(videos, ["a"] * 4, two)
    videos[1] = torch.nan  # not scorable, and its group is whole all the same
    with pytest.warns(RewardWarning, match="1 of 4 clips"):
        assert rewards(videos, ["a"] * 4, infos)[1].flatten().tolist() == [True, False, True, True]
