"""Complete or not there: checkpoints under kill -9, damage and other versions."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import stat
import sys
import time

import pytest
import torch

from reelrl.algos.run.checkpoint import (
    STATE,
    Checkpoint,
    CheckpointError,
    CheckpointWarning,
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    pack_optimizer,
    save_checkpoint,
    set_aside,
    unpack_optimizer,
)


def make(iteration):
    weights = {"a": torch.full((50, 50), float(iteration)), "b": torch.arange(3)}
    return Checkpoint(iteration, {"weights": weights, "empty": {}}, {"seed": [1, "x", None]})


def assert_is(checkpoint, iteration):
    expected = make(iteration)
    assert checkpoint.iteration == iteration and checkpoint.facts == expected.facts
    assert checkpoint.tensors["empty"] == {}
    for name, tensor in expected.tensors["weights"].items():
        assert torch.equal(checkpoint.tensors["weights"][name], tensor)


def test_what_is_saved_comes_back_and_nothing_is_pickled(tmp_path):
    folder = save_checkpoint(tmp_path, make(7))
    assert_is(load_checkpoint(folder), 7)
    assert_is(load_latest(tmp_path), 7)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_the_last_k_and_the_best_are_kept(tmp_path):
    for iteration in range(1, 7):
        save_checkpoint(tmp_path, make(iteration), keep=2, best=iteration == 3)
    assert [int(p.name[-8:]) for p in list_checkpoints(tmp_path)] == [3, 5, 6]
    assert_is(load_checkpoint(best_checkpoint(tmp_path)), 3)


def test_the_checkpoint_just_written_is_kept_even_if_later_ones_are_there(tmp_path):
    """Of a run begun anew in the folder: it was left with none of its own."""
    for iteration in (5, 6):
        save_checkpoint(tmp_path, make(iteration))
    assert_is(load_checkpoint(save_checkpoint(tmp_path, make(1))), 1)


def test_saving_an_iteration_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, make(1))
    save_checkpoint(tmp_path, make(1))
    assert_is(load_latest(tmp_path), 1)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "version", "state"])
def test_a_bad_checkpoint_is_named_and_the_older_one_still_loads(tmp_path, damage):
    save_checkpoint(tmp_path, make(1))
    folder = save_checkpoint(tmp_path, make(2))
    weights, state = folder / "weights.safetensors", folder / STATE
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "truncate":
        weights.write_bytes(content[:100])
    elif damage == "delete":
        weights.unlink()
    elif damage == "version":
        state.write_text(json.dumps({**json.loads(state.read_text()), "version": 99}))
    else:
        state.write_text("{")
    wanted = {"version": "version 99, expected 1 to 2", "state": "cannot be read"}
    with pytest.raises(CheckpointError, match=wanted.get(damage, "is damaged: expected")):
        load_checkpoint(folder)
    with pytest.warns(CheckpointWarning, match="going on from"):
        assert_is(load_latest(tmp_path), 1)


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_latest(tmp_path)


@pytest.mark.slow
def test_kill_at_any_moment_loses_at_most_one_save(tmp_path):
    """50 processes that do nothing but save, each killed at a random moment."""
    rng = random.Random(0)
    save_checkpoint(tmp_path, make(0))
    for _ in range(50):
        start = load_latest(tmp_path).iteration
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            for iteration in range(start + 1, start + 10**6):
                save_checkpoint(tmp_path, make(iteration))
                os.write(writing, iteration.to_bytes(4, "big"))
        os.close(writing)
        os.read(reading, 4)  # It is under way.
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reported = os.read(reading, 2**20)
        os.close(reading)
        last = int.from_bytes(reported[-4:], "big") if reported else start + 1
        found = load_latest(tmp_path)
        assert_is(found, found.iteration)
        assert last <= found.iteration <= last + 1


FILE_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def save_and_be_killed(root, iteration, operation):
    """True if a process that saves was killed just before its file operation of that number."""
    child = os.fork()
    if child == 0:
        numbers = itertools.count(1)

        def kill(event, _):
            if event in FILE_OPERATIONS and next(numbers) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        try:
            save_checkpoint(root, make(iteration), keep=1, best=True)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("iteration", [2, 3])
def test_a_save_may_be_killed_before_every_one_of_its_file_operations(tmp_path, iteration):
    """With a single checkpoint to lose, whether it is followed or written again."""
    for operation in range(1, 1000):
        root = tmp_path / str(operation)
        save_checkpoint(root, make(2), keep=1, best=True)
        killed = save_and_be_killed(root, iteration, operation)
        found = load_latest(root)
        assert found.iteration in ((2, iteration) if killed else (iteration,))
        assert_is(found, found.iteration)
        best = best_checkpoint(root)
        if best is not None:  # Of two renames only the second has its name.
            assert load_checkpoint(best).iteration in (2, iteration)
        save_checkpoint(root, make(4), keep=1, best=True)
        assert_is(load_latest(root), 4)
        assert [path.name for path in root.iterdir() if path.is_dir()] == ["step_00000004"]
        if not killed:
            break
    assert operation > 15


def test_optimizer_state_survives_as_plain_tensors(tmp_path):
    def optimizer():
        weight = torch.nn.Parameter(torch.ones(3))
        return weight, torch.optim.AdamW([weight], lr=0.1, betas=(0.8, 0.9))

    def step(weight, adam, times):
        for _ in range(times):
            weight.grad = weight.detach().clone()
            adam.step()

    weight, adam = optimizer()
    step(weight, adam, 3)
    tensors, groups = pack_optimizer(adam)
    twin, other = optimizer()
    twin.data.copy_(weight.data)
    unpack_optimizer(other, tensors, json.loads(json.dumps(groups)))
    step(weight, adam, 2)
    step(twin, other, 2)
    assert torch.equal(weight, twin)


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_no_flipped_bit_of_a_state_is_taken_for_the_newest(tmp_path):
    """One in four was: an iteration, a learning rate, a list of digests that was not."""
    save_checkpoint(tmp_path, make(1))
    state = save_checkpoint(tmp_path, make(2)) / STATE
    whole = state.read_bytes()
    loaded = 0
    for bit in random.Random(0).sample(range(8 * len(whole)), 300):
        flip(state, bit)
        try:
            assert_is(load_checkpoint(state.parent), 2)  # Another blank, or a name in other case.
            loaded += 1
        except CheckpointError:
            with pytest.warns(CheckpointWarning):
                assert_is(load_latest(tmp_path), 1)
        state.write_bytes(whole)
    assert loaded < 10


@pytest.mark.parametrize(
    "state",
    [
        "null", "[]", "3", '"x"', "{}", '{"version": 1}', '{"version": true}', '{"version": 0}',
        '{"version": 1, "iteration": 2, "digests": null, "facts": {}}',
        '{"version": 1, "iteration": 2, "digests": {}, "facts": {}}',
        '{"version": 1, "iteration": 3, "digests": {}, "facts": {}}',
        '{"version": 1, "iteration": "2", "digests": {}, "facts": {}}',
        '{"version": 1, "iteration": 2, "facts": {}}',
        '{"version": 1, "iteration": 2, "digests": {"../../x.safetensors": "0"}, "facts": {}}',
        '{"version": 1, "iteration": 2, "digests": {"state.json": "0"}, "facts": {}}',
        '{"version": 2, "iteration": 2, "digests": {}, "facts": {}}',
        "[" * 100_000, "9" * 10_000, "\x00", "",
    ],
)  # fmt: skip
def test_whatever_is_wrong_with_a_state_the_older_checkpoint_is_taken(tmp_path, state):
    save_checkpoint(tmp_path, make(1))
    (save_checkpoint(tmp_path, make(2)) / STATE).write_text(state, encoding="utf-8")
    with pytest.warns(CheckpointWarning, match="going on from"):
        assert_is(load_latest(tmp_path), 1)


def test_a_checkpoint_that_lacks_a_needed_fact_is_passed_over(tmp_path):
    save_checkpoint(tmp_path, Checkpoint(1, {}, {"env": 1}))
    save_checkpoint(tmp_path, Checkpoint(2, {}, {}))
    with pytest.warns(CheckpointWarning, match="expected the facts env, which are missing"):
        assert load_latest(tmp_path, needed=("env",)).iteration == 1


def test_a_state_from_before_it_had_a_digest_is_read(tmp_path):
    state = save_checkpoint(tmp_path, make(2)) / STATE
    old = {**json.loads(state.read_text()), "version": 1}
    del old["digest"]
    state.write_text(json.dumps(old))
    assert_is(load_latest(tmp_path), 2)


OTHERS = [
    "step_00000002_before_lr_change", "step_x", "step_", "my_step_00000001", "step_00000001.bak",
    ".step_x.old", "step_٣",
]  # fmt: skip


def test_only_step_and_digits_are_checkpoints(tmp_path):
    """A copy that a user had made was counted, read as the newest, and deleted."""
    folder = save_checkpoint(tmp_path, make(2))
    for name in OTHERS:
        shutil.copytree(folder, tmp_path / name)
    for iteration in range(3, 9):
        save_checkpoint(tmp_path, make(iteration), keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000008"]
    assert {name for name in OTHERS if (tmp_path / name).is_dir()} == set(OTHERS)
    assert_is(load_checkpoint(tmp_path / OTHERS[0]), 2)


def test_more_digits_than_eight_count_as_numbers(tmp_path):
    for iteration in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, make(iteration), keep=5)
    assert load_latest(tmp_path).iteration == 100_000_000


def test_going_back_sets_newer_checkpoints_aside(tmp_path):
    for iteration in range(1, 5):
        save_checkpoint(tmp_path, make(iteration), keep=9, best=iteration == 4)
    assert set_aside(tmp_path, 4) is None and best_checkpoint(tmp_path) is not None
    aside = set_aside(tmp_path, 2)
    assert [p.name for p in list_checkpoints(aside)] == ["step_00000003", "step_00000004"]
    assert_is(load_latest(tmp_path), 2)
    assert_is(load_latest(aside), 4)
    assert best_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, make(3), keep=9)
    assert set_aside(tmp_path, 2) == tmp_path / "set_aside_2"


@pytest.mark.parametrize("text", ["../../elsewhere", "step_00000009", "", "\x00", "step_x"])
def test_a_damaged_mark_of_the_best_names_nothing(tmp_path, text):
    save_checkpoint(tmp_path, make(1), best=True)
    (tmp_path / "best").write_text(text)
    assert best_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, make(2))


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, make(1))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reelrl.algos.run.checkpoint.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, make(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_flushed_is_no_obstacle(tmp_path, monkeypatch, number):
    """SMB and some FUSE answer so; files are flushed all the same, or it is an error."""
    fsync = os.fsync

    def picky(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", picky)
    assert_is(load_checkpoint(save_checkpoint(tmp_path, make(1), best=True)), 1)

    def broken(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError):
        save_checkpoint(tmp_path, make(2))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_checkpoint_is_as_readable_as_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = save_checkpoint(tmp_path, make(1))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask}


def test_facts_with_numbers_for_keys_and_texts_of_any_language_come_back(tmp_path):
    folder = save_checkpoint(tmp_path, Checkpoint(1, {}, {"é 漢": {1: None, 2: float("inf")}}))
    assert load_checkpoint(folder).facts == {"é 漢": {"1": None, "2": float("inf")}}
