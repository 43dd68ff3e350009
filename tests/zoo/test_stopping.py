"""Signals, killed parents and closed pipes: finished iterations are saved, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import alive, descendants, rows_in, start, train, wait_until
from safetensors.torch import load_file

from reelrl.algos.run.checkpoint import list_checkpoints
from reelrl.algos.run.runlog import read_metrics

pytestmark = pytest.mark.slow
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads the process table of Linux")


def curve(folder):
    return [
        {k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(folder)
    ]


def weights(folder):
    (path,) = (folder / "weights").rglob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGUSR1, 143),
    ],
)
def test_a_signal_saves_the_iteration_and_says_how_to_go_on(number, code, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = train(run, 12, "learner.save_every=1000")
    wait_until(lambda: rows_in(run) >= 2, process)
    process.send_signal(number)
    printed, said = process.communicate(timeout=300)
    reached = rows_in(run)
    assert process.returncode == code
    assert f"stopped at iteration {reached} of 12; the same command goes on" in said
    assert "Traceback" not in said and "wrote" not in printed and "after" not in printed
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == [f"step_{reached:08d}"]
    assert not (run / "after.gif").exists() and not (run / "weights").exists()
    if number != signal.SIGTERM:
        return
    assert train(run, 12, "learner.save_every=1000").wait() == 0
    assert train(whole, 12, "learner.save_every=1000").wait() == 0
    assert curve(run) == curve(whole)
    first, second = weights(run), weights(whole)
    assert all(bool((first[name] == tensor).all()) for name, tensor in second.items())


def test_a_second_signal_ends_at_once_and_the_run_goes_on_all_the_same(tmp_path):
    process = train(tmp_path / "run", 4000, "learner.save_every=3")
    wait_until(lambda: rows_in(tmp_path / "run") >= 4, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143 and "Traceback" not in said
    reached = rows_in(tmp_path / "run")
    assert train(tmp_path / "run", reached + 2, "learner.save_every=3").wait() == 0
    assert [row["iteration"] for row in read_metrics(tmp_path / "run")] == list(range(reached + 2))


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path):
    process = train(
        tmp_path / "run", 30, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    wait_until(lambda: rows_in(tmp_path / "run") >= 2, process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=300) == 0 and rows_in(tmp_path / "run") == 30


@pytest.mark.parametrize("closed", ["12", "closed at the start"])
def test_a_training_without_a_reader_is_finished(closed, tmp_path):
    run = tmp_path / "run"
    if closed == "closed at the start":

        def close():
            os.close(1)
            os.close(2)

        process = train(run, 3, stdout=None, stderr=None, preexec_fn=close)
    else:
        kept, written = os.pipe()
        os.close(kept)
        others = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        broken = {{"1": "stdout", "2": "stderr"}[number]: written for number in closed}
        process = train(run, 3, **(others | broken))
        os.close(written)
    assert process.wait(timeout=300) == 0
    assert rows_in(run) == 3 and weights(run)


@pytest.mark.parametrize(
    ("command", "code"),
    [(["list", "estimators"], 2)],
)
def test_a_list_that_nobody_can_read_is_an_error_only_where_somebody_would(command, code):
    with Path("/dev/full").open("w") as full:
        process = start(command, stdout=full)
        _, said = process.communicate(timeout=300)
    assert process.returncode == code and said == "reelrl: [Errno 28] No space left on device\n"
    kept, written = os.pipe()
    os.close(kept)
    process = start(command, stdout=written)
    os.close(written)
    assert process.communicate(timeout=300)[1] == "" and process.returncode == 0


@pytest.fixture
def endless(tmp_path):
    """``reelrl bench`` of two runs that would take hours; gives the process when both are at it."""
    suite = {
        "title": "endless", "seeds": [0], "scenarios": ["goodhart"], "methods": ["grpo", "gdpo"],
        "examined": {"clips": 2, "every": 1000},
        "base": {
            "env": "reelrl/MovingShapesEarly-v0", "iterations": 100_000,
            "env_args": {"num_steps": 2},
            "learner": {
                "prompts_per_iteration": 1, "group_size": 2, "save_every": 100_000,
                "rollout": {"last_step": 0, "keep_videos": 2},
            },
        },
    }  # fmt: skip
    path = tmp_path / "endless.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    folders = [tmp_path / "out" / "goodhart" / name / "seed_0" for name in ("grpo", "gdpo")]

    def bench(**options):
        arguments = ["bench", str(path), "--out", str(tmp_path / "out"), "--jobs", "2"]
        process = start(arguments, **options)
        before = [rows_in(folder) for folder in folders]
        wait_until(
            lambda: all(rows_in(f) > n for f, n in zip(folders, before, strict=True)), process
        )
        return process

    return bench, folders


def newest(folder):
    found = list_checkpoints(folder / "checkpoints")
    return int(found[-1].name.removeprefix("step_")) if found else None


@LINUX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_benchmark_passes_a_signal_on_to_its_workers(number, code, endless, tmp_path):
    bench, folders = endless
    process = bench()
    below = descendants(process.pid)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code and "Traceback" not in said
    assert f"stopped; the same command goes on from {tmp_path / 'out'}" in said
    # Python's own watcher of shared memory ends when the last of them has.
    wait_until(lambda: not any(alive(pid) for pid in below))
    assert [newest(folder) for folder in folders] == [rows_in(folder) for folder in folders]


@LINUX
def test_a_benchmark_whose_group_gets_the_signal_hears_it_once(endless):
    """A terminal sends Ctrl-C to parent and workers; the parent's word is no second one."""
    bench, folders = endless
    process = bench(start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in said
    assert [newest(folder) for folder in folders] == [rows_in(folder) for folder in folders]


@LINUX
def test_the_second_signal_ends_a_benchmark_with_its_workers(endless):
    bench, _ = endless
    process = bench()
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 143)
    wait_until(lambda: not any(alive(pid) for pid in below))


@LINUX
def test_workers_end_with_a_killed_benchmark_and_save(endless):
    bench, folders = endless
    process = bench(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    below = descendants(process.pid)
    assert len(below) >= 2
    process.kill()
    process.wait()
    wait_until(lambda: not any(alive(pid) for pid in below))
    assert [newest(folder) for folder in folders] == [rows_in(folder) for folder in folders]


def test_a_benchmark_without_a_reader_is_finished_with_imports_of_its_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from reelrl.algos.advantages import make_estimator, register_estimator\n"
        "Mine = type('Mine', (type(make_estimator('grpo')),), {'__module__': __name__})\n"
        "register_estimator('mine')(Mine)\n",
        encoding="utf-8",
    )
    suite = {
        "title": "mine", "imports": ["mine.py"], "seeds": [0], "scenarios": ["goodhart"],
        "methods": ["grpo", "mine"], "examined": {"clips": 2, "every": 1}, "best_of": 2,
        "base": {
            "env": "reelrl/MovingShapesEarly-v0", "iterations": 1, "env_args": {"num_steps": 2},
            "learner": {
                "prompts_per_iteration": 1, "group_size": 2,
                "rollout": {"last_step": 0, "keep_videos": 2},
            },
        },
    }  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    arguments = ["bench", str(path), "--out", str(tmp_path / "out"), "--jobs", "2"]
    kept, written = os.pipe()
    os.close(kept)
    process = start(arguments, stdout=written, stderr=written)
    os.close(written)
    assert process.wait(timeout=300) == 0
    results = tmp_path / "out" / "results"
    facts = json.loads((results / "suite.json").read_text(encoding="utf-8"))
    assert set(facts["runs"]) == {"goodhart/grpo/seed_0", "goodhart/mine/seed_0"}
    assert facts["imports"] == ["mine.py"] and (results / "RESULTS.md").is_file()
    # Again it only tells what it found.
    printed, _ = start(arguments).communicate(timeout=300)
    assert "- Against grpo at equal iterations" in printed and "Claims" not in printed
