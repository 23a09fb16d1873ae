"""Notes on trials in MLflow: each is shown in the description of the trial's run.

The ledger has the notes, and they go one way. Descriptions are also edited by users in MLflow's pages, so a description
is read before it is written, and all that is replaced is the former note as it was written there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.steering.notes import note_of, version_of, write_note
from asr_platform.tracking.runs import DESCRIPTION
from asr_platform.tracking.store import FAILURES, as_texts, is_deleted, one_line, open_client

SHOWN = "mlflow_note"
"""Fact about a trial: `version` of the note that the description of the run `run` has, its `text` there, and the `next`
one that is being written."""
HEADING = "\n\n**Note:** "


def annotate(
    home: Home, ledger: Ledger, number: int, text: str, say: Callable[[str], None], version: int | None = None
) -> None:
    """Replaces the note on a trial of any state, in the ledger and in MLflow; an empty text removes it.

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
        show_note(open_client(home.store(ledger.about).uri), ledger, trial)
    except FAILURES as error:
        say(f"MLflow cannot be written ({one_line(error)}); platform doctor {ledger.name} --repair adds the note")


def lacks_note(trial: TrialRecord) -> bool:
    """Whether the run of a trial lacks the trial's latest note, or has one that was removed; False without a run."""
    run = trial.about.get("mlflow_run_id")
    shown = trial.about.get(SHOWN, {})
    return bool(run) and version_of(trial) != (shown.get("version") if shown.get("run") == run else 0)


def show_note(client: MlflowClient, ledger: Ledger, trial: TrialRecord) -> None:
    """Shows the note of a trial, which has a run, in the run's description; a deleted run is left as it is.

    What is going to be written is recorded first: a kill after it leaves nothing in MLflow that would not be replaced.

    Raises:
        MlflowException: the store cannot be read or written.
    """
    run, shown = str(trial.about["mlflow_run_id"]), trial.about.get(SHOWN, {})
    if shown.get("run") != run:
        shown = {"run": run, "version": 0, "text": ""}
    former = [shown.get("next", ""), shown["text"]]
    try:
        found = client.get_run(run).data.tags.get(DESCRIPTION, "")
        description, text = with_note(found, note_of(trial), former)
        if description != found:
            ledger.describe(trial.number, SHOWN, {**shown, "next": text})
            client.set_tag(run, DESCRIPTION, description)
    except MlflowException as error:
        if not is_deleted(error):
            raise
        return
    ledger.describe(trial.number, SHOWN, {"run": run, "version": version_of(trial), "text": text})


def with_note(description: str, note: str, former: Sequence[str] = ()) -> tuple[str, str]:
    """A run's description (Markdown) with a note at its end, and the part of it that shows the note.

    A note for which the store has no room, beside what a user wrote, is cut, or not shown at all.

    Args:
        former: parts that showed former notes; the last place of each is removed, unless a user has edited it.
    """
    rest = description
    for part in filter(None, former):
        before, _, after = rest.rpartition(part)
        rest = before + after
    if not note:
        return rest, ""
    text = as_texts({"note": f"{HEADING}{note}"})["note"]
    if text in rest:
        return rest, text
    room = MAX_TAG_VAL_LENGTH - len(rest)
    if room < len(HEADING) + 2:
        return rest, ""
    if len(text) > room:
        text = text[: room - 1] + "…"
    return rest + text, text
