"""What the learner and the caches may rely on: paths, versions, keys."""

from __future__ import annotations

import pytest
import torch

from reelrl.rewards.adaptive import AdaptiveReward, adaptive_parts, check_state
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.cache import CachedReward
from reelrl.rewards.transforms import Scale, Transformed


class Learnt(AdaptiveReward):
    """How near the brightness is to that of the clips it has learned from."""

    name, bounds, settings = "learnt", (-1.0, 0.0), "1"

    def __init__(self, level=0.0):
        self.level = torch.tensor(level)

    def score(self, videos, prompts, infos):
        return -(videos.flatten(1).mean(dim=1) - self.level).abs()

    def adapt(self, videos, prompts, generator):
        self.level = videos.float().mean() / 255
        self.moved_on(self.version + 1)
        return {"level": float(self.level)}

    def state_dict(self):
        return {"version": torch.tensor(self.version), "level": self.level}

    def load_state_dict(self, state):
        check_state(self.name, state, self.state_dict())
        self.level = state["level"].clone()
        self.moved_on(int(state["version"]))


class Forgetful(Learnt):
    """The planted fault: its key says nothing of what it has become."""

    fingerprint = "always the same"


def clips(level):
    return torch.full((2, 2, 4, 4, 3), level)


def learn(reward, level=1.0):
    return reward.adapt((clips(level) * 255).to(torch.uint8), ["a"] * 2, torch.Generator())


def stale(kind, folder):
    """Whether a kept score outlives the version it is of."""
    inner = kind()
    kept = CachedReward(inner, folder)
    kept(clips(1.0), ["a"] * 2)
    learn(inner)
    return not torch.equal(kept(clips(1.0), ["a"] * 2).values, inner(clips(1.0), ["a"] * 2).values)


def test_a_kept_score_does_not_outlive_its_version(tmp_path):
    assert not stale(Learnt, tmp_path / "a")
    assert stale(Forgetful, tmp_path / "b")


def test_the_key_is_of_the_weights_and_not_of_their_number():
    first, second, third = Learnt(), Learnt(), Learnt()
    assert first.fingerprint == second.fingerprint
    learn(first, 0.2)
    learn(second, 0.4)
    learn(third, 0.2)
    assert first.version == second.version == 1
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == third.fingerprint
    third.load_state_dict(second.state_dict())
    assert third.fingerprint == second.fingerprint


def test_what_learns_is_found_through_whatever_is_around_it(tmp_path):
    inner = Learnt()
    around = AsyncReward(Transformed(CachedReward(inner, tmp_path), [Scale(2)], "twice"))
    assert adaptive_parts(around) == {"twice": inner}
    assert adaptive_parts(inner) == {"learnt": inner}
    assert adaptive_parts(Transformed(Given(), [], "x")) == {}


class Given(Learnt.__mro__[2]):
    """Learns nothing."""

    name, bounds = "given", (0.0, 1.0)

    def score(self, videos, prompts, infos):
        return videos.flatten(1).mean(dim=1)


class Many(Given):
    """Several at once."""

    name = "many"

    def __init__(self, *members):
        self.members = members

    @property
    def parts(self):
        return self.members


def test_members_of_many_have_paths_of_their_own():
    a, b = Learnt(), Transformed(Learnt(), [], "other")
    assert list(adaptive_parts(Many(a, b, Given()))) == ["many/learnt", "many/other"]
    with pytest.raises(ValueError, match="two rewards that adapt are called 'many/learnt'"):
        adaptive_parts(Many(Learnt(), Learnt()))


def test_a_state_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"state of reward 'learnt' must have .*got \{'level'"):
        Learnt().load_state_dict({"level": torch.zeros(2)})
