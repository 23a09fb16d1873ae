"""The note on a trial is in the description of its MLflow run, and what a user has written there stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import records
import tiny
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.steering.notes import LONGEST, note_of, write_note
from asr_platform.tracking.notes import SHOWN, annotate, lacks_note, with_note
from asr_platform.tracking.runs import DESCRIPTION
from asr_platform.tracking.store import open_client
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from trainables.data.corpus import Corpus


class Noted:
    """A sweep with one trial, which has a run in a real store."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.home, self.corpus = Home.at(folder), corpus
        about = {"corpus": str(corpus.path), "corpus_hash": corpus.hash}
        self.ledger: Ledger = records.ledger_in(folder, **about)
        records.add(self.ledger, "running")
        self.start_driver()
        self.client = open_client(self.home.store(self.ledger.about).uri)
        self.own = self.description

    def start_driver(self) -> None:
        driver = MLflowCallback(self.home, self.ledger, records.space(), self.corpus, pytest.fail)
        driver.on_sweep_start(self.ledger.trials())

    def annotate(self, text: str, say: Callable[[str], None] = pytest.fail) -> None:
        annotate(self.home, self.ledger, 0, text, say)

    @property
    def run(self) -> str:
        return str(self.ledger.trial(0).about["mlflow_run_id"])

    @property
    def description(self) -> str:
        return str(self.client.get_run(self.run).data.tags[DESCRIPTION])

    def edit(self, text: str) -> None:
        """A user edits the description in MLflow's pages."""
        self.client.set_tag(self.run, DESCRIPTION, text)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Noted:
    folder = tmp_path_factory.mktemp("sweep")
    corpus = tiny.write_corpus(folder / "corpus", {"train": tiny.SENTENCES, "dev": ["A CAB"]})
    return Noted(folder / "mlruns", corpus)


@pytest.fixture(autouse=True)
def without_note(sweep: Noted) -> None:
    sweep.annotate("")
    sweep.edit(sweep.own)


def test_a_note_is_shown_at_once_and_a_new_one_replaces_it(sweep: Noted) -> None:
    sweep.annotate("diverges\nafter the warm-up")
    assert sweep.description == f"{sweep.own}\n\n**Note:** diverges\nafter the warm-up"
    sweep.annotate("ž")
    assert sweep.description == f"{sweep.own}\n\n**Note:** ž"
    sweep.annotate("")
    assert sweep.description == sweep.own


def test_what_a_user_has_written_stays(sweep: Noted) -> None:
    sweep.annotate("first")
    sweep.edit(f"Mine.\n{sweep.description}\nMine, too.")
    sweep.annotate("second")
    assert sweep.description == f"Mine.\n{sweep.own}\nMine, too.\n\n**Note:** second"
    sweep.edit("**Note:** second, edited here")
    sweep.annotate("third")
    assert sweep.description == "**Note:** second, edited here\n\n**Note:** third"
    assert note_of(sweep.ledger.trial(0)) == "third"


def test_a_note_that_a_user_has_removed_there_is_not_added_again(sweep: Noted) -> None:
    sweep.annotate("first")
    sweep.edit("")
    sweep.start_driver()
    assert sweep.description == ""


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


def test_a_note_that_a_kill_left_in_mlflow_alone_is_replaced(sweep: Noted, monkeypatch: pytest.MonkeyPatch) -> None:
    describe = Ledger.describe

    def killed(ledger: Ledger, number: int, key: str, value: Any) -> None:
        if key == SHOWN and "next" not in value:
            raise KeyboardInterrupt
        describe(ledger, number, key, value)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Ledger, "describe", killed)
        sweep.annotate("first")
    assert sweep.description.endswith("first")
    sweep.annotate("second")
    assert sweep.description == f"{sweep.own}\n\n**Note:** second"


@pytest.mark.parametrize("length", [0, MAX_TAG_VAL_LENGTH - 40, MAX_TAG_VAL_LENGTH - 5, MAX_TAG_VAL_LENGTH])
def test_a_long_note_gives_way_to_what_is_there(length: int) -> None:
    found, shown = with_note("m" * length, "x" * LONGEST)
    assert len(found) <= MAX_TAG_VAL_LENGTH and found == "m" * length + shown
    assert shown.endswith("…") if length < MAX_TAG_VAL_LENGTH - 20 else not shown
    assert with_note(found, "", [shown]) == ("m" * length, "")


def test_bytes_that_are_no_text_are_shown_as_escapes() -> None:
    assert with_note("", "\udcff")[0] == "\n\n**Note:** \\udcff"
