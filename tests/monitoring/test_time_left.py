"""The time left: from what trials took, how they were stopped and how many run at once, and no better than that."""

from __future__ import annotations

import pytest
import records
from hypothesis import given
from hypothesis import strategies as st

from asr_platform.monitoring.time_left import in_words, seconds_left, surviving, time_left
from asr_platform.study.ledger import TrialRecord, TrialStatus
from asr_platform.study.run_record import RUN, SPENT

EPOCHS = 9
SECONDS = 12  # of an epoch, as `records.row` has it


def trial(number: int, state: TrialStatus, epochs: int) -> TrialRecord:
    return records.trial(number, state, [0.5] * epochs)


def test_before_the_first_epoch_nothing_is_known() -> None:
    assert seconds_left([], 8, EPOCHS, 2, 100) is None
    assert seconds_left([trial(0, "running", 0), trial(1, "failed", 0)], 8, EPOCHS, 2, 100) is None
    assert in_words(None) == "not known before the first epoch"


def test_one_trial_after_another() -> None:
    """Two of three epochs are left of the first trial, and three more trials."""
    assert seconds_left([trial(0, "running", 1)], 4, 3, 1, SECONDS) == pytest.approx((2 + 3 * 3) * SECONDS)
    assert seconds_left([trial(0, "running", 1)], 1, 3, 1, SECONDS) == pytest.approx(2 * SECONDS)
    done = [trial(number, "complete", 3) for number in range(4)]
    assert seconds_left(done, 4, 3, 1, 12 * SECONDS) == 0
    assert seconds_left(done, 6, 3, 1, 12 * SECONDS) == pytest.approx(2 * 3 * SECONDS)


def test_paused_trials_take_no_time() -> None:
    """They are trained only when somebody asks for it."""
    paused = records.trial(1, "running", [0.5], paused=True)
    assert seconds_left([trial(0, "running", 1), paused], 2, 3, 1, 2 * SECONDS) == pytest.approx(2 * SECONDS)


def test_side_by_side_it_takes_as_long_as_the_longest() -> None:
    """Four slots share 6 trials of 9 epochs; the last trial alone takes its own time, however many slots there are."""
    done = [trial(number, "complete", EPOCHS) for number in range(4)]
    assert seconds_left(done, 10, EPOCHS, 4, EPOCHS * SECONDS) == pytest.approx(6 * EPOCHS / 4 * SECONDS)
    assert seconds_left(done, 5, EPOCHS, 4, EPOCHS * SECONDS) == pytest.approx(EPOCHS * SECONDS)


def test_what_is_stopped_early_makes_it_shorter() -> None:
    """Of six trials four were stopped after three epochs: a new one is expected to last 3 + 6 / 3 epochs."""
    trials = [trial(number, "pruned", 3) for number in range(4)] + [trial(4, "complete", EPOCHS)]
    trials.append(trial(5, "complete", EPOCHS))
    trained = (4 * 3 + 2 * EPOCHS) * SECONDS
    assert seconds_left(trials, 7, EPOCHS, 1, trained) == pytest.approx(5 * SECONDS)


def test_those_that_run_count_for_the_epochs_that_they_have() -> None:
    """Short trials end first: to take the mean of those that have ended would promise too much."""
    running = [trial(number, "running", 6) for number in range(3)]
    stopped = trial(3, "pruned", 3)
    assert surviving([*running, stopped], EPOCHS) == pytest.approx([1, 1, 1] + [0.75] * 7)
    assert surviving([trial(0, "failed", 0), trial(1, "running", 0)], 2) == pytest.approx([0.5, 0.5, 0.5])


def test_trials_are_as_slow_as_they_were() -> None:
    """One of two trials takes thrice as long an epoch: a new one is expected to take twice as long."""
    slow = trial(1, "running", 1)
    slow.curve[0]["train_seconds"] = 3 * SECONDS - 2.0
    left = seconds_left([trial(0, "running", 1), slow], 3, 3, 1, 4 * SECONDS)
    assert left == pytest.approx((2 + 2 * 3 + 3 * 2) * SECONDS)


def test_starts_and_a_busy_machine_are_part_of_it() -> None:
    """So far it took twice as long as its epochs say."""
    done = [trial(0, "complete", EPOCHS)]
    assert seconds_left(done, 2, EPOCHS, 1, 2 * EPOCHS * SECONDS) == pytest.approx(2 * EPOCHS * SECONDS)


@given(
    st.lists(st.tuples(st.sampled_from(["running", "complete", "pruned", "failed"]), st.integers(0, EPOCHS))),
    st.integers(1, 30), st.integers(1, 8), st.floats(0, 1e6),
)  # fmt: skip
def test_it_is_known_once_an_epoch_is_and_never_negative(
    kinds: list[tuple[TrialStatus, int]], asked: int, concurrency: int, elapsed: float
) -> None:
    trials = [trial(n, state, EPOCHS if state == "complete" else epochs) for n, (state, epochs) in enumerate(kinds)]
    left = seconds_left(trials, asked, EPOCHS, concurrency, elapsed)
    assert (left is None) == all(one.epochs == 0 for one in trials)
    assert left is None or 0 <= left < float("inf")
    more = seconds_left(trials, asked + 5, EPOCHS, concurrency, elapsed)
    assert left is None or (more is not None and more >= left)


def test_the_clock_goes_on_between_epochs_and_a_cap_ends_it() -> None:
    about = {"trials": 4, SPENT: SECONDS, RUN: {"concurrency": 1, "last_heartbeat": 1000.0}}
    trials = [trial(0, "running", 1)]
    assert time_left(about, trials, 3, 1000.0) == pytest.approx(11 * SECONDS)
    assert time_left(about, trials, 3, 1030.0) == pytest.approx(11 * SECONDS - 30)
    assert time_left(about, trials, 3, 9999.0) == 0
    capped = {**about, "limits": {"hours": 60 / 3600}}
    assert time_left(capped, trials, 3, 1010.0) == pytest.approx(60 - SECONDS - 10)
    assert time_left({"trials": 4}, trials, 3, 1000.0) is None, "an older platform's sweep"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "less than a minute"), (59, "less than a minute"), (61, "about 1 min"), (569, "about 9 min"),
        (600, "about 10 min"), (12 * 60, "about 10 min"), (13 * 60, "about 15 min"), (57 * 60, "about 55 min"),
        (58 * 60, "about 1 h"), (80 * 60, "about 1.5 h"), (9.8 * 3600, "about 10 h"), (30.4 * 3600, "about 30 h"),
        (72 * 3600, "about 3 days"),
    ],
)  # fmt: skip
def test_it_is_said_with_few_figures(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
