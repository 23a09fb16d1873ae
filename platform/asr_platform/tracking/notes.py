"""Notes on trials in MLflow: a note is one text in two places, the ledger and the description of the trial's run.

The driver begins a description with the trial's values, and the note is all the rest of it. What has changed in one
place since the two were last equal goes to the other place. If both have changed, the note becomes the ledger's text,
followed by the lines that were added in MLflow. So a text that a user wrote in either place is lost only if a user
replaces or removes it there or in the other place, after it had reached that, or if another process or page writes at
the same moment, between the reading and the writing of a text: then one of the two texts can be lost.

A description holds 8,000 characters, so a note from there may be longer than `LONGEST`, which is the limit of the other
ways to write one: the ledger keeps it whole. What a description has no room for is cut, with the mark CUT, and stays in
the ledger when the description is edited; it goes with the rest of the note when that is removed there.

A driver reads all descriptions in one search of runs: as it starts, at the end of an epoch, but at most once a minute,
and as it ends. `read_notes` does so for other commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.steering.notes import copy_notes, note_of, set_note, version_of, write_note
from asr_platform.tracking.runs import DESCRIPTION, PARENT
from asr_platform.tracking.store import FAILURES, as_texts, is_deleted, one_line, open_client, paged

SHOWN = "mlflow_note"
"""Fact about a trial: when ledger and MLflow were last equal, the ledger had the note `note`, and the run `run` the
description `description`. `values` is the text of the values that the driver wrote there; `next` is a description that
may have been written since."""
HEADING = "**Note:** "
CUT = "… (cut here; the whole note: platform leaderboard --json)"  # where MLflow has no room for the rest of a note
VALUE = r"[a-z0-9_]+(?:\.[a-z0-9_]+)+ \*\*[^*\n]*\*\*"  # in descriptions of earlier versions: a key and its value


def annotate(
    home: Home, ledger: Ledger, number: int, text: str, say: Callable[[str], None], version: int | None = None
) -> None:
    """Replaces the note on a trial of any state, in the ledger and in MLflow; an empty text removes it.

    What a user has written in MLflow since it was last read is added to the note.

    Args:
        say: takes a line for the user if the note is in the ledger, but MLflow cannot be written.
        version: version of the new note; default: one more than that of the old one.

    Raises:
        InputError: there is no such trial, or the text is too long.
        LedgerError: the ledger cannot be written.
    """
    write_note(home, ledger, number, text, version)
    trial = ledger.trial(number)
    if not lacks_note(trial):
        return
    try:
        sync_note(open_client(home.store(ledger.about).uri), ledger, trial)
    except FAILURES as error:
        say(f"MLflow cannot be written ({one_line(error)}); platform doctor {ledger.name} --repair adds the note")


def read_notes(home: Home, ledger: Ledger, say: Callable[[str], None]) -> None:
    """Brings the notes in MLflow and in the ledger of a sweep to the same texts.

    Args:
        say: takes a line for the user if MLflow cannot be read or written, or the ledger cannot be written.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    about = ledger.about
    if not (parent := about.get("mlflow_run_id")):
        return
    before = [note_of(trial) for trial in ledger.trials()]
    try:
        client = open_client(home.store(about).uri)
        found = client.get_run(parent).info
        runs = paged(client.search_runs, [found.experiment_id], f"tags.`{PARENT}` = '{parent}'")
        sync_notes(client, ledger, {run.info.run_id: run.data.tags for run in runs})
    except (*FAILURES, LedgerError) as error:
        say(f"notes that were written in MLflow may be missing ({one_line(error)})")
    if [note_of(trial) for trial in ledger.trials()] != before:
        copy_notes(home, ledger.name)


def sync_notes(client: MlflowClient, ledger: Ledger, runs: Mapping[str, Mapping[str, str]]) -> None:
    """Brings the notes of trials in MLflow and in the ledger to the same texts.

    Args:
        runs: tags of the trials' runs by id, as they were found just now.

    Raises:
        MlflowException: the store cannot be read or written.
        LedgerError: the ledger cannot be read or written.
    """
    for trial in ledger.trials():
        tags = runs.get(trial.about.get("mlflow_run_id", ""))
        if tags is not None and (lacks_note(trial) or is_edited(trial, tags.get(DESCRIPTION, ""))):
            sync_note(client, ledger, trial)


def lacks_note(trial: TrialRecord) -> bool:
    """Whether the run of a trial may lack the trial's latest note, or have a removed one; False without a run."""
    shown = last_equal(trial)
    return bool(shown["run"]) and (note_of(trial) != shown["note"] or "next" in shown)


def is_edited(trial: TrialRecord, description: str) -> bool:
    """Whether a user has changed the note in the description of a trial's run since ledger and MLflow were equal."""
    shown = last_equal(trial)
    known = [shown[key] for key in ("description", "next") if key in shown]
    theirs, *written = [split_description(text, shown["values"])[1] for text in (description, *known)]
    return theirs not in written


def sync_note(client: MlflowClient, ledger: Ledger, trial: TrialRecord) -> None:
    """Brings the note of a trial, which has a run, to the same text in the run's description and in the ledger.

    A deleted run is left as it is. Each step is recorded so that it can be repeated after a kill: a text is in the
    ledger before it is taken out of MLflow, and in SHOWN before it is written to MLflow.

    Raises:
        MlflowException: the store cannot be read or written.
        LedgerError: the ledger cannot be read or written.
    """
    shown = last_equal(trial)
    run, values = shown["run"], shown["values"]
    try:
        description = client.get_run(run).data.tags.get(DESCRIPTION, "")
        found, theirs = split_description(description, values)
        latest = ledger.trial(trial.number)  # another process may have written a note since `trial` was read
        note = ours = note_of(latest)
        if is_edited(trial, description):
            former = split_description(shown["description"], values)[1]
            edited, former = _whole(theirs, former, shown["note"])
            note = edited if ours == shown["note"] else _merged(ours, edited, former)
        if note != ours:
            set_note(ledger, trial.number, note, version_of(latest) + 1)
        following = with_note(found, note)
        if split_description(following, values)[1] != theirs:
            ledger.describe(trial.number, SHOWN, {**shown, "next": following})
            client.set_tag(run, DESCRIPTION, following)
            description = following
    except MlflowException as error:
        if not is_deleted(error):
            raise
        return
    record_equal(ledger, trial.number, run, found or values, note, description)


def record_equal(ledger: Ledger, number: int, run: str, values: str | None, note: str, description: str) -> None:
    """Records in the ledger that a trial's note and the description of its run are equal.

    Args:
        run: id of the run.
        values: text of the trial's values, as the driver has written it; None if it is not known.
        note: the note in the ledger; the description may have it cut or with escapes.
    """
    ledger.describe(number, SHOWN, {"run": run, "values": values, "note": note, "description": description})


def last_equal(trial: TrialRecord) -> dict[str, Any]:
    """The fact SHOWN about a trial's present run, also where nothing was recorded about it yet."""
    run, shown = trial.about.get("mlflow_run_id"), trial.about.get(SHOWN, {})
    if shown.get("run") != run:
        shown = {}
    text = shown.get("text", "")  # earlier versions recorded the note in MLflow alone
    return {"run": run, "values": None, "note": split_description(text, "")[1], "description": text, **shown}


def with_note(values: str, note: str) -> str:
    """A run's description (Markdown): a trial's values, and a note, which is cut where MLflow has no room for it."""
    text = as_texts({"note": f"{HEADING}{note}"})["note"] if note else ""
    description = "\n\n".join(filter(None, (values, text)))
    cut = len(description) > MAX_TAG_VAL_LENGTH
    return f"{description[: MAX_TAG_VAL_LENGTH - len(CUT)]}{CUT}" if cut else description


def split_description(description: str, values: str | None) -> tuple[str, str]:
    """The values of a trial in the description of its run, and the note, which is the rest without its heading.

    Args:
        values: the text of the values, if it is known; otherwise, keys of a configuration with values are taken for
            them. They begin the description or are a line of it; elsewhere, they are words of the note.
    """
    text = description.replace("\r\n", "\n")
    own = f"{VALUE}(?:, {VALUE})*" if values is None else re.escape(values)
    found = re.search(rf"\A(?:{own})|^(?:{own})$", text, re.MULTILINE)
    start, end = found.span() if found else (0, 0)
    rest = "\n\n".join(filter(None, (text[:start].strip(), text[end:].strip())))
    return text[start:end], re.sub(r"^\*\*Note:\*\*\s*", "", rest, count=1, flags=re.MULTILINE).strip()


def _whole(theirs: str, former: str, note: str) -> tuple[str, str]:
    """MLflow's note and its former one with what is cut from them.

    Args:
        note: the note in the ledger when it and MLflow's `former` were equal.
    """
    begun = former.removesuffix(CUT)
    if begun == former or not note.startswith(begun) or not theirs:
        return theirs, former
    rest = note[len(begun) :]
    return theirs.replace(CUT, rest, 1) if CUT in theirs else f"{theirs}\n\n{rest}", note


def _merged(ours: str, theirs: str, former: str) -> str:
    """The ledger's note, followed by the lines that MLflow's has in addition to the former one."""
    before, after = former.split("\n") if former else [], theirs.split("\n")
    changes = SequenceMatcher(None, before, after).get_opcodes()  # `ndiff` needs minutes where all lines differ
    lines = [line for kind, _, _, start, end in changes if kind != "equal" for line in after[start:end]]
    added = "\n".join(lines).strip("\n")
    if ours == theirs or f"\n{ours}".endswith(f"\n{added}"):  # another writer, or one that was killed, has added them
        return ours
    return "\n\n".join(filter(None, (ours, added)))
