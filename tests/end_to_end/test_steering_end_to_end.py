"""A running sweep is steered from other processes, and its driver killed in between."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import tiny
from command import Platform, wait_for
from mlflow.tracking import MlflowClient

from asr_platform import Sweep
from asr_platform.study.ledger import REQUEST, Ledger, TrialRecord
from trainables.data.corpus import Corpus

EPOCHS = 30
SPACE = f"""
base:
  model: {{d_model: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, feed_forward: 48, conv_channels: 16}}
  training: {{batch_seconds: 4.0}}
vary:
  optimizer.lr: {{log: [1.0e-3, 1.0e-2]}}
trials: 2
epochs: {EPOCHS}
asha: {{grace: {EPOCHS}, promotion: null}}
"""


@pytest.fixture(scope="module")
def corpus(platform: Platform) -> Corpus:
    (platform.folder / "space.yaml").write_text(SPACE)
    return tiny.write_corpus(platform.folder / "corpus", {"train": tiny.SENTENCES * 40, "dev": tiny.SENTENCES})


def trials(platform: Platform) -> list[TrialRecord]:
    """The trials in the ledger, which another process is writing; none before the sweep is on record."""
    storage = f"sqlite:///{platform.home}/studies.db"
    if not (platform.home / "studies.db").exists() or "steered" not in Ledger.names(storage):
        return []
    return Ledger.open(storage, "steered").trials()


def has_epochs(platform: Platform, number: int) -> bool:
    found = trials(platform)
    return len(found) > number and found[number].epochs >= 2


def test_a_sweep_is_steered_and_killed(platform: Platform, corpus: Corpus) -> None:
    """The first trial is paused, the second stopped, one is added; after the kill all of it stands and goes on."""
    driver = platform.start(
        "sweep", "space.yaml", "--data", corpus.path, "--name", "steered", "--max-concurrent", 1, "--no-tune-decoding"
    )
    wait_for(lambda: has_epochs(platform, 0), driver)
    assert "trial 0 is paused after epoch" in platform.run("pause", "steered", 0)
    wait_for(lambda: has_epochs(platform, 1), driver)
    sweep = Sweep.open("steered", home=platform.home)  # faster than the command: the trial is short
    assert sweep.change(trials=3, max_hours=1).startswith("3 trials, 2 of them begun; 1 hours")
    assert sweep.stop(1).startswith("trial 1 is stopped after epoch")
    assert re.match(r"trial [23] is added .*; 4 trials", sweep.add({"optimizer": {"lr": 0.005}}))
    wait_for(lambda: any(trial.epochs for trial in trials(platform)[2:]), driver)
    before = trials(platform)
    assert [trial.number for trial in before if trial.paused] == [0]
    driver.kill()
    driver.wait()
    assert "no driver runs" in platform.run("unpause", "steered", 0)
    assert json.loads(platform.run("status", "steered", "--json"))["requests"] == ["unpause 0"]
    platform.run("sweep", "--resume", "steered", "--no-tune-decoding")
    check(platform, before)


def check(platform: Platform, before: list[TrialRecord]) -> None:
    """What was recorded before the kill has not changed, nothing is missing or twice, and all stores agree."""
    after = trials(platform)
    assert [trial.state for trial in after] == ["complete", "pruned", "complete", "complete"]
    assert after[1].reason == "stopped on request"
    assert [trial.params for trial in after if REQUEST in trial.about] == [{"optimizer.lr": 0.005}]
    for earlier, later in zip(before, after, strict=False):
        assert later.curve[: earlier.epochs] == earlier.curve
        assert [row["epoch"] for row in later.curve] == list(range(1, later.epochs + 1))
    assert [trial.epochs for trial in after if trial.state == "complete"] == [EPOCHS] * 3
    client = MlflowClient(f"sqlite:///{platform.home}/mlflow.db")
    runs: list[Any] = [client.get_run(trial.about["mlflow_run_id"]) for trial in after]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FINISHED", "FINISHED"]
    assert runs[1].data.tags["stopped"] == "stopped on request"
    platform.run("doctor", "steered")  # fails unless MLflow, checkpoints and the model agree with the ledger
