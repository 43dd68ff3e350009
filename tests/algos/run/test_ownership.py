"""One process at a time writes into a run folder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from reelrl.algos.run import ownership
from reelrl.algos.run.ownership import LOCK, FolderInUse, owned

HOLD = (
    "import sys, time, pathlib; from reelrl.algos.run.ownership import owned\n"
    "with owned(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_is_told_who_has_the_folder(tmp_path, holder):
    with pytest.raises(FolderInUse, match=rf"in use by process {holder.pid} on \S+: wait"):  # noqa: SIM117
        with owned(tmp_path):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with owned(tmp_path):  # The system gives it free, however the process ended.
        assert (tmp_path / LOCK).read_text().split()[0] == str(os.getpid())


def test_one_process_may_ask_several_times(tmp_path):
    with owned(tmp_path):
        with owned(tmp_path / "." / ""), owned(tmp_path):
            pass
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run([sys.executable, "-c", HOLD.replace("(pathlib.Path(sys.argv[1]))",
                "(pathlib.Path(sys.argv[1]), wait=True)"), str(tmp_path)], timeout=4)  # fmt: skip


def test_a_folder_that_nothing_came_into_goes_again(tmp_path):
    with owned(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()
    with owned(tmp_path / "c"):
        (tmp_path / "c" / "x").touch()
    assert (tmp_path / "c" / "x").exists()
    (tmp_path / "d").mkdir()
    with owned(tmp_path / "d"):
        pass
    assert (tmp_path / "d").is_dir()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ownership.fcntl, "flock", refuse)
    with owned(tmp_path):
        pass


def test_a_lock_is_free_after_an_error_inside(tmp_path):
    with pytest.raises(KeyError), owned(tmp_path):
        raise KeyError
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", HOLD.replace("time.sleep(60)", "0"), str(tmp_path)], check=True
    )
    assert time.monotonic() - start < 60


def test_another_thread_is_somebody_else(tmp_path):
    found = []

    def other():
        try:
            with owned(tmp_path):
                found.append("in")
        except FolderInUse as error:
            found.append(str(error))

    with owned(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [f"{tmp_path} is in use by another thread: choose another folder"]


def test_a_forked_child_does_not_own_what_its_parent_does(tmp_path):
    with owned(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with owned(tmp_path):
                    os._exit(0)
            except FolderInUse:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_who_waits_does_not_get_a_lock_that_is_gone(tmp_path):
    """The first owner removes an empty folder while the second waits for it."""
    folder = tmp_path / "run"
    code = (
        "import sys, pathlib; from reelrl.algos.run.ownership import owned\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with owned(folder, wait=True): print((folder / 'lock').exists())"
    )
    with owned(folder):
        waiting = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(6)
    assert waiting.communicate(timeout=60)[0] == "True\n"
