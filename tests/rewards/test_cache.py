"""The cache on disk: what is in a key, whole files, no failures."""

import errno
import json
import math
import os
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reelrl.rewards.cache
from reelrl.rewards import Reward, make_reward
from reelrl.rewards.base import RewardWarning
from reelrl.rewards.cache import CachedReward, DiskCache, clip_key


class Counted(Reward):
    """Mean pixel; nan for a caption that says so."""

    name, bounds, license = "counted", (0.0, 1.0), "MIT"

    def __init__(self, fingerprint="1"):
        self.fingerprint, self.seen = fingerprint, []

    def score(self, videos, prompts, infos):
        self.seen.append(len(videos))
        values = videos.flatten(1).mean(dim=1)
        broken = torch.tensor([prompt == "broken" for prompt in prompts])
        return torch.where(broken, torch.nan, values)


def clips(*levels):
    return torch.stack([torch.full((2, 3, 4, 3), level) for level in levels])


def test_only_new_clips_are_scored(tmp_path):
    inner = Counted()
    reward = CachedReward(inner, tmp_path)
    first = reward(clips(0.1, 0.2), ["a", "b"]).values
    second = reward(clips(0.2, 0.3, 0.1), ["b", "a", "a"]).values
    assert inner.seen == [2, 1]
    assert torch.equal(second[[2, 0]], first)
    reward(clips(0.1, 0.2), ["a", "b"])
    assert inner.seen == [2, 1]


def test_scores_are_bit_for_bit_those_of_the_component(tmp_path):
    videos = torch.rand(8, 2, 3, 4, 3, generator=torch.Generator().manual_seed(0))
    plain = Counted()(videos, ["a"] * 8).values
    for _ in range(2):
        assert torch.equal(CachedReward(Counted(), tmp_path)(videos, ["a"] * 8).values, plain)


def test_failures_are_tried_again(tmp_path):
    inner = Counted()
    reward = CachedReward(inner, tmp_path)
    for _ in range(2):
        assert reward(clips(0.1, 0.2), ["broken", "a"]).valid.tolist() == [False, True]
    assert inner.seen == [2, 1]


def test_another_version_is_another_score(tmp_path):
    CachedReward(Counted("1"), tmp_path)(clips(0.1), ["a"])
    later = Counted("2")
    CachedReward(later, tmp_path)(clips(0.1), ["a"])
    assert later.seen == [1]


def test_a_wrapper_describes_itself_by_the_component(tmp_path):
    reward = CachedReward(Counted(), tmp_path)
    assert (reward.name, reward.bounds, reward.license) == ("counted", (0.0, 1.0), "MIT")


def test_what_cannot_be_cached_is_refused(tmp_path):
    with pytest.raises(ValueError, match="deterministic reward with a fingerprint"):
        CachedReward(make_reward("gold"), tmp_path)
    noisy = Counted()
    noisy.deterministic = False
    with pytest.raises(ValueError, match="deterministic"):
        CachedReward(noisy, tmp_path)


def test_the_key_sees_values_shape_dtype_and_every_fact():
    clip = torch.arange(12.0).reshape(2, 6)
    keys = {
        clip_key([clip], "a"),
        clip_key([clip.reshape(3, 4)], "a"),
        clip_key([clip.double()], "a"),
        clip_key([clip.nextafter(torch.tensor(9.0))], "a"),
        clip_key([clip], "b"),
        clip_key([clip], "a", ""),
        clip_key([clip], "", "a"),
        clip_key([clip, clip], "a"),
    }
    assert len(keys) == 8
    assert clip_key([clip.t().t()], "a") == clip_key([clip], "a")  # layout in memory is no matter
    assert clip_key([clip], "ab", "c") != clip_key([clip], "a", "bc")


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_what_is_kept_comes_back_exactly_and_failures_are_not_kept(tmp_path_factory, value):
    cache = DiskCache(tmp_path_factory.mktemp("cache"))
    cache.put("ab" * 32, value)
    assert cache.get("ab" * 32) == (value if math.isfinite(value) else None)


@pytest.mark.parametrize(
    "damage", ["", "{", '{"value": NaN}', '{"value": true}', "[1]", '{"v": 1}']
)
def test_a_damaged_file_is_a_miss_and_is_replaced(tmp_path, damage):
    cache = DiskCache(tmp_path)
    cache.put("abcd", 0.5)
    file = next(tmp_path.rglob("*.json"))
    file.write_text(damage)
    assert cache.get("abcd") is None
    cache.put("abcd", 0.25)
    assert cache.get("abcd") == 0.25


def test_files_are_json_and_written_whole(tmp_path):
    """Readers beside eight writers see a whole number or nothing, and no scrap is left."""
    cache, seen = DiskCache(tmp_path), []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            seen.append(cache.get("abcd"))

    reader = threading.Thread(target=read)
    reader.start()
    writers = [
        threading.Thread(target=lambda i=i: [cache.put("abcd", i / 8) for _ in range(30)])
        for i in range(8)
    ]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert set(seen) <= {None, *(i / 8 for i in range(8))}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1 and set(json.loads(files[0].read_text())) == {"value"}


class Bright(Reward):
    """Mean pixel, with the attributes that a cache needs."""

    name, bounds, fingerprint = "bright", (0.0, 1.0), "bright 1"

    def score(self, videos, prompts, infos):
        return videos.flatten(1).mean(1)


@pytest.mark.parametrize("call", ["mkdir", "NamedTemporaryFile", "write_text", "replace"])
def test_scores_are_kept_where_the_cache_cannot_be_written(tmp_path, monkeypatch, call):
    """A full disk costs the copies and not the scores; it is told of once."""
    reward, tries = CachedReward(Bright(), tmp_path), []

    def full(*args, **kwargs):
        tries.append(call)
        raise OSError(errno.ENOSPC, "No space left on device")

    where = {"mkdir": Path, "write_text": Path, "replace": os}.get(call, reelrl.rewards.cache)
    monkeypatch.setattr(where, call, full)
    videos = torch.rand(3, 2, 4, 4, 3)
    with pytest.warns(RewardWarning, match="cannot write to the cache.*No space left") as caught:
        values = reward(videos, ["a"] * 3).values
    assert torch.equal(values, videos.flatten(1).mean(1)) and len(caught) == 1
    assert torch.equal(reward(videos, ["a"] * 3).values, values)  # no second warning, no error
    assert len(tries) == 1 and not list(tmp_path.rglob("*.tmp"))


def test_files_that_were_left_half_written_are_removed_when_old(tmp_path):
    DiskCache(tmp_path).put("abcd", 0.5)
    old, new = tmp_path / "ab" / "old.tmp", tmp_path / "ab" / "new.tmp"
    for file in (old, new):
        file.write_text("{", encoding="utf-8")
    os.utime(old, (0, 0))
    cache = DiskCache(tmp_path)
    assert not old.exists() and new.exists() and cache.get("abcd") == 0.5


def test_a_file_that_nests_too_deeply_is_a_miss(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put("abcd", 0.5)
    next(tmp_path.rglob("*.json")).write_text('{"value":' * 100_000, encoding="utf-8")
    assert cache.get("abcd") is None
