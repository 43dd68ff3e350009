"""Complete or not there: checkpoints under kill -9, damage and other versions."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
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
    wanted = {"version": "version 99, expected 1", "state": "cannot be read"}
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
