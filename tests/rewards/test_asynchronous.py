"""Scores from the background are those of the component, whatever the order they come in."""

import threading

import pytest
import torch

from reelrl.rewards import Reward, make_reward
from reelrl.rewards.asynchronous import AsyncReward


class Gated(Reward):
    """Mean pixel, once it is let go."""

    name, bounds, license, memory_gb = "gated", (0.0, 1.0), "MIT", 2.0

    def __init__(self):
        self.gate, self.inside, self.most, self.order = threading.Event(), 0, 0, []

    def score(self, videos, prompts, infos):
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.gate.wait(10)
        self.order.append(prompts[0])
        self.inside -= 1
        return videos.flatten(1).mean(dim=1)


def clips(level):
    return torch.full((2, 2, 4, 4, 3), level)


def test_begin_returns_before_the_scores_are_there():
    inner = Gated()
    wait = AsyncReward(inner).begin(clips(0.5), ["a", "b"])
    assert not inner.order  # the gate is shut, and we are here
    inner.gate.set()
    assert wait().values.tolist() == [0.5, 0.5]
    assert wait().values.tolist() == [0.5, 0.5]


def test_batches_wait_for_each_other_and_can_be_asked_for_in_any_order():
    inner = Gated()
    reward = AsyncReward(inner)
    waits = [reward.begin(clips(i / 8), [str(i), ""]) for i in range(5)]
    inner.gate.set()
    values = {i: waits[i]().values.tolist() for i in (3, 0, 4, 2, 1)}
    assert values == {i: [i / 8] * 2 for i in range(5)}
    assert inner.order == list("01234") and inner.most == 1


def test_the_caller_may_reuse_its_memory():
    inner = Gated()
    videos, prompts = clips(0.25), ["a", "b"]
    wait = AsyncReward(inner).begin(videos, prompts)
    videos.fill_(torch.nan)
    prompts[0] = "z"
    inner.gate.set()
    assert wait().values.tolist() == [0.25, 0.25] and inner.order == ["a"]


def test_called_it_is_the_component():
    videos = torch.rand(4, 9, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    plain = make_reward("proxy_mq")
    background = AsyncReward(make_reward("proxy_mq"))
    assert torch.equal(background(videos, ["a"] * 4).values, plain(videos, ["a"] * 4).values)
    assert torch.equal(
        background.score(videos, ["a"] * 4, [{}] * 4), plain.score(videos, ["a"] * 4, [{}] * 4)
    )
    videos[1] = torch.nan
    assert background(videos, ["a"] * 4).valid.tolist() == [True, False, True, True]


def test_errors_come_out_where_the_scores_would():
    class Broken(Gated):
        def score(self, videos, prompts, infos):
            raise KeyError("lost")

    reward = AsyncReward(Broken())
    wait = reward.begin(clips(0.5), ["a", "b"])
    with pytest.raises(KeyError, match="lost"):
        wait()
    with pytest.raises(ValueError, match="2 videos, 1 prompts"):
        reward(clips(0.5), ["a"])


def test_it_describes_itself_by_the_component():
    reward = AsyncReward(Gated())
    assert (reward.name, reward.bounds, reward.license) == ("gated", (0.0, 1.0), "MIT")
    assert reward.memory_gb == 2.0
