"""A sweep whose only trial has a run in a real MLflow store, for tests of the note that both have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import records
import tiny

from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.steering.notes import note_of
from asr_platform.tracking.notes import annotate
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

    @property
    def note(self) -> str:
        return note_of(self.ledger.trial(0))

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
    sweep.edit(sweep.own)
    sweep.start_driver()
    sweep.annotate("")
    assert (sweep.note, sweep.description) == ("", sweep.own)
