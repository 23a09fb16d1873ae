"""Notes on trials: written at once, by whoever asks, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import records

from asr_platform.analysis.leaderboard import rows
from asr_platform.storage.home import COPY, Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.ledger_copies import restore
from asr_platform.study.steering.notes import LONGEST, note_of, version_of, write_note
from trainables.errors import InputError


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = records.ledger_in(tmp_path)
    records.add(made, "running", [0.5])
    records.add(made, "complete", [0.5] * 9)
    return made


def notes(home: Home) -> list[str]:
    return [note_of(trial) for trial in Ledger.open(home.studies, "small").trials()]


def test_a_trial_of_any_state_has_one_and_a_new_one_replaces_it(ledger: Ledger, tmp_path: Path) -> None:
    home, before = Home(tmp_path), ledger.about
    write_note(home, ledger, 0, "diverges\nafter the warm-up ")
    with home.lock("small"):  # a driver runs
        write_note(home, ledger, 1, "first")
        write_note(home, ledger, 1, "ž")
    assert notes(home) == ["diverges\nafter the warm-up", "ž"]
    assert version_of(ledger.trial(1)) == 2
    assert [row["note"] for row in rows(ledger.trials())] == ["diverges\nafter the warm-up", "ž"]
    write_note(home, ledger, 1, " ")
    assert notes(home)[1] == ""
    assert ledger.about == before, "it is no fact about the sweep"


@pytest.mark.parametrize(("number", "text", "problem"), [
    (2, "late", "no trial 2 in the sweep small"),
    (-1, "early", "no trial -1 in the sweep small"),
    (0, "x" * (LONGEST + 1), "a note of 5,001 characters"),
])  # fmt: skip
def test_what_is_refused_changes_nothing(number: int, text: str, problem: str, ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        write_note(Home(tmp_path), ledger, number, text)
    assert error.value.problem == problem and error.value.remedy
    assert notes(Home(tmp_path)) == ["", ""]


def test_a_ledger_that_is_restored_from_copies_has_it(ledger: Ledger, tmp_path: Path) -> None:
    records.add(records.ledger_in(tmp_path, "later"), "complete", [0.5])
    home = Home(tmp_path)
    for name in ("later", "small"):
        write_note(home, Ledger.open(home.studies, name), 0, f"of {name}")
        assert (home.sweep(name) / COPY).is_file()
    (tmp_path / "studies.db").write_bytes(b"no database")
    assert restore(home)
    assert notes(home) == ["of small", ""]
