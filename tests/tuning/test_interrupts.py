"""Signals and other reasons to end a run early."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest
from command import PLATFORM

from asr_platform.tuning.interrupts import NOTICE, SIGNALS, stop_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_acts(number: int) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as interrupt:
        interrupt.is_patient = True
        assert not interrupt.requested and not interrupt("trial", {})
        os.kill(os.getpid(), number)
        assert (interrupt.state, interrupt.reason) == ("stopped", "")
        assert interrupt.stop_all() and interrupt("trial", {})
        os.kill(os.getpid(), number)
    assert [signal.getsignal(one) for one in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_acts_before_there_is_anything_to_stop(number: int) -> None:
    """While a cluster is joined, or its nodes are waited for."""
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), number)


def test_a_notice_stops_nothing_by_itself_but_what_has_not_begun() -> None:
    before = signal.getsignal(NOTICE)
    with stop_on_signals() as interrupt:
        interrupt.is_patient = True
        os.kill(os.getpid(), NOTICE)
        os.kill(os.getpid(), NOTICE)
        assert interrupt.leaving and not interrupt.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.state == "stopped"
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), NOTICE)
    assert signal.getsignal(NOTICE) == before


def test_the_first_reason_counts() -> None:
    with stop_on_signals() as interrupt:
        interrupt.stop("capped", "1 of 1 hours")
        interrupt.stop("failed", "the disk is full")
        assert (interrupt.state, interrupt.reason) == ("capped", "1 of 1 hours")


def test_the_first_signal_after_another_reason_is_still_the_first() -> None:
    """A cap is reached, the best model is being made, and Slurm sends its first SIGTERM."""
    with stop_on_signals() as interrupt:
        interrupt.is_patient = True
        interrupt.stop("capped", "1 of 1 hours")
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.state == "capped"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_is_to_be_ignored_stays_ignored() -> None:
    """As nohup asks for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_has_no_signals_and_can_be_stopped() -> None:
    """A sweep may be started from a thread of a notebook or a server."""
    states = []

    def run() -> None:
        with stop_on_signals() as interrupt:
            interrupt.stop("capped")
            states.append(interrupt.state)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert states == ["capped"]


def test_ray_leaves_our_handler_of_sigterm_alone() -> None:
    """It would replace it, and its own ends the process with a stack of C++."""
    program = (
        "import os, signal\n"
        "from asr_platform.tuning.connection import connect\n"
        "from asr_platform.tuning.interrupts import stop_on_signals\n"
        "with stop_on_signals() as interrupt, connect(None):\n"
        "    interrupt.is_patient = True\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(interrupt.state)\n"
    )
    python = PLATFORM.with_name("python")
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout, done.returncode) == ("stopped\n", 0), done.stderr
