"""Components in the background: the same scores, failures and stops as in the foreground."""

import threading
import time

import pytest
import torch

from reelrl.envs.scoring import RewardError, RewardList, RewardWarning, build_reward
from reelrl.rewards import Reward, make_reward
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.base import RewardAbort


class Slow(Reward):
    """Mean pixel after a while that differs from batch to batch."""

    name, bounds = "slow", (0.0, 1.0)

    def __init__(self, *seconds):
        self.seconds, self.started = list(seconds), threading.Event()

    def score(self, videos, prompts, infos):
        self.started.set()
        time.sleep(self.seconds.pop(0) if self.seconds else 0.0)
        return videos.flatten(1).mean(dim=1)


class Foreground(Slow):
    """Notes whether the slow one had begun when it was called."""

    name = "foreground"

    def __init__(self, other):
        super().__init__()
        self.other, self.overlapped = other, []

    def score(self, videos, prompts, infos):
        self.overlapped.append(self.other.started.wait(5))
        return super().score(videos, prompts, infos)


class Broken(Slow):
    error = KeyError("lost")

    def score(self, videos, prompts, infos):
        raise self.error


def batch(level=0.5, count=2):
    return torch.full((count, 2, 4, 4, 3), level), ["a"] * count, [{}] * count


def test_a_spec_can_ask_for_the_background():
    reward = build_reward({"name": "proxy_mq", "hackability": 0.5, "asynchronous": True})
    assert isinstance(reward, AsyncReward) and reward.name == "proxy_mq"
    assert reward.reward.hackability == 0.5
    spec = {"name": "proxy_mq", "asynchronous": False}
    assert not isinstance(build_reward(spec), AsyncReward) and "asynchronous" in spec


def test_foreground_components_work_while_background_ones_do():
    slow = Slow()
    fast = Foreground(slow)
    # The background component stands last in the list and still begins first.
    values, valid = RewardList([fast, AsyncReward(slow)])(*batch())
    assert fast.overlapped == [True]
    assert valid.all() and values.tolist() == [[0.5, 0.5]] * 2


def test_deferred_batches_get_their_own_scores_whatever_order_they_finish_in():
    slow = [Slow(0.1, 0.0, 0.05), Slow(0.0, 0.1, 0.0)]
    slow[1].name = "other"
    rewards = RewardList([AsyncReward(slow[0]), make_reward("proxy_mq"), AsyncReward(slow[1])])
    plain = RewardList([Slow(), make_reward("proxy_mq")])
    levels = [0.125, 0.25, 0.5]
    with rewards.deferred() as scores:
        early = [rewards(*batch(level)) for level in levels]
    for (values, valid), level, late in zip(early, levels, scores, strict=True):
        assert values[:, [0, 2]].isnan().all() and not valid[:, [0, 2]].any()
        expected = plain(*batch(level))[0]
        assert torch.equal(values[:, 1], expected[:, 1])
        found, known = late.result()
        assert torch.equal(found[:, :2], expected) and torch.equal(found[:, 2], expected[:, 0])
        assert known.all()
    assert rewards(*batch(0.5))[1].all()  # outside, calls wait again


def test_a_failure_in_the_background_is_masked_or_raised():
    with pytest.warns(RewardWarning, match=r"reward 'slow' failed: KeyError: 'lost'"):
        values, valid = RewardList([AsyncReward(Broken())])(*batch())
    assert values.isnan().all() and not valid.any()
    with pytest.raises(RewardError, match="lost"):
        RewardList([AsyncReward(Broken())], on_error="raise")(*batch())


def test_a_background_component_that_takes_too_long_is_masked():
    rewards = RewardList([AsyncReward(Slow(5.0))], timeout=0.05)
    with pytest.warns(RewardWarning, match="TimeoutError"):
        assert not rewards(*batch())[1].any()


@pytest.mark.parametrize("wrap", [AsyncReward, lambda reward: reward])
def test_an_abort_is_never_masked(wrap):
    broken = Broken()
    broken.error = RewardAbort("enough")
    with pytest.raises(RewardAbort, match="enough"):
        RewardList([wrap(broken)], on_error="mask")(*batch())
