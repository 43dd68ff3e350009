"""The runner: nothing is done twice, a kill costs a save interval, one failure stops nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time

import pytest
import torch

from reelrl.algos.grpo import GRPO
from reelrl.algos.run.ownership import owned
from reelrl.algos.run.runlog import read_metrics
from reelrl.zoo.benchmark import runner
from reelrl.zoo.benchmark import store as storing
from reelrl.zoo.benchmark.columns import read_rows, write_rows
from reelrl.zoo.benchmark.run import _measure_end, _open, execute, finished
from reelrl.zoo.benchmark.runner import bench
from reelrl.zoo.benchmark.store import Store, collect


def rows_of(folder, scenario="goodhart"):
    """Rows of the results without what depends on the clock."""
    rows = read_rows(folder / f"{scenario}.csv")
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows]


@pytest.mark.slow
def test_parallel_equals_one_after_the_other_and_nothing_is_done_twice(
    tiny_suite, tmp_path, monkeypatch
):
    suite = tiny_suite(methods={"grpo": None, "broken": {"estimator": "branch_grpo"}})
    failures = bench(suite, tmp_path / "runs", tmp_path / "results", jobs=2, progress=False)
    ((failed, why),) = failures
    assert failed.method == "broken" and "needs a tree" in why
    facts = json.loads((tmp_path / "results" / "suite.json").read_text())
    assert facts["failed"][0]["method"] == "broken" and len(facts["runs"]) == 1
    assert facts["scenarios"]["goodhart"]["rewards"] == ["proxy_vq", "proxy_mq", "proxy_ta"]

    whole = tiny_suite()
    alone = Store(tmp_path / "alone", whole)
    for run in whole.runs():
        execute(run, tmp_path / "alone_runs" / run.path, whole.examined)
    alone.take(collect(whole.runs(), tmp_path / "alone_runs"), {})
    assert rows_of(tmp_path / "results") == [
        row for row in rows_of(tmp_path / "alone") if row["method"] == "grpo"
    ]

    # With the second run's folder at hand there is nothing left to run, only to be taken over.
    def refuse(*arguments):
        raise AssertionError("a finished run was started again")

    monkeypatch.setattr(runner, "_Crew", refuse)
    assert bench(whole, tmp_path / "alone_runs", tmp_path / "results", progress=False) == []
    assert rows_of(tmp_path / "results") == rows_of(tmp_path / "alone")
    # And without any folder of runs the committed results are enough.
    assert bench(whole, tmp_path / "none", tmp_path / "results", progress=False) == []


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_curve(tiny_suite, tmp_path, monkeypatch):
    suite = tiny_suite(methods=["gdpo"])
    (run,) = suite.runs()
    straight = Store(tmp_path / "straight", suite)
    execute(run, tmp_path / "a" / run.path, suite.examined)
    straight.take(collect([run], tmp_path / "a"), {})
    iterate = GRPO._iterate

    def dies(self, log):
        if self.iteration == 2:
            raise RuntimeError("planted")
        return iterate(self, log)

    monkeypatch.setattr(GRPO, "_iterate", dies)
    with pytest.raises(RuntimeError, match="planted"):
        execute(run, tmp_path / "b" / run.path, suite.examined)
    monkeypatch.undo()
    assert not finished(run, tmp_path / "b" / run.path)
    assert collect([run], tmp_path / "b") == []
    resumed = Store(tmp_path / "resumed", suite)
    execute(run, tmp_path / "b" / run.path, suite.examined)
    resumed.take(collect([run], tmp_path / "b"), {})
    assert rows_of(tmp_path / "resumed") == rows_of(tmp_path / "straight")
    for row, kl in zip(rows_of(tmp_path / "resumed"), (0, None, 1, 1), strict=True):
        assert (row["kl"] == "") if kl is None else (float(row["kl"]) > 0) == bool(kl)
    assert (tmp_path / "straight" / "clips" / "goodhart" / "gdpo.gif").read_bytes() == (
        tmp_path / "resumed" / "clips" / "goodhart" / "gdpo.gif"
    ).read_bytes()


def test_results_of_other_settings_are_not_this_runs(tiny_suite, tmp_path):
    suite = tiny_suite(methods=["grpo"])
    (run,) = suite.runs()
    kept = Store(tmp_path, suite)
    leave(run, tmp_path / "out" / run.path)
    kept.take(collect([run], tmp_path / "out"), {})
    assert kept.has(run)
    (other,) = tiny_suite(methods={"grpo": {"set": {"learner.learning_rate": 1e-9}}}).runs()
    assert other.path == run.path and not kept.has(other)
    kept.describe({}, [])
    assert Store(tmp_path, suite).has(run)
    examined_otherwise = tiny_suite(methods=["grpo"], examined={"clips": 3, "every": 2})
    assert not Store(tmp_path, examined_otherwise).has(run)


def test_rows_of_a_run_replace_those_it_had_before(tiny_suite, tmp_path):
    suite = tiny_suite()
    runs = {run.method: run for run in suite.runs()}

    def write(run, values):
        folder = tmp_path / "out" / run.path
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({"iteration": i, "watch/gold": v, "watch/kl": None, "time/rollout": 2.0})
            for i, v in enumerate(values)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        for name in ("base.gif", "after.gif"):
            (folder / name).write_bytes(b"x")
        (folder / "done.json").write_text(json.dumps({"digest": run.digest}))

    kept = Store(tmp_path / "results", suite)
    for method, values in (("gdpo", [0.1]), ("grpo", [0.2, 0.3]), ("gdpo", [0.4, 0.123456789])):
        write(runs[method], values)
        kept.take(collect([runs[method]], tmp_path / "out"), {"commit": "abc", "machine": "one"})
    rows = read_rows(tmp_path / "results" / "goodhart.csv")
    assert [(r["method"], r["iteration"], r["gold"]) for r in rows] == [
        ("grpo", "0", "0.2"), ("grpo", "1", "0.3"), ("gdpo", "0", "0.4"), ("gdpo", "1", "0.12346"),
    ]  # fmt: skip
    assert [r["wall_s"] for r in rows] == ["0", "2", "0", "2"] and rows[0]["kl"] == ""
    assert [r["reward_calls"] for r in rows[:2]] == ["0", "4"]
    (known,) = {(r["commit"], r["machine"]) for r in kept.facts["runs"].values()}
    assert known == ("abc", "one")


def test_a_row_tells_what_it_took_to_get_there(tiny_suite, tmp_path):
    """The time to collect, estimate and learn; what is measured beside it is not the method's."""
    (run, _) = tiny_suite().runs()
    rows = [
        {
            "iteration": i,
            "time/rollout": 1.0, "time/estimate": 0.25, "time/update": 2.0, "time/adapt": 64.0,
            "watch/gold": 0.5, "watch/within_std/gold": 0.1, "eval/seen/gold": 0.25,
            "eval/unseen/gold": 0.75, "eval/open/vendi": 0.9, "advantage/influence/a": 0.6,
            "advantage/std": 1.0, "reward/a": 0.3, "reward/within_std/a": 0.2,
            "health/skipped_updates": 2.0, "train/grad_norm": 4.0, "train/kl": 0.1,
        }
        for i in range(3)
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text)
    found = storing.rows_of(run, tmp_path)
    assert [row["wall_s"] for row in found] == [0, 3.25, 6.5]
    assert [row["reward_calls"] for row in found] == [0, 4, 8]
    assert found[2] == {
        "method": "grpo", "seed": 0, "iteration": 2, "wall_s": 6.5, "reward_calls": 8,
        "gold": 0.5, "within_std/gold": 0.1, "eval_seen/gold": 0.25, "eval_unseen/gold": 0.75,
        "eval_open/vendi": 0.9, "influence/a": 0.6, "reward/a": 0.3, "skipped": 2.0,
        "grad_norm": 4.0,
    }  # fmt: skip


def test_the_end_is_measured_of_the_average_and_trains_nothing(tiny_suite, tmp_path):
    base = tiny_suite().base
    settings = {**base["learner"], "ema_decay": 0.9}
    (run, _) = tiny_suite(base={**base, "learner": settings}).runs()
    learner, _ = _open(run, tmp_path, tiny_suite().examined)
    asked = []

    class Watch:
        every = 1

        def metrics(self, policy, ema=None):
            asked.append((policy, ema))
            return {"eval/seen/gold": 0.75}

    learner.evaluation = Watch()
    before = learner.policy.state_dict()
    _measure_end(learner, tmp_path)
    ((policy, ema),) = asked
    assert policy is learner.policy and ema is learner.updater.ema and ema is not None
    assert all(torch.equal(before[n], t) for n, t in learner.policy.state_dict().items())
    (row,) = read_metrics(tmp_path)
    assert row["iteration"] == 0 and row["eval/seen/gold"] == 0.75
    means = learner.collect().rewards.double().mean(dim=0).tolist()
    assert [row[f"reward/{name}"] for name in learner.names] == pytest.approx(means)


def test_the_clips_that_are_shown_are_the_first_seeds(tiny_suite, tmp_path):
    suite = tiny_suite(seeds=[3, 1], methods=["grpo"])
    store = Store(tmp_path / "results", suite)
    for run in suite.runs():
        leave(run, tmp_path / run.path)
        (tmp_path / run.path / "after.gif").write_bytes(b"seed %d" % run.seed)
    store.take(collect(suite.runs(), tmp_path), {})
    shown = tmp_path / "results" / "clips" / "goodhart" / "grpo.gif"
    assert shown.read_bytes() == b"seed 3"


def test_columns_are_keys_first_and_then_the_alphabet(tmp_path):
    write_rows(tmp_path / "a.csv", [{"b": 1, "iteration": 0, "a": 2.0, "seed": 1, "method": "x"},
                                    {"method": "y", "c": None}])  # fmt: skip
    text = (tmp_path / "a.csv").read_text()
    assert text == "method,seed,iteration,a,b,c\nx,1,0,2,1,\ny,,,,,\n"


@pytest.mark.slow
def test_a_run_waits_for_the_process_that_is_at_it(tmp_path):
    with owned(tmp_path):
        code = (
            "import sys, pathlib; from reelrl.algos.run.ownership import owned\n"
            "with owned(pathlib.Path(sys.argv[1]), wait=True): print('in')"
        )
        other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=-1)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=15)
    assert other.communicate()[0] == b"in\n"


def leave(run, folder, gold=0.25):
    """What a finished run leaves, made up."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"iteration": i, "watch/gold": gold}) + "\n" for i in range(4)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    for name in ("base.gif", "after.gif"):
        (folder / name).write_bytes(b"x")
    (folder / "done.json").write_text(json.dumps({"digest": run.digest}))


def counted(monkeypatch, name):
    """Arguments of every call of a function of the store."""
    calls, function = [], getattr(storing, name)

    def counting(*arguments):
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(storing, name, counting)
    return calls


@pytest.mark.parametrize(("pause", "writes"), [(60.0, 1), (0.0, 8)])
def test_results_are_written_seldom_and_every_run_is_read_once(
    tiny_suite, tmp_path, monkeypatch, in_this_process, pause, writes
):
    suite = tiny_suite(seeds=[0, 1, 2, 3])
    written, read = counted(monkeypatch, "write_rows"), counted(monkeypatch, "rows_of")
    started, asked = [], []
    seldom = runner._Seldom.__call__

    def counting(self):
        seldom(self)
        asked.append(self)

    def execute(run, folder, examined):
        # The runner has dealt with a run before the next one finishes.
        for _ in range(2000):
            if len(asked) >= len(started):
                break
            time.sleep(0.01)
        started.append(run)
        leave(run, folder)

    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(runner._Seldom, "__call__", counting)
    monkeypatch.setattr(runner, "COLLECT", pause)
    assert bench(suite, tmp_path / "out", tmp_path / "results", progress=False) == []
    assert len(written) == writes and len(read) == 8
    assert len(rows_of(tmp_path / "results")) == 8 * 4
    facts = json.loads((tmp_path / "results" / "suite.json").read_text())
    assert set(facts["runs"]) == {str(run.path) for run in suite.runs()}

    # Nothing is missing: nothing is read, and no table is written again.
    assert bench(suite, tmp_path / "out", tmp_path / "results", progress=False) == []
    assert len(written) == writes and len(read) == 8


def test_a_stopped_benchmark_goes_on_beside_results_made_elsewhere(
    tiny_suite, tmp_path, monkeypatch, in_this_process
):
    suite = tiny_suite(seeds=[0, 1])
    elsewhere, *others = suite.runs()
    leave(elsewhere, tmp_path / "other" / elsewhere.path, gold=0.5)
    store = Store(tmp_path / "results", suite)
    store.take(collect([elsewhere], tmp_path / "other"), {"commit": "abc", "machine": "one"})
    store.describe({}, [])
    done = []

    def stops(run, folder, examined):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(run)
        leave(run, folder)

    monkeypatch.setattr(runner, "execute", stops)
    with pytest.raises(KeyboardInterrupt):
        bench(suite, tmp_path / "out", tmp_path / "results", progress=False)
    assert len(rows_of(tmp_path / "results")) == 2 * 4
    # A kill leaves no time for that: a run may be finished and not be in the results.
    leave(others[1], tmp_path / "out" / others[1].path)
    done.clear()
    monkeypatch.setattr(
        runner, "execute", lambda run, folder, examined: (done.append(run), leave(run, folder))
    )
    assert bench(suite, tmp_path / "out", tmp_path / "results", progress=False) == []
    assert [run.path for run in done] == [others[2].path]
    rows = rows_of(tmp_path / "results")
    assert len(rows) == 4 * 4
    assert {r["gold"] for r in rows if (r["method"], r["seed"]) == ("grpo", "0")} == {"0.5"}
    facts = json.loads((tmp_path / "results" / "suite.json").read_text())["runs"]
    assert facts[str(elsewhere.path)]["commit"] == "abc" and len(facts) == 4


def test_a_run_folder_tells_where_it_was_made(tiny_suite, tmp_path):
    suite = tiny_suite(methods=["grpo"])
    (run,) = suite.runs()
    leave(run, tmp_path / run.path)
    done = tmp_path / run.path / "done.json"
    done.write_text(json.dumps({"digest": run.digest, "commit": "far", "machine": "away"}))
    before = sorted(path.read_bytes() for path in done.parent.iterdir())
    (found,) = collect([run], tmp_path)
    assert found.place == {"commit": "far", "machine": "away"} and len(found.rows) == 4
    store = Store(tmp_path / "results", suite)
    store.take([found], {"commit": "near", "machine": "here"})
    (kept,) = store.facts["runs"].values()
    assert {key: kept[key] for key in ("digest", "commit", "machine")} == {
        "digest": run.digest, "commit": "far", "machine": "away",
    }  # fmt: skip
    assert sorted(path.read_bytes() for path in done.parent.iterdir()) == before
    done.write_text(json.dumps({"digest": "of other settings"}))
    assert collect([run], tmp_path) == []


@pytest.mark.parametrize("spoil", ["metrics.jsonl", "done.json"])
def test_a_finished_run_whose_files_are_damaged_is_none(spoil, tiny_suite, tmp_path):
    suite = tiny_suite(methods=["grpo"])
    (run,) = suite.runs()
    folder = tmp_path / run.path
    leave(run, folder)
    metrics = (folder / "metrics.jsonl").read_bytes()
    done = {"digest": run.digest, "metrics.jsonl": hashlib.sha256(metrics).hexdigest()[:16]}
    (folder / "done.json").write_text(json.dumps(done))
    assert finished(run, folder) and len(collect([run], tmp_path)) == 1
    raw = (folder / spoil).read_bytes()
    (folder / spoil).write_bytes(raw[:-9])
    assert not finished(run, folder) and collect([run], tmp_path) == []


@pytest.mark.slow
def test_a_finished_run_whose_numbers_are_damaged_is_made_again(tiny_suite, tmp_path):
    suite = tiny_suite(methods=["grpo"])
    (run,) = suite.runs()
    folder = execute(run, tmp_path / run.path, suite.examined)
    whole = read_metrics(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[1:]))
    execute(run, folder, suite.examined)
    assert finished(run, folder)
    rows = read_metrics(folder)
    assert [row["reward/proxy_vq"] for row in rows] == [row["reward/proxy_vq"] for row in whole]
