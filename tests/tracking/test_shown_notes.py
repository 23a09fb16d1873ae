"""The note on a trial and the description of its MLflow run are one text, whoever writes it where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import records
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH
from noted import Noted
from noted import sweep as sweep
from noted import without_note as without_note
from sqlalchemy import event

from asr_platform.study.ledger import Ledger
from asr_platform.study.steering.notes import LONGEST, note_of, set_note, write_note
from asr_platform.tracking.notes import CUT, SHOWN, is_edited, lacks_note, read_notes, split_description
from asr_platform.tuning.doctor import Doctor


def test_a_note_is_shown_at_once_and_a_new_one_replaces_it(sweep: Noted) -> None:
    sweep.annotate("diverges\nafter the warm-up")
    assert sweep.description == f"{sweep.own}\n\n**Note:** diverges\nafter the warm-up"
    sweep.annotate("ž")
    assert sweep.description == f"{sweep.own}\n\n**Note:** ž"
    sweep.annotate("")
    assert sweep.description == sweep.own


def test_what_a_user_has_written_there_is_the_note(sweep: Noted) -> None:
    sweep.edit(f"Mine.\n{sweep.own}\nMine, too.")
    sweep.start_driver()
    assert sweep.note == "Mine.\n\nMine, too."
    assert sweep.description == f"Mine.\n{sweep.own}\nMine, too.", "it stays as it is there"
    sweep.annotate("second")
    assert sweep.description == f"{sweep.own}\n\n**Note:** second"
    sweep.edit(f"{sweep.own}\n\n**Note:** second, edited\r\nthere")
    sweep.start_driver()
    assert sweep.note == "second, edited\nthere"
    sweep.edit("")
    sweep.start_driver()
    assert (sweep.note, sweep.description) == ("", "")


def test_after_changes_in_both_places_the_note_has_both(sweep: Noted) -> None:
    sweep.annotate("first\nof all")
    sweep.edit(f"{sweep.own}\n\n**Note:** first\nof all\nsee the plot")
    sweep.annotate("second")
    assert sweep.note == "second\n\nsee the plot"
    assert sweep.description == f"{sweep.own}\n\n**Note:** second\n\nsee the plot"
    write_note(sweep.home, sweep.ledger, 0, "third")
    sweep.edit("")
    sweep.start_driver()
    assert (sweep.note, sweep.description) == ("third", "**Note:** third"), "what is new outlives a removal"


def test_notes_of_all_trials_are_read_in_one_search(sweep: Noted, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.annotate("first")
    asked: list[str] = []
    for name in ("get_run", "search_runs", "set_tag"):
        method = getattr(MlflowClient, name)
        monkeypatch.setattr(
            MlflowClient,
            name,
            lambda *words, _method=method, **named: (asked.append(_method.__name__), _method(*words, **named))[1],
        )
    read_notes(sweep.home, sweep.ledger, pytest.fail)
    assert asked == ["get_run", "search_runs"], "the sweep's run, and those of the trials"
    sweep.edit("edited")
    asked.clear()
    read_notes(sweep.home, sweep.ledger, pytest.fail)
    assert asked == ["get_run", "search_runs", "get_run"] and sweep.note == "edited"


def test_a_store_that_is_away_is_named(sweep: Noted) -> None:
    said: list[str] = []
    sweep.ledger.note("options", {"tracking_uri": "http://127.0.0.1:9"})
    read_notes(sweep.home, sweep.ledger, said.append)
    sweep.ledger.note("options", {})
    (line,) = said
    assert line.startswith("notes that were written in MLflow may be missing (API request to http://127.0.0.1:9/")


def test_a_ledger_that_cannot_be_written_is_named(sweep: Noted) -> None:
    said: list[str] = []
    sweep.edit("mine")
    read_only = Ledger.open(sweep.home.studies, sweep.ledger.name)
    engine = read_only.study._storage._backend.engine  # type: ignore[attr-defined]
    event.listen(engine, "engine_connect", lambda opened: opened.exec_driver_sql("PRAGMA query_only = ON"))
    read_notes(sweep.home, read_only, said.append)
    (line,) = said
    assert "may be missing" in line and "readonly database" in line and sweep.note == ""
    read_notes(sweep.home, sweep.ledger, pytest.fail)
    assert sweep.note == "mine"


def test_the_doctor_brings_it_into_the_ledger(sweep: Noted) -> None:
    sweep.edit("mine")
    doctor = Doctor(sweep.home, sweep.ledger.name)
    (found,) = [finding for finding in doctor.audit() if finding.kind == "note"]
    assert (found.trial, found.sound) == (0, True)
    doctor.repair([found])
    assert sweep.note == "mine" and not [finding for finding in doctor.audit() if finding.kind == "note"]


@pytest.mark.parametrize("earlier", [False, True])
def test_values_of_keys_that_the_space_no_longer_varies_are_not_the_note(sweep: Noted, earlier: bool) -> None:
    params = sweep.ledger.trial(0).params
    if earlier:  # then the text of the values was not recorded
        sweep.ledger.describe(0, SHOWN, {})
    sweep.ledger.widen(records.space(), Path("/"), {0: dict(list(params.items())[:1])})
    sweep.start_driver()
    assert sweep.note == ""
    sweep.edit(f"{sweep.own}\n\nmine")
    sweep.start_driver()
    sweep.ledger.widen(records.space(), Path("/"), {0: params})
    assert sweep.note == "mine"


OWN = "optimizer.lr **0.001**, model.kind **ctc**"


@pytest.mark.parametrize(("description", "values", "note"), [
    (f"{OWN}\r\n\r\n**Note:** a\r\nb", OWN, "a\nb"),
    (f"{OWN}\n\n**Note:** ", OWN, ""),
    (f"{OWN}\n\n**Note:**\nmine", OWN, "mine"),
    (f"{OWN} is **Note:** mine", OWN, "is **Note:** mine"),
    (f"above\n{OWN}\nbelow", OWN, "above\n\nbelow"),
    (f"as {OWN}", "", f"as {OWN}"),
    (f"**Note:** {OWN} diverges", "", f"{OWN} diverges"),
    ("optimizer.lr **0.1**", "", "optimizer.lr **0.1**"),
])  # fmt: skip
def test_values_begin_the_description_or_are_a_line(description: str, values: str, note: str) -> None:
    assert split_description(description, OWN) == (values, note)
    if description != note:  # where the values are not recorded, other ones are values, too
        assert split_description(description, None) == (values, note)


def test_the_next_driver_adds_a_note_that_mlflow_lacks(sweep: Noted) -> None:
    said: list[str] = []
    sweep.ledger.note("options", {"tracking_uri": "http://127.0.0.1:9"})
    sweep.annotate("first", said.append)
    sweep.ledger.note("options", {})
    (line,) = said
    assert line.startswith("MLflow cannot be written") and "platform doctor small --repair" in line
    assert note_of(sweep.ledger.trial(0)) == "first" and sweep.description == sweep.own
    sweep.start_driver()
    assert sweep.description == f"{sweep.own}\n\n**Note:** first"


def test_a_writer_that_is_killed_before_the_ledger_knows_shows_a_note_once(
    sweep: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die(self: Ledger, number: int, key: str, value: object) -> None:
        raise KilledError

    for text in ("first", "second"):
        write_note(sweep.home, sweep.ledger, 0, text)
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(Ledger, "describe", die)
            sweep.start_driver()
        assert lacks_note(sweep.ledger.trial(0))
        sweep.start_driver()
        assert not lacks_note(sweep.ledger.trial(0))
        assert sweep.description == f"{sweep.own}\n\n**Note:** {text}"


def test_a_new_run_of_the_trial_has_the_note(sweep: Noted) -> None:
    sweep.annotate("first")
    deleted = sweep.run
    sweep.client.delete_run(deleted)
    sweep.annotate("second")
    sweep.start_driver()
    assert sweep.run != deleted and sweep.description == f"{sweep.own}\n\n**Note:** second"


@pytest.mark.parametrize("text", ["second", ""])
def test_a_note_that_a_kill_left_in_mlflow_alone_is_replaced(
    sweep: Noted, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = Ledger.describe

    def killed(ledger: Ledger, number: int, key: str, value: Any) -> None:
        if key == SHOWN and "next" not in value:
            raise KeyboardInterrupt
        describe(ledger, number, key, value)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Ledger, "describe", killed)
        sweep.annotate("first")
    assert sweep.description.endswith("first")
    sweep.annotate(text)
    assert sweep.description == (f"{sweep.own}\n\n**Note:** {text}" if text else sweep.own)


@pytest.mark.parametrize("step", range(4))
def test_a_kill_loses_nothing_and_repeats_nothing(sweep: Noted, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both places were changed; the writer is killed before each of its writes in turn."""
    sweep.annotate("first")
    write_note(sweep.home, sweep.ledger, 0, "second")
    sweep.edit(f"{sweep.own}\n\n**Note:** first\nsee the plot")
    before = iter(range(step + 1))

    def mortal(write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*words: Any, **named: Any) -> Any:
            if next(before, None) == step:
                raise KeyboardInterrupt
            return write(*words, **named)

        return written

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Ledger, "describe", mortal(Ledger.describe))
        patched.setattr(MlflowClient, "set_tag", mortal(MlflowClient.set_tag))
        sweep.start_driver()
    sweep.start_driver()
    assert sweep.note == "second\n\nsee the plot"
    assert sweep.description == f"{sweep.own}\n\n**Note:** second\n\nsee the plot"
    sweep.annotate("third")
    assert sweep.description == f"{sweep.own}\n\n**Note:** third"


@pytest.mark.parametrize(("text", "kept", "ending"), [
    ("a\r\nb", "a\nb", "**Note:** a\nb"),
    ("\udcff", "\\udcff", "**Note:** \\udcff"),
    ("x" * LONGEST, "x" * LONGEST, "x" * LONGEST),
    ("y" * MAX_TAG_VAL_LENGTH, "y" * MAX_TAG_VAL_LENGTH, f"y{CUT}"),  # a note that came from there
])  # fmt: skip
def test_a_text_that_mlflow_has_otherwise_is_not_edited(sweep: Noted, text: str, kept: str, ending: str) -> None:
    set_note(sweep.ledger, 0, text, 1000)
    for _ in range(2):
        sweep.start_driver()
        trial = sweep.ledger.trial(0)
        assert not lacks_note(trial) and not is_edited(trial, sweep.description)
        assert sweep.note == kept and sweep.description.endswith(ending)
    sweep.annotate("new")
    assert (sweep.note, sweep.description) == ("new", f"{sweep.own}\n\n**Note:** new")


def test_texts_are_compared_and_not_versions(sweep: Noted) -> None:
    """Two writers that do not know of each other give their notes the same version."""
    for text in ("first", "second"):
        set_note(sweep.ledger, 0, text, 7)
        sweep.start_driver()
        assert sweep.description == f"{sweep.own}\n\n**Note:** {text}"


def test_a_note_that_is_written_while_mlflow_is_read_is_kept(sweep: Noted, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.edit(f"{sweep.own}\n\nmine")
    get_run = MlflowClient.get_run

    def overtaken(client: MlflowClient, run: str) -> Any:
        found = get_run(client, run)
        if run == sweep.run:
            write_note(sweep.home, sweep.ledger, 0, "by another")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "get_run", overtaken)
        read_notes(sweep.home, sweep.ledger, pytest.fail)
    assert sweep.note == "by another\n\nmine"
    assert sweep.description == f"{sweep.own}\n\n**Note:** by another\n\nmine"


@pytest.mark.parametrize("heading", ["", "\n\n**Note:** "])
def test_what_earlier_versions_recorded_is_read(sweep: Noted, heading: str) -> None:
    sweep.annotate("first")
    earlier = {"run": sweep.run, "version": 3, "text": f"{heading}first"}
    sweep.ledger.describe(0, SHOWN, earlier)
    trial = sweep.ledger.trial(0)
    assert not lacks_note(trial) and not is_edited(trial, sweep.description)
    sweep.edit(f"{sweep.own}\n\n**Note:** mine")
    sweep.start_driver()
    assert sweep.note == "mine"
    sweep.ledger.describe(0, SHOWN, {**earlier, "next": f"{heading}mine"})
    sweep.annotate("second")
    assert (sweep.note, sweep.description) == ("second", f"{sweep.own}\n\n**Note:** second")


def test_lines_that_were_added_are_kept_as_they_are(sweep: Noted) -> None:
    sweep.annotate("a\n\nb")
    write_note(sweep.home, sweep.ledger, 0, "ours")
    sweep.edit(f"{sweep.own}\n\n**Note:** a\n\nb\na\n\n  c\nb")
    sweep.start_driver()
    assert sweep.note == "ours\n\na\n\n  c\nb"
