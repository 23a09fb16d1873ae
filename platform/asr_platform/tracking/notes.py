"""Notes on trials in MLflow: a note is one text in two places, the ledger and the description of the trial's run.

The driver begins a description with the trial's values, and the note is all the rest of it. What has changed in one
place since the two were last equal goes to the other place. If both have changed, the note becomes the ledger's text,
followed by the lines that MLflow's has in addition. So a text that a user wrote in either place is lost only if a user
replaces or removes it there or in the other place, after it had reached that.

A driver reads all descriptions in one search of runs: as it starts, about once a minute, and as it ends. `read_notes`
does so for other commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.steering.notes import copy_notes, note_of, set_note, version_of, write_note
from asr_platform.tracking.runs import DESCRIPTION, PARENT
from asr_platform.tracking.store import FAILURES, as_texts, is_deleted, one_line, open_client, paged

SHOWN = "mlflow_note"
"""Fact about a trial: when ledger and MLflow were last equal, the run `run` had the note `text`, and the ledger had it
with `version`; `next` is a text that may have been written to MLflow since."""
HEADING = "**Note:** "


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
        say: takes a line for the user if MLflow cannot be read or written.

    Raises:
        LedgerError: the ledger cannot be written.
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
    except FAILURES as error:
        say(f"MLflow cannot be read ({one_line(error)}); notes that were written there may be missing")
    if [note_of(trial) for trial in ledger.trials()] != before:
        copy_notes(home, ledger.name)


def sync_notes(client: MlflowClient, ledger: Ledger, runs: Mapping[str, Mapping[str, str]]) -> None:
    """Brings the notes of trials in MLflow and in the ledger to the same texts.

    Args:
        runs: tags of the trials' runs by id, as they were found just now.

    Raises:
        MlflowException: the store cannot be read or written.
    """
    for trial in ledger.trials():
        tags = runs.get(trial.about.get("mlflow_run_id", ""))
        if tags is not None and (lacks_note(trial) or is_edited(trial, tags.get(DESCRIPTION, ""))):
            sync_note(client, ledger, trial)


def lacks_note(trial: TrialRecord) -> bool:
    """Whether the run of a trial lacks the trial's latest note, or has one that was removed; False without a run."""
    return bool(trial.about.get("mlflow_run_id")) and version_of(trial) != _shown(trial)["version"]


def is_edited(trial: TrialRecord, description: str) -> bool:
    """Whether a user has changed the note in the description of a trial's run since ledger and MLflow were equal."""
    shown = _shown(trial)
    return _parted(description, trial)[1] not in (shown["text"], shown.get("next"))


def sync_note(client: MlflowClient, ledger: Ledger, trial: TrialRecord) -> None:
    """Brings the note of a trial, which has a run, to the same text in the run's description and in the ledger.

    A deleted run is left as it is. Each step is recorded so that it can be repeated after a kill: a text is in the
    ledger before it is taken out of MLflow, and in SHOWN before it is written to MLflow.

    Raises:
        MlflowException: the store cannot be read or written.
    """
    shown = _shown(trial)
    try:
        description = client.get_run(shown["run"]).data.tags.get(DESCRIPTION, "")
        values, theirs = _parted(description, trial)
        ours = note_of(trial)
        note = ours
        if is_edited(trial, description):
            latest = version_of(trial) == shown["version"] and ours == shown["text"]
            note = theirs if latest else _merged(ours, theirs, shown["text"])
        if version_of(ledger.trial(trial.number)) != version_of(trial):
            return  # a user writes at this moment: the next search for notes has both texts
        if note != ours:
            set_note(ledger, trial.number, note, version_of(trial) + 1)
        if note != theirs:
            description = with_note(values, note)
            ledger.describe(trial.number, SHOWN, {**shown, "next": _parted(description, trial)[1]})
            client.set_tag(shown["run"], DESCRIPTION, description)
    except MlflowException as error:
        if not is_deleted(error):
            raise
        return
    version = version_of(trial) + (note != ours)
    text = _parted(description, trial)[1]
    ledger.describe(trial.number, SHOWN, {"run": shown["run"], "version": version, "text": text})


def with_note(values: str, note: str) -> str:
    """A run's description (Markdown): a trial's values, and a note, which is cut where MLflow has no room for it."""
    text = as_texts({"note": f"{HEADING}{note}"})["note"] if note else ""
    description = "\n\n".join(filter(None, (values, text)))
    return description if len(description) <= MAX_TAG_VAL_LENGTH else f"{description[: MAX_TAG_VAL_LENGTH - 1]}…"


def _merged(ours: str, theirs: str, former: str) -> str:
    """The ledger's note, followed by the lines that MLflow's has, but neither the ledger's nor the former one."""
    known = {line.strip() for line in f"{ours}\n{former}".split("\n")}
    added = "\n".join(line for line in theirs.split("\n") if line.strip() not in known)
    return "\n\n".join(filter(None, (ours, added.strip())))


def _parted(description: str, trial: TrialRecord) -> tuple[str, str]:
    """The values of a trial in the description of its run, and the note, which is the rest without its heading."""
    keys = "|".join(map(re.escape, trial.params)) or r"\0"
    value = rf"(?:{keys}) \*\*.*?\*\*"
    found = re.search(rf"{value}(?:, {value})*", description)
    values = found[0] if found else ""
    before, _, after = description.replace("\r\n", "\n").partition(values) if values else ("", "", description)
    rest = "\n\n".join(filter(None, (before.strip(), after.strip())))
    return values, rest.replace(HEADING, "", 1).strip()


def _shown(trial: TrialRecord) -> dict[str, Any]:
    """The fact SHOWN about a trial's present run, also where nothing was shown there yet."""
    run, shown = trial.about.get("mlflow_run_id"), trial.about.get(SHOWN, {})
    if shown.get("run") != run:
        return {"run": run, "version": 0, "text": ""}
    texts = {key: shown[key].strip().removeprefix(HEADING) for key in ("text", "next") if key in shown}
    return {**shown, **texts}  # earlier versions recorded the heading as well
