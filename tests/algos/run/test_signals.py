"""The first signal lets the work be saved, the second ends it; what is ignored stays ignored."""

from __future__ import annotations

import pickle
import signal
import threading

import pytest

from reelrl.algos.run.signals import (
    SIGNALS,
    Interruption,
    Stopped,
    end_at_once,
    handled_by,
    interruptible,
    telling,
)

OTHERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def test_all_four_are_listened_to():
    assert set(SIGNALS) == {signal.SIGINT, *OTHERS}


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_remembered_and_the_second_ends(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with interruptible() as interruption:
        assert interruption.number == 0
        signal.raise_signal(number)
        assert interruption.number == number
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stopped):
            signal.raise_signal(number)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_patient_one_lets_the_second_pass():
    with interruptible(patient=True) as interruption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert interruption.number == signal.SIGTERM


def test_an_inner_context_is_the_outer_one():
    with interruptible(patient=True) as outer:
        signal.raise_signal(signal.SIGTERM)
        with interruptible() as inner:
            assert inner is outer
        signal.raise_signal(signal.SIGTERM)


def test_ignored_signals_stay_ignored_but_ctrl_c():
    with handled_by(signal.SIG_IGN), interruptible() as interruption:
        for number in OTHERS:
            signal.raise_signal(number)
        assert interruption.number == 0
        signal.raise_signal(signal.SIGINT)
        assert interruption.number == signal.SIGINT


def test_a_thread_hears_nothing_and_breaks_nothing():
    heard = []

    def work():
        with interruptible() as interruption:
            heard.append(interruption.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), *((n, 143) for n in OTHERS)])
def test_exit_codes(number, code):
    stop = Stopped(number, "told")
    copy = pickle.loads(pickle.dumps(stop))
    for one in (stop, copy):
        assert isinstance(one, SystemExit)
        assert (one.number, one.code, str(one)) == (number, code, "told")


@pytest.mark.parametrize("number", SIGNALS)
def test_what_ends_at_once_is_told_how_to_go_on(number):
    with pytest.raises(Stopped, match="go on so") as stop, telling("go on so"):
        end_at_once(number)
    assert stop.value.number == number


def test_the_name_of_a_signal_is_said_where_nothing_else_is():
    assert str(Stopped(signal.SIGTERM)) == "stopped by SIGTERM"
    assert str(Stopped(signal.SIGINT)) == "stopped by Ctrl-C"
    assert Interruption().number == 0
