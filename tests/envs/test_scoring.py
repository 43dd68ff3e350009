"""Components in the background: the same scores, failures and stops as in the foreground."""

import threading
import time
import warnings

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


def test_late_batches_get_their_own_scores_whatever_order_they_finish_in():
    slow = [Slow(0.1, 0.0, 0.05), Slow(0.0, 0.1, 0.0)]
    slow[1].name = "other"
    rewards = RewardList([AsyncReward(slow[0]), make_reward("proxy_mq"), AsyncReward(slow[1])])
    plain = RewardList([Slow(), make_reward("proxy_mq")])
    levels = [0.125, 0.25, 0.5]
    begun = [rewards.begin(*batch(level)) for level in levels]
    early = [scores.so_far() for scores in begun]
    for (values, valid), level, late in zip(early, levels, begun, strict=True):
        assert values[:, [0, 2]].isnan().all() and not valid[:, [0, 2]].any()
        expected = plain(*batch(level))[0]
        assert torch.equal(values[:, 1], expected[:, 1])
        found, known = late.result()
        assert torch.equal(found[:, :2], expected) and torch.equal(found[:, 2], expected[:, 0])
        assert known.all()
    assert rewards(*batch(0.5))[1].all()  # a plain call waits


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


class Writer(Slow):
    """Scores what it has made of the clips."""

    name = "writer"

    def score(self, videos, prompts, infos):
        videos[:, 0] += 0.1
        return videos.flatten(1).mean(dim=1)


def test_whoever_writes_into_the_clips_stops_the_run_and_nobody_scores_what_it_left():
    for on_error in ("mask", "raise"):
        with pytest.raises(RewardError, match="'writer' must leave the videos"):
            RewardList([Slow(), Writer()], on_error=on_error)(*batch())

    class Fails(Writer):
        def score(self, videos, prompts, infos):
            super().score(videos, prompts, infos)
            raise OSError("the disk is full")

    late = Slow()
    late.name = "late"
    with (
        pytest.warns(RewardWarning, match="the disk is full"),
        pytest.raises(RewardError, match=r"'late'.*an earlier component has written"),
    ):
        RewardList([Fails(), late])(*batch())


def test_a_value_beyond_the_bounds_is_kept_and_told_of_once():
    reward = Slow()
    reward.bounds = (0.0, 0.75)
    rewards = RewardList([reward])
    assert rewards(*batch(0.75 + 1e-7))[1].all()  # rounding is no news
    with pytest.warns(RewardWarning, match=r"bounds \[0, 0.75\], got values from 0.875 to 0.875"):
        values, valid = rewards(*batch(0.875))
    assert values.tolist() == [[0.875]] * 2 and valid.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards(*batch(1.0))


def test_a_component_is_never_entered_twice_even_after_a_timeout():
    class Counting(Slow):
        name, inside, most, go = "counting", 0, 0, threading.Event()

        def score(self, videos, prompts, infos):
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.go.wait()
            self.inside -= 1
            return super().score(videos, prompts, infos)

    reward = Counting()
    rewards = RewardList([reward], timeout=0.1)
    for reason in ("no answer within 0.1 s", "still busy with an earlier batch"):
        with pytest.warns(RewardWarning, match=reason):
            assert not rewards(*batch())[1].any()
    reward.go.set()
    rewards.timeout = 60.0  # long enough for the first batch to come to its end
    assert rewards(*batch())[1].all()
    assert reward.most == 1


@pytest.mark.parametrize(
    "write", [lambda v: v.numpy().__imul__(0.5), lambda v: v.data.mul_(0.5), lambda v: v.mul_(0.5)]
)
def test_no_way_of_writing_into_the_clips_goes_unseen(write):
    """The scores of all components that followed were others."""

    def dim(videos, prompts, infos):
        write(videos)
        return videos.flatten(1).mean(dim=1)

    def mean(videos, prompts, infos):
        return videos.flatten(1).mean(dim=1)

    rewards = RewardList([dim, mean])
    with pytest.raises(RewardError, match="writ"):
        rewards(torch.full((2, 2, 4, 4, 3), 0.5), ["a", "b"], [{}, {}])


@pytest.mark.parametrize("rewards", [{"gold", "proxy_vq"}, frozenset(["gold"]), iter(["gold"])])
def test_components_without_an_order_are_refused(rewards):
    with pytest.raises(ValueError, match="rewards must be a list, got "):
        RewardList(rewards)
