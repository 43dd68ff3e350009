"""Two processes, really launched, against one: the same updates, decisions, metrics and files."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reelrl.algos.grpo import GRPO
from reelrl.algos.run.checkpoint import list_checkpoints
from reelrl.algos.run.distributed import Ranks, launched
from reelrl.algos.run.runlog import read_metrics

SCRIPT = Path(__file__).with_name("two_processes.py")
spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)

NAMES = [make.__name__ for make in runs.RUNS]
TOLERANCE = {"atol": 1e-6, "rtol": 0.0, "equal_nan": True}
EXACTLY = {**TOLERANCE, "atol": 0.0}


def close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], **(tolerance or TOLERANCE))


def same(first, second):
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(first, second, strict=1))


def curves_agree(first, second):
    """Metrics but for seconds, and for what a process can only say of itself."""
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if not key.startswith("time/") and key != "health/micro_batch":
                # A ratio of sums of 1e-8 is no number to compare to six digits.
                assert a[key] == pytest.approx(b[key], rel=1e-4, abs=2e-6, nan_ok=True), key


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def results(folder):
    """What both processes have to say, by rank."""
    started = folder / "started"
    runs.learner_of(Ranks(), "taros", folder=started, ema_decay=0.9).learn(1)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0", str(SCRIPT), str(folder), str(started),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    # Where a process aborted stands before the launcher's own words.
    start = max(0, done.stderr.find("Fatal Python error"))
    assert done.returncode == 0, done.stderr[start:][:6000]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_the_update_of_one(results, folder, tmp_path, name):
    """Clipped gradients, several updates, penalties, MARBLE's balance, trees, completions."""
    expected = runs.alone(getattr(runs, name), tmp_path)
    first, second = (result[name] for result in results)
    for key in ("weights", "average", "estimator", "rewards"):
        close(first[key], second[key], **EXACTLY)
        close(first[key], expected[key])
    for a, b in zip(first["history"], second["history"], strict=True):
        assert a.keys() == b.keys() and same(a.values(), b.values())
    curves_agree(first["history"], expected["history"])
    assert first["updates"] == second["updates"] == expected["updates"]
    moved = runs.learner_of(Ranks()).policy.state_dict()
    assert any((moved[n] - t).abs().max() > 1e-3 for n, t in first["weights"].items())


@pytest.mark.slow
def test_the_runs_meet_what_they_are_about(results):
    seen = results[0]
    failed = [m["train/active"] for m in seen["one_rank_without_a_signal"]["history"]]
    assert any(0 < active < 1 for active in failed)
    assert "eval/contrast" in seen["several_updates"]["history"][0]
    assert seen["balanced_components"]["estimator"]["solves"] == 3  # warmup 2, then due
    # Process 1 halved its micro-batch of 8 and process 0 did not.
    assert seen["out_of_memory_on_one"]["history"][0]["health/micro_batch"] == 6


@pytest.mark.slow
def test_a_nan_on_one_process_skips_the_update_on_all(results):
    for result in results:
        assert result["nan_on_one"]["updates"] == (0, 3)
        assert "3 updates in a row" in result["nan_on_one"]["error"]
    start = runs.learner_of(Ranks()).policy.state_dict()
    assert all(torch.equal(start[n], t) for n, t in results[0]["nan_on_one"]["weights"].items())


@pytest.mark.slow
def test_ctrl_c_on_one_process_stops_all_after_the_same_iteration(results, folder):
    assert [result["interrupted"]["iteration"] for result in results] == [2, 2]
    env = runs.make_env(runs.tiny.TinyModel(), 8)
    assert GRPO.load(folder / "interrupted", env=env).iteration == 2


@pytest.mark.slow
def test_t42_one_process_writes_and_all_go_on(results, folder):
    saved = folder / "saved"
    assert len(list_checkpoints(saved / "checkpoints")) == 2
    assert [row["iteration"] for row in read_metrics(saved)] == [0, 1, 2]
    assert len(list((saved / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(results, folder, tmp_path):
    straight = runs.learner_of(Ranks(), "taros", ema_decay=0.9)
    history = straight.learn(4)
    for result in results:  # Begun by one, taken up by two.
        assert result["taken_up"]["iteration"] == 2
        curves_agree(result["taken_up"]["history"], history[1:2])
    # Begun by two, taken up by one.
    env = runs.make_env(runs.tiny.TinyModel(), 8)
    resumed = GRPO.load(folder / "saved", env=env)
    assert resumed.iteration == 3
    curves_agree(resumed.learn(1), history[3:])
    close(resumed.policy.state_dict(), straight.policy.state_dict())
    close(resumed.updater.ema.average, straight.updater.ema.average)


def test_shares_are_consecutive_and_even_or_refused():
    assert [Ranks(rank, 3).part(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(ValueError, match=r"prompts_per_iteration = 2 must be a multiple of .* = 3"):
        runs.GRPO(
            runs.make_env(runs.tiny.TinyModel(), 8),
            runs.FlowPolicy(runs.tiny.TinyModel()),
            config=runs.GRPOConfig(prompts_per_iteration=2),
            ranks=Ranks(0, 3),
        )


TALK = """
import json, sys
import torch
import torch.distributed as dist
from torch.nn import Parameter
from reelrl.algos.run.distributed import Ranks

rank, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
ranks = Ranks(rank, 2)
flags = ranks.gather(torch.tensor([[True, False], [rank == 1, False]]))
known, unknown, mine = (Parameter(torch.zeros(2)) for _ in range(3))
known.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
mine.grad = torch.ones(2) if rank else None
ranks.sum_gradients([known, unknown, mine])
print(json.dumps({
    "flags": flags.tolist(),
    "failed": (~flags).double().mean().item(),
    "halves": ranks.gather(torch.tensor([1.5, -2.0]).half() + rank).tolist(),
    "seeds": ranks.gather(torch.tensor([2**40 + rank])).tolist(),
    "mean": ranks.mean({"a": 1.0 + rank, "b": float("nan") if rank else 0.0}),
    "sum": ranks.sum(torch.tensor([1.0, rank])).tolist(),
    "exchange": ranks.exchange({"rank": rank}),
    "gradients": [known.grad.tolist(), unknown.grad is None, mine.grad.tolist()],
}))
dist.destroy_process_group()
"""


def test_what_two_processes_tell_each_other(tmp_path):
    command = [sys.executable, "-c", TALK]
    places = [str(rank) for rank in range(2)]
    started = [
        subprocess.Popen([*command, rank, str(tmp_path / "meet")], stdout=subprocess.PIPE)
        for rank in places
    ]
    first, second = (json.loads(process.communicate(timeout=300)[0]) for process in started)
    for told in (first, second):
        assert told["flags"] == [[True, False], [False, False], [True, False], [True, False]]
        assert told["failed"] == 5 / 8
        assert told["halves"] == [1.5, -2.0, 2.5, -1.0]
        assert told["seeds"] == [2**40, 2**40 + 1]
        assert told["mean"]["a"] == 1.5 and math.isnan(told["mean"]["b"])
        assert told["sum"] == [2.0, 1.0]
        assert told["exchange"] == [{"rank": 0}, {"rank": 1}]
        # Of a parameter that one of them knows nothing of, and of one that nobody does.
        assert told["gradients"] == [[3.0, 6.0], True, [1.0, 1.0]]


def test_one_process_is_told_nothing():
    ranks, tensor = Ranks(), torch.ones(2)
    assert ranks.gather(tensor) is tensor and ranks.sum(tensor) is tensor
    assert ranks.exchange("a") == ["a"] and ranks.is_main
    assert ranks.mean({"a": 1.5, "b": math.inf}) == {"a": 1.5, "b": math.inf}


def test_one_process_where_several_were_asked_for_is_an_error(monkeypatch):
    """On a machine without accelerators ``accelerate launch --num_processes 2`` starts one."""
    for name in ("WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    with launched() as ranks:
        assert ranks == Ranks()
    monkeypatch.setitem(os.environ, "MASTER_PORT", "29500")
    monkeypatch.setitem(os.environ, "ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(ValueError, match=r"started one.*add --multi_gpu"), launched():
        pass
