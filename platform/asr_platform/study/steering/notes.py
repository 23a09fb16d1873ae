"""Notes on trials: text that anybody may write at any time, whether a driver runs or not.

Unlike a request (`requests.py`), a note asks nothing of the driver. So it is one attribute of the sweep's study,
written at once, and a kill leaves the old note or the new one. It belongs to the trial's number: Optuna's ids change
when the ledger is restored from its copies.
"""

from __future__ import annotations

from typing import Any

from asr_platform.storage.home import Home, RunningError
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.ledger_copies import keep_copy
from trainables.errors import InputError

NOTE = "note"  # fact about a trial: `text` and `version`, the number of times that it was written
LONGEST = 5_000  # characters; a run's description in MLflow takes 8,000, with the trial's values


def note_of(trial: TrialRecord) -> str:
    """Text of the note on a trial; empty if there is none."""
    return str(_fact(trial).get("text", ""))


def version_of(trial: TrialRecord) -> int:
    """Number of times that the note on a trial was written."""
    return int(_fact(trial).get("version", 0))


def write_note(home: Home, ledger: Ledger, number: int, text: str, version: int | None = None) -> None:
    """Replaces the note on a trial of any state; an empty text removes it.

    Args:
        version: version of the new note; default: one more than that of the old one.

    Raises:
        InputError: there is no such trial, or the text is too long.
        LedgerError: the ledger cannot be written.
    """
    trials = ledger.trials()
    if not 0 <= number < len(trials):
        raise InputError(f"no trial {number} in the sweep {ledger.name}", f"It has {len(trials)}, counted from 0.")
    if len(text) > LONGEST:
        raise InputError(f"a note of {len(text):,} characters", f"Shorten it to {LONGEST:,}.")
    following = version_of(trials[number]) + 1 if version is None else version
    set_note(ledger, number, text.strip(), following)
    copy_notes(home, ledger.name)


def set_note(ledger: Ledger, number: int, text: str, version: int) -> None:
    """Replaces the note on a trial in the ledger alone: lines end with a newline, undecodable bytes become escapes.

    So MLflow, where others may edit it, shows the text as it is here.
    """
    plain = text.replace("\r\n", "\n").encode(errors="backslashreplace").decode()
    ledger.describe(number, NOTE, {"text": plain, "version": version})


def copy_notes(home: Home, name: str) -> None:
    """Updates the sweep's copy of the ledger, if no driver runs."""
    try:
        with home.lock(name, "note"):
            keep_copy(home, name)
    except RunningError:
        pass  # its driver keeps a copy at its next event


def _fact(trial: TrialRecord) -> dict[str, Any]:
    found: dict[str, Any] = trial.about.get(NOTE) or {}
    return found
