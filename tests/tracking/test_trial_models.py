"""Each trial has a model in MLflow, with the trial's searched values and metrics."""

from __future__ import annotations

from pathlib import Path

import babbler
import pytest
import records
from found import Found
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric

from asr_platform.storage.home import Home
from asr_platform.study.ledger import TrialRecord, TrialStatus
from asr_platform.tracking.metrics import METRICS, metric_histories
from asr_platform.tracking.runs import MODEL_ID, Run, Tracker

CER = METRICS["val_cer"]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(Home.at(tmp_path_factory.mktemp("home")).store({}), "tiny-0123")


def models(tracker: Tracker, run: Run) -> list[LoggedModel]:
    """The models of a run, as MLflow has them."""
    return list(tracker.client.search_logged_models([tracker.experiment], f"source_run_id='{run.id}'"))


def histories(tracker: Tracker, run: Run, trial: TrialRecord) -> list[Metric]:
    """All metrics that a run has, in the order of names."""
    names = sorted(metric_histories(trial.curve))
    return [metric for name in names for metric in tracker.client.get_metric_history(run.id, name)]


def begun(tracker: Tracker) -> Run:
    run = tracker.start("trial-0000", {"optimizer.lr": 0.1}, {})
    tracker.start_model(run, {"optimizer.lr": 0.1}, "encoder_decoder")
    return run


@pytest.mark.parametrize("state", ["complete", "pruned", "failed"])
def test_a_model_has_the_values_and_metrics_of_its_trial(tracker: Tracker, state: TrialStatus) -> None:
    """While it is trained, and afterwards."""
    run = begun(tracker)
    tracker.catch_up(run, records.trial(0, "running", [0.9]))
    (model,) = models(tracker, run)
    assert (model.name, model.model_type, model.params) == ("trial-0000", "encoder_decoder", {"optimizer.lr": "0.1"})
    assert model.status == LoggedModelStatus.PENDING
    assert {one.key: one.value for one in model.metrics or []}[CER.best] == 90
    tracker.catch_up(run, records.trial(0, state, [0.9, 0.5, 0.7]))
    (model,) = models(tracker, run)
    assert model.status == LoggedModelStatus.READY
    values = {(one.key, one.step): one.value for one in model.metrics or []}
    assert (values[CER.name, 3], values[CER.best, 3]) == (70, 50)
    (output,) = tracker.client.get_run(run.id).outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, 2)
    history = tracker.client.get_metric_history(run.id, CER.name)
    assert [(one.step, one.value) for one in history] == [(1, 90), (2, 50), (3, 70)], "each is logged once"


def test_a_model_has_the_epoch_that_a_killed_driver_has_logged_for_the_run_alone(tracker: Tracker) -> None:
    """MLflow stores the metrics of a run and those of its model in two transactions; the second one is missing."""
    run, trial = begun(tracker), records.trial(0, "running", [0.9, 0.5])
    tracker.catch_up(run, records.trial(0, "running", [0.9]))
    model_id = run.tags.pop(MODEL_ID)
    tracker.catch_up(run, trial)
    assert tracker.model_lacks(run, CER.name) == set(), "it is not known to have a model"
    run.tags[MODEL_ID] = model_id
    assert tracker.model_lacks(run, CER.name) == {2}
    before = histories(tracker, run, trial)

    tracker.known.clear()
    again = tracker.run(run.id)
    assert again is not None
    tracker.catch_up(again, trial)
    (model,) = models(tracker, run)
    found = {(one.key, one.step): (one.value, one.timestamp) for one in model.metrics or []}
    assert histories(tracker, run, trial) == before, "the run has each metric once, as before"
    assert found == {(one.key, one.step): (one.value, one.timestamp) for one in before}
    assert len(found) == len(before) and tracker.model_lacks(again, CER.name) == set()


def test_a_trial_without_an_epoch_has_no_model_in_the_end(tracker: Tracker) -> None:
    run = begun(tracker)
    tracker.catch_up(run, records.trial(0, "failed"))
    assert [model.status for model in models(tracker, run)] == [LoggedModelStatus.FAILED]


def test_a_killed_driver_leaves_one_model(tracker: Tracker) -> None:
    run = begun(tracker)
    tracker.known.clear()
    again = tracker.run(run.id)
    assert again is not None
    tracker.start_model(again, {"optimizer.lr": 0.1}, "encoder_decoder")
    assert len(models(tracker, run)) == 1


def test_a_discarded_run_takes_its_model_along(tracker: Tracker) -> None:
    run = begun(tracker)
    tracker.discard(run.id, "a test")
    assert models(tracker, run) == []


def test_a_model_that_somebody_has_removed_holds_nothing_up(tracker: Tracker) -> None:
    run = begun(tracker)
    tracker.client.delete_logged_model(models(tracker, run)[0].model_id)
    tracker.catch_up(run, records.trial(0, "complete", [0.9]))
    assert tracker.client.get_run(run.id).info.status == "FINISHED"


def test_a_best_model_is_registered_without_the_run_of_its_trial(tmp_path: Path) -> None:
    found = Found(tmp_path / "mlruns", babbler.write_corpus(tmp_path / "corpus"))
    found.trial(wrong=2)
    found.callback().log_all()
    found.client.delete_run(str(found.ledger.trial(0).about["mlflow_run_id"]))
    assert found.end() is not None and found.client.get_model_version("small", "1").version


def test_the_page_of_the_best_trial_has_the_registered_model(tmp_path: Path) -> None:
    found = Found(tmp_path / "mlruns", babbler.write_corpus(tmp_path / "corpus"))
    found.trial(wrong=3)
    found.trial(wrong=2)
    found.end()
    experiment = found.client.get_run(found.parent).info.experiment_id
    (registered,) = found.client.search_logged_models([experiment], f"source_run_id='{found.parent}'")
    own, best = (str(found.ledger.trial(number).about["mlflow_run_id"]) for number in (0, 1))
    shown = {
        run: [one.model_id for one in found.client.get_run(run).outputs.model_outputs]
        for run in (own, best, found.parent)
    }
    assert {run: registered.model_id in ids for run, ids in shown.items()} == {
        own: False,
        best: True,
        found.parent: True,
    }
    assert len(shown[own]) == 1 and len(shown[best]) == 2
