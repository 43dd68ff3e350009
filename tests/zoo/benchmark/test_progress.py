"""The bar's counts: right after every kind of change, and paid for by the byte that is new."""

from __future__ import annotations

import json

import pytest

from reelrl.algos.run.runlog import RunLog
from reelrl.zoo.benchmark.progress import Progress, read_from


class Counting:
    """Reads files and adds up the bytes."""

    def __init__(self):
        self.bytes = 0

    def __call__(self, path, start):
        text = read_from(path, start)
        self.bytes += len(text)
        return text


@pytest.fixture
def run(tiny_suite):
    (run,) = tiny_suite(methods=["grpo"], base={**tiny_suite().base, "iterations": 50}).runs()
    return run


def line(iteration):
    return json.dumps({"iteration": iteration, "watch/gold": 0.25}) + "\n"


def test_every_byte_is_read_once(run, tmp_path):
    read = Counting()
    progress = Progress(read)
    assert progress(run, tmp_path) == 0 and read.bytes == 0
    path = tmp_path / "metrics.jsonl"
    for done in range(1, 21):
        with path.open("a") as file:
            file.write(line(done))
        for _ in range(10):
            assert progress(run, tmp_path) == done
    assert read.bytes == path.stat().st_size


def test_a_line_that_is_being_written_does_not_count_yet(run, tmp_path):
    progress = Progress()
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(0) + line(1)[:10])
    assert progress(run, tmp_path) == 1
    path.write_text(line(0) + line(1))
    assert progress(run, tmp_path) == 2


def test_another_file_that_is_no_shorter_is_counted_from_its_beginning(run, tmp_path):
    """A resume replaces the file, and the first look may find it longer than the old one."""
    progress = Progress()
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line, range(6))))
    assert progress(run, tmp_path) == 6
    other = tmp_path / "other"
    rows = [{"iteration": i, "long": "x" * 200} for i in range(3)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert other.stat().st_size > path.stat().st_size
    other.replace(path)
    assert progress(run, tmp_path) == 3


def test_a_resumed_run_is_counted_anew_and_the_row_of_its_end_is_no_iteration(run, tmp_path):
    progress = Progress()
    (tmp_path / "metrics.jsonl").write_text("".join(map(line, range(9))))
    assert progress(run, tmp_path) == 9
    log = RunLog(tmp_path, 4)
    assert progress(run, tmp_path) == 4
    log.scalars(4, {f"watch/{n}": 0.5 for n in range(20)})
    log = RunLog(tmp_path, 5)
    for iteration in range(5, 8):
        log.scalars(iteration, {f"watch/{n}": 0.5 for n in range(20)})
    assert progress(run, tmp_path) == 8  # larger than when it was counted, and another file
    log = RunLog(tmp_path, 4)
    for iteration in range(4, 51):
        log.scalars(iteration, {"watch/gold": 0.5})
    log.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 51
    assert progress(run, tmp_path) == 50
