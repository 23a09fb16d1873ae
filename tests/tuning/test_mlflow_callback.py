"""MLflow is brought up to the ledger whatever happens to the store, with one message for each outage."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import records
import seen
import tiny
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from asr_platform.analysis.text import short_value
from asr_platform.reporting import plots
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.provenance import write_record
from asr_platform.study.run_record import MLFLOW_VIEW
from asr_platform.tracking.runs import Tracker, experiment_of
from asr_platform.tuning.callbacks import mlflow as mlflow_callback
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from trainables.data.corpus import Corpus

CURVES = f"plots/{plots.LEARNING_CURVES}"
WHOLE = {f"plots/{name}" for name in (
    plots.LEARNING_CURVES, plots.CROSS_ATTENTION, plots.SELF_ATTENTION, plots.PAGE, plots.TEXT,
)}  # fmt: skip


class Sweep:
    """A sweep's ledger, and an MLflow callback with a real store."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.folder, self.corpus = folder, corpus
        self.home = Home.at(folder)
        self.said: list[str] = []
        about = {"corpus": str(corpus.path), "corpus_hash": corpus.hash}
        self.ledger: Ledger = records.ledger_in(folder, **about)
        self.database = folder / "mlflow.db"
        self.mlflow_callback = self.another_driver()

    @property
    def database(self) -> Path:
        return Path(self.home.store(self.ledger.about).uri.removeprefix("sqlite:///"))

    @database.setter
    def database(self, path: Path) -> None:
        self.ledger.note("options", {"tracking_uri": f"sqlite:///{path}"})

    def tracker(self) -> Tracker:
        return Tracker(self.home.store(self.ledger.about), experiment_of(self.corpus))

    def another_driver(self) -> MLflowCallback:
        self.mlflow_callback = MLflowCallback(self.home, self.ledger, records.space(), self.corpus, self.said.append)
        return self.mlflow_callback

    def epoch(self, number: int, epoch: int, cer: float, checkpoint: str | None = None) -> None:
        self.ledger.record(number, {**records.row(epoch, cer), "checkpoint": checkpoint})
        self.mlflow_callback.log_trials(number)

    @contextlib.contextmanager
    def without_store(self) -> Iterator[None]:
        """The store fails at every request within the block."""
        rename = ("ALTER TABLE runs RENAME TO gone", "ALTER TABLE gone RENAME TO runs")
        for number, statement in enumerate(rename):
            with contextlib.closing(sqlite3.connect(self.database)) as connection:
                connection.execute("PRAGMA legacy_alter_table = ON")  # what refers to the table is left as it is
                connection.execute(statement)
                connection.commit()
            if number == 0:
                yield

    def runs(self) -> dict[str, Run]:
        """All runs by name."""
        tracker = self.tracker()
        found = tracker.client.search_runs([tracker.experiment])
        assert len({run.info.run_name for run in found}) == len(found), "no run twice"
        return {run.info.run_name: run for run in found}

    def curve(self, run: Run) -> list[tuple[int, float]]:
        history = self.tracker().client.get_metric_history(run.info.run_id, "asr/cer_percent")
        return [(metric.step, metric.value / 100) for metric in history]

    def view(self, address: str) -> dict[str, Any]:
        """State of the view at an address, as MLflow's pages read it."""
        key = parse_qs(address.partition("?")[2])["viewStateShareKey"][0]
        tags = self.tracker().client.get_experiment(self.tracker().experiment).tags
        state: dict[str, Any] = json.loads(json.loads(tags[f"mlflow.sharedViewState.{key}"])["state"])
        return state

    def artifacts(self, run: Run, folder: str = "plots") -> set[str]:
        return {artifact.path for artifact in self.tracker().client.list_artifacts(run.info.run_id, folder)}

    def table(self, run: Run, name: str) -> list[str]:
        """The hypotheses in a logged table."""
        client = self.tracker().client
        assert {"path": name, "type": "table"} in json.loads(run.data.tags["mlflow.loggedArtifacts"])
        table = json.loads(Path(client.download_artifacts(run.info.run_id, name)).read_text(encoding="utf-8"))
        return [row[table["columns"].index("hypothesis")] for row in table["data"]]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with MLflow's tables, which take seconds to make."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny.write_corpus(tmp_path_factory.mktemp("corpus") / "tiny", {"train": tiny.SENTENCES, "dev": ["A CAB"]})


@pytest.fixture
def sweep(empty_store: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(mlflow_callback, "SLOW", math.inf)  # a busy machine is slow to fail
    shutil.copy(empty_store, tmp_path)
    return Sweep(tmp_path, corpus)


def test_a_sweep_is_shown_as_it_goes(sweep: Sweep) -> None:
    sweep.mlflow_callback.log_all()
    assert sweep.runs()["small"].info.status == "RUNNING"
    number = records.add(sweep.ledger, "running")
    sweep.mlflow_callback.log_trials(number)
    sweep.epoch(number, 1, 0.9)
    shown = sweep.runs()
    trial = shown["trial-0000"]
    assert trial.data.tags["mlflow.parentRunId"] == shown["small"].info.run_id == sweep.ledger.about["mlflow_run_id"]
    assert trial.data.params["optimizer.lr"] and trial.data.params["parameters"]
    assert trial.info.status == "RUNNING"
    assert sweep.curve(trial) == [(1, 0.9)]
    assert sweep.artifacts(trial) == set(), "a trial that goes on has no pictures yet"
    assert sweep.said == []


def test_runs_name_what_they_used(sweep: Sweep) -> None:
    """Runs have the splits as datasets, with the corpus hash and their sizes."""
    sweep.mlflow_callback.log_trials(records.add(sweep.ledger, "running"))
    for run in sweep.runs().values():
        found = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
        assert {context: dataset.name for context, dataset in found.items()} == {
            "train": "tiny/train",
            "dev": "tiny/dev",
        }
        assert all(sweep.corpus.hash.startswith(dataset.digest) for dataset in found.values())
        profile = json.loads(found["train"].profile)
        assert profile["corpus_hash"] == sweep.corpus.hash and profile["utterances"] == len(tiny.SENTENCES)
        assert profile["hours"] == round(sweep.corpus.splits["train"].seconds / 3600, 3)
        assert json.loads(found["dev"].source)["uri"] == str(sweep.corpus.path)


def test_a_trial_tells_its_interval_and_what_it_varied(sweep: Sweep) -> None:
    number = records.add(sweep.ledger, "running")
    sweep.epoch(number, 1, 0.9)
    assert "interval" not in sweep.runs()["trial-0000"].data.tags, "its errors are not on record"
    errors = sweep.mlflow_callback.errors.folder
    errors.mkdir(parents=True)
    records.errors_of([10, 0, 20, 10], epoch=2).save(errors / "trial-0000.json")
    sweep.epoch(number, 2, 0.5)
    tags = sweep.runs()["trial-0000"].data.tags
    assert tags["interval"] == "12.50–87.50%"
    params = sweep.ledger.trial(number).params
    assert tags["mlflow.note.content"] == ", ".join(f"{key} **{short_value(value)}**" for key, value in params.items())
    logged = sweep.runs()["trial-0000"].data.params
    assert {key: logged[key] for key in params} == {key: str(value) for key, value in params.items()}, "all digits"
    assert tags["sweep"] == "small"


def test_the_sweeps_run_has_its_record_and_leads_to_its_trials(sweep: Sweep) -> None:
    plan = sweep.home.path / "plan.json"
    plan.write_text("{}")
    write_record(sweep.home.sweep("small"), records.SPACE, plan)
    mlflow_callback = MLflowCallback(
        sweep.home, sweep.ledger, records.space(), sweep.corpus, sweep.said.append, "http://127.0.0.1:1"
    )
    mlflow_callback.log_all()
    run = sweep.runs()["small"]
    assert {"record/space.yaml", "record/plan.json", "record/packages.txt"} <= sweep.artifacts(run, "record")
    assert run.data.tags["ray_dashboard"] == "http://127.0.0.1:1"
    note = run.data.tags["mlflow.note.content"]
    assert "(http://127.0.0.1:1)" in note and sweep.ledger.about[MLFLOW_VIEW].lstrip("/") in note
    view = sweep.view(sweep.ledger.about[MLFLOW_VIEW])
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    assert {f"params.`{key}`" for key in records.space().vary} <= set(view["selectedColumns"])


def test_a_new_driver_tells_mlflow_only_what_it_does_not_know(sweep: Sweep) -> None:
    """Runs that lack nothing are not asked about one by one, which takes minutes for thousands of trials."""
    numbers = [records.add(sweep.ledger, state, cers) for state, cers in (
        ("complete", [0.9, 0.5, 0.7]), ("failed", []), ("running", [0.9]), ("running", [0.9, 0.5]), ("running", []),
    )]  # fmt: skip
    for number in numbers[:-1]:
        sweep.mlflow_callback.log_trials(number)
    interrupted = sweep.runs()["trial-0002"].info.run_id
    sweep.tracker().client.set_terminated(interrupted, "KILLED")
    sweep.ledger.record(numbers[3], records.row(3, 0.5))
    parent, trials = sweep.ledger.about["mlflow_run_id"], sweep.ledger.trials()
    assert sweep.tracker().lacking(parent, trials) == numbers[2:]
    sweep.tracker().client.delete_run(trials[0].about["mlflow_run_id"])
    assert sweep.tracker().lacking(parent, trials) == [0, *numbers[2:]]
    sweep.another_driver().on_sweep_start(trials)
    assert sweep.tracker().lacking(parent, sweep.ledger.trials()) == [] == sweep.said
    assert sweep.curve(sweep.runs()["trial-0000"]) == [(1, 0.9), (2, 0.5), (3, 0.7)]
    assert sweep.curve(sweep.runs()["trial-0003"]) == [(1, 0.9), (2, 0.5), (3, 0.5)]
    assert sweep.runs()["trial-0002"].info.status == "RUNNING"


def test_a_description_that_a_person_has_written_stays(sweep: Sweep) -> None:
    """The platform's own description is updated, for example with the dashboard's new port."""

    def described(dashboard: str) -> str:
        MLflowCallback(sweep.home, sweep.ledger, records.space(), sweep.corpus, sweep.said.append, dashboard).log_all()
        return str(sweep.runs()["small"].data.tags["mlflow.note.content"])

    assert "http://127.0.0.1:1)" in described("http://127.0.0.1:1")
    assert "http://127.0.0.1:2)" in described("http://127.0.0.1:2")
    sweep.tracker().client.set_tag(sweep.mlflow_callback.ledger.about["mlflow_run_id"], "mlflow.note.content", "mine")
    assert described("http://127.0.0.1:3") == described("http://127.0.0.1:4") == "mine"


def test_a_wider_space_has_a_wider_view(sweep: Sweep) -> None:
    sweep.mlflow_callback.log_all()
    wider = records.space(records.SPACE.replace("vary:", "vary:\n  loss.ctc_weight: {float: [0.1, 0.5]}"))
    MLflowCallback(sweep.home, sweep.ledger, wider, sweep.corpus, sweep.said.append).log_all()
    assert "params.`loss.ctc_weight`" in sweep.view(sweep.ledger.about[MLFLOW_VIEW])["selectedColumns"]


def test_a_trial_that_ends_keeps_its_pictures_and_its_transcripts(sweep: Sweep) -> None:
    number = records.add(sweep.ledger, "running")
    sweep.epoch(number, 1, 0.9, seen.checkpoint(sweep.folder / "1", epoch=1))
    sweep.epoch(number, 2, 0.5, seen.checkpoint(sweep.folder / "2", epoch=2))
    sweep.epoch(number, 3, 0.7, None)
    sweep.ledger.finish(number, "pruned", "rung at epoch 3")
    for _ in range(2):  # the second time adds nothing
        sweep.mlflow_callback.log_trials(number)
        sweep.another_driver().log_all()
    trial = sweep.runs()["trial-0000"]
    assert trial.info.status == "KILLED"
    assert sweep.artifacts(trial) == WHOLE
    assert sweep.table(trial, "examples_epoch_2.json") == [row.hypothesis for row in seen.examples().transcripts]
    assert sweep.curve(trial) == [(1, 0.9), (2, 0.5), (3, 0.7)]


def test_an_interrupted_trial_keeps_what_there_is_and_all_of_it_in_the_end(sweep: Sweep) -> None:
    number, other = records.add(sweep.ledger, "running"), records.add(sweep.ledger, "running")
    sweep.epoch(number, 1, 0.9, seen.checkpoint(sweep.folder / "1", epoch=1))
    sweep.mlflow_callback.log_trials(other)
    sweep.mlflow_callback.end("KILLED", None)
    shown = sweep.runs()
    assert shown["small"].info.status == "KILLED"
    assert shown["trial-0000"].info.status == "KILLED", "nobody writes to it until it goes on"
    assert sweep.artifacts(shown["trial-0000"]) == WHOLE
    assert sweep.artifacts(shown["trial-0001"]) == set(), "it has not finished an epoch"
    assert sweep.artifacts(shown["small"]) == {f"plots/{plots.SWEEP_CURVES}"}

    sweep.another_driver().log_all()
    assert sweep.runs()["trial-0000"].info.status == "RUNNING"
    sweep.epoch(number, 2, 0.5, seen.checkpoint(sweep.folder / "2", epoch=2))
    sweep.ledger.finish(number, "complete")
    sweep.mlflow_callback.log_trials(number)
    sweep.mlflow_callback.end("FINISHED", sweep.ledger.trial(number))
    shown = sweep.runs()
    assert shown["small"].info.status == shown["trial-0000"].info.status == "FINISHED"
    for name in ("examples_epoch_1.json", "examples_epoch_2.json"):
        assert len(sweep.table(shown["trial-0000"], name)) == len(seen.PAIRS)


def test_a_trial_that_never_started_has_a_run_in_the_end(sweep: Sweep) -> None:
    """A trial that was proposed as the sweep stopped."""
    sweep.mlflow_callback.log_all()
    records.add(sweep.ledger, "running")
    sweep.mlflow_callback.end("KILLED", None)
    assert sweep.runs()["trial-0000"].info.status == "KILLED"


def test_a_store_that_goes_away_in_the_middle_is_told_everything_later(sweep: Sweep) -> None:
    sweep.mlflow_callback.log_all()
    first = records.add(sweep.ledger, "running")
    sweep.epoch(first, 1, 0.9)
    with sweep.without_store():
        sweep.epoch(first, 2, 0.5)
        assert len(sweep.said) == 1 and "MLflow cannot be written" in sweep.said[0] and "later" in sweep.said[0]
        sweep.epoch(first, 3, 0.4)
        sweep.ledger.finish(first, "complete")
        sweep.mlflow_callback.log_trials(first)
        second = records.add(sweep.ledger, "running")
        sweep.epoch(second, 1, 0.8)
    assert len(sweep.said) == 1, "told once"
    sweep.epoch(second, 2, 0.6)
    assert sweep.curve(sweep.runs()["trial-0001"]) == [(1, 0.8), (2, 0.6)]
    sweep.ledger.finish(second, "pruned", "rung at epoch 2")
    sweep.mlflow_callback.log_all()
    shown = sweep.runs()
    assert sweep.curve(shown["trial-0000"]) == [(1, 0.9), (2, 0.5), (3, 0.4)]
    assert [shown[f"trial-000{n}"].info.status for n in range(2)] == ["FINISHED", "KILLED"]
    assert all(sweep.artifacts(shown[f"trial-000{n}"]) == {CURVES} for n in range(2))
    assert len(sweep.said) == 1


def test_what_a_store_missed_it_is_told_when_the_sweep_ends(sweep: Sweep) -> None:
    sweep.mlflow_callback.log_all()
    with sweep.without_store():
        number = records.add(sweep.ledger, "complete", [0.9, 0.5])
        sweep.mlflow_callback.log_trials(number)
    sweep.mlflow_callback.end("FINISHED", sweep.ledger.trial(number))
    shown = sweep.runs()
    assert sweep.curve(shown["trial-0000"]) == [(1, 0.9), (2, 0.5)]
    assert shown["trial-0000"].info.status == shown["small"].info.status == "FINISHED"
    assert shown["small"].data.metrics["asr/best_cer_percent"] == 50
    assert len(sweep.said) == 1


def test_each_time_that_the_store_goes_away_is_told(sweep: Sweep) -> None:
    number = records.add(sweep.ledger, "running")
    for epoch in (1, 3):
        with sweep.without_store() if epoch > 1 else contextlib.nullcontext():
            sweep.epoch(number, epoch, 0.5)
        sweep.epoch(number, epoch + 1, 0.5)
    with sweep.without_store():
        sweep.epoch(number, 5, 0.5)
    assert len(sweep.said) == 2
    sweep.mlflow_callback.log_trials(number)
    assert [epoch for epoch, _ in sweep.curve(sweep.runs()["trial-0000"])] == [1, 2, 3, 4, 5]


def test_a_store_that_was_away_from_the_start_is_connected_to_later(sweep: Sweep) -> None:
    place = sweep.folder / "not there yet"
    sweep.database = place / "mlflow.db"
    place.write_text("a file where a folder should be")
    sweep.mlflow_callback.log_all()
    number = records.add(sweep.ledger, "running")
    sweep.epoch(number, 1, 0.9)
    assert len(sweep.said) == 1
    place.unlink()
    place.mkdir()
    sweep.epoch(number, 2, 0.5)
    assert sweep.curve(sweep.runs()["trial-0000"]) == [(1, 0.9), (2, 0.5)]
    assert set(sweep.runs()) == {"small", "trial-0000"}


def test_a_store_that_was_lost_is_filled_anew(sweep: Sweep) -> None:
    sweep.mlflow_callback.log_all()
    for cers in ([0.9, 0.5], [0.8]):
        sweep.mlflow_callback.log_trials(records.add(sweep.ledger, "complete", cers))
    before = sweep.runs()
    sweep.database = sweep.folder / "new.db"
    sweep.another_driver().log_all()
    after = sweep.runs()
    assert set(after) == set(before)
    assert {run.info.run_id for run in after.values()}.isdisjoint(run.info.run_id for run in before.values())
    assert sweep.curve(after["trial-0000"]) == [(1, 0.9), (2, 0.5)]
    assert sweep.artifacts(after["trial-0001"]) == {CURVES}
    assert [trial.about["mlflow_run_id"] for trial in sweep.ledger.trials()] == [
        after[f"trial-000{n}"].info.run_id for n in range(2)
    ]
    assert sweep.said == []


def test_artifacts_that_cannot_be_written_do_not_end_a_sweep(sweep: Sweep) -> None:
    """The trial's end is logged once artifacts can be written."""
    sweep.mlflow_callback.log_all()
    (sweep.folder / "artifacts").write_text("a file where a folder should be")
    number = records.add(sweep.ledger, "running")
    sweep.epoch(number, 1, 0.9)
    sweep.ledger.finish(number, "complete")
    sweep.mlflow_callback.log_trials(number)
    assert len(sweep.said) == 1
    (sweep.folder / "artifacts").unlink()
    sweep.mlflow_callback.log_trials(number)
    trial = sweep.runs()["trial-0000"]
    assert trial.info.status == "FINISHED" and sweep.artifacts(trial) == {CURVES}


def test_runs_that_a_killed_driver_had_begun_are_found_again(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is killed after making a run and before noting its id: for the sweep's run, then for a trial's."""

    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    number = records.add(sweep.ledger, "running", [0.9])
    for write in ("note", "describe"):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(Ledger, write, die)
            sweep.another_driver().log_all()
    begun = {name: run.info.run_id for name, run in sweep.runs().items()}
    assert set(begun) == {"small", "trial-0000"}
    sweep.another_driver().log_all()
    shown = sweep.runs()
    assert {name: run.info.run_id for name, run in shown.items()} == begun
    assert sweep.ledger.trial(number).about["mlflow_run_id"] == begun["trial-0000"]
    assert shown["trial-0000"].data.params["optimizer.lr"] and sweep.curve(shown["trial-0000"]) == [(1, 0.9)]
