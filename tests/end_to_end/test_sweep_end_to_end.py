"""One small sweep with real Ray, Optuna and MLflow, and everything that is done with its result."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cells
import numpy as np
import optuna
import pytest
import soundfile
import tiny
import yaml
from command import Platform
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from safetensors import safe_open

from asr_platform.analysis.bootstrap import difference
from asr_platform.tracking.resolving import resolve_model
from trainables.config.model import RECOGNISERS
from trainables.config.parsing import flatten
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_directory import read_decoding

# One learns, one cannot, one diverges, in this order; the sampler adds one: a sweep meets all of its endings.
SPACE = """
base:
  model: {d_model: 32, heads: 2, decoder_layers: 1, feed_forward: 48, conv_channels: 16, dropout: 0.0}
  loss: {ctc_weight: 0.3, label_smoothing: 0.0}
  training: {update_seconds: 4.0}
vary:
  optimizer.lr: {choice: [1.0e-2, 1.0e-9, 1.0e+30]}
  model.encoder_layers: {int: [1, 2]}
start:
  - {optimizer.lr: 1.0e-2, model.encoder_layers: 2}
  - {optimizer.lr: 1.0e-9, model.encoder_layers: 1}
  - {optimizer.lr: 1.0e+30, model.encoder_layers: 1}
budget: 100000
trials: 4
epochs: 8
asha: {grace: 2, reduction: 2, plateau: null}
seed: 2
"""
# Of a transcript editor, which joins later.
EDITOR = {
    "pooling": {"window": 1},
    "projector": {"layers": 1},
    "editor": {"d_model": 32, "heads": 2, "layers": 1, "feed_forward": 48, "dropout": 0.0},
}
NAME = "first"
NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "notebook.py"


@pytest.fixture(scope="module")
def corpus(platform: Platform) -> Corpus:
    splits = {"train": tiny.SENTENCES * 4, "dev": tiny.SENTENCES, "test": tiny.SENTENCES[:3]}
    return tiny.write_corpus(platform.folder / "corpus", splits)


@pytest.fixture(scope="module")
def printed(platform: Platform, corpus: Corpus) -> str:
    """What the sweep printed."""
    (platform.folder / "space.yaml").write_text(SPACE)
    return platform.run("sweep", "space.yaml", "--data", corpus.path, "--name", NAME, "--max-concurrent", 1)


@pytest.fixture(scope="module")
def rows(platform: Platform, printed: str) -> list[dict[str, Any]]:
    return platform.leaderboard(NAME)


@pytest.fixture(scope="module")
def runs(platform: Platform, printed: str) -> list[Run]:
    """All MLflow runs of the sweep, the parent among them."""
    client = MlflowClient(f"sqlite:///{platform.home}/mlflow.db")
    return list(client.search_runs([item.experiment_id for item in client.search_experiments()]))


def test_the_leaderboard_has_every_trial_best_first(rows: list[dict[str, Any]]) -> None:
    assert sorted(row["trial"] for row in rows) == [0, 1, 2, 3]
    assert {row["state"] for row in rows} == {"complete", "pruned", "failed"}
    scored = [row["val_cer"] for row in rows if row["val_cer"] is not None]
    assert scored == sorted(scored)
    for row in rows:
        assert set(row) == {
            "trial", "state", "val_cer", "val_cer_interval", "tied", "parameters", "epochs", "params", "mlflow_run_id",
            "model", "model_removed", "note",
        }  # fmt: skip
        assert 0 < row["parameters"] <= 100_000
        assert set(row["params"]) == {"optimizer.lr", "model.encoder_layers"}
        assert (row["state"] == "complete") == (row["epochs"] == 8)
        assert (row["state"] == "failed") == (row["params"]["optimizer.lr"] == 1e30)


def test_the_leaderboard_says_what_cannot_be_told_apart(
    platform: Platform, rows: list[dict[str, Any]], printed: str
) -> None:
    """Each trial's errors are on record, of its best epoch: without an epoch there are none."""
    found: dict[int, UtteranceErrors] = {}
    for row in rows:
        path = platform.home / "sweeps" / NAME / "errors" / f"trial-{row['trial']:04}.json"
        if row["epochs"] == 0:
            assert (path.exists(), row["val_cer_interval"], row["tied"]) == (False, None, None)
            continue
        errors = UtteranceErrors.load(path)
        assert errors is not None and errors.cer == row["val_cer"]
        low, high = row["val_cer_interval"]
        assert low <= row["val_cer"] <= high
        found[row["trial"]] = errors
    best, *others = found
    ties = {row["trial"]: row["tied"] for row in rows if row["trial"] in found}
    expected = {number: difference(found[best], found[number]).tied for number in others}
    assert ties == {best: any(expected.values()), **expected}
    for shown in (printed, platform.run("leaderboard", NAME)):
        assert "interval: 95%" in shown
        assert ("= not significantly different from the best" in shown) == ties[best]


def test_the_terminal_tells_each_event_and_where_to_look(printed: str, rows: list[dict[str, Any]]) -> None:
    assert "Ray dashboard: http://127.0.0.1:" in printed
    for row in rows:
        assert f"trial {row['trial']} started" in printed
        assert f"trial {row['trial']} {row['state']}" in printed
    assert "DivergedError" in printed
    assert f"platform transcribe {Path('mlruns') / 'models' / NAME} FILE.wav" in printed


def test_the_best_model_has_its_decoding_tuned(platform: Platform, printed: str) -> None:
    """Both figures are printed and in the card, and the registered copy has the options too."""
    model = platform.home / "models" / NAME
    own = read_decoding(model)
    assert own is not None and own.tuning is not None and own.tuning.tuned.cer <= own.tuning.greedy.cer
    assert f"decoding:        greedy {own.tuning.greedy}, tuned {own.tuning.tuned}, on 10 utterances of dev" in printed
    assert f"| own | {own.tuning.tuned.cer:.2%} |" in (model / "README.md").read_text()
    registered = resolve_model(platform.home, f"models:/{NAME}@champion")
    assert read_decoding(registered) == own


def test_optuna_tells_the_same(platform: Platform, rows: list[dict[str, Any]]) -> None:
    study = optuna.load_study(storage=f"sqlite:///{platform.home}/studies.db", study_name=NAME)
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    assert {trial.number: names[trial.state.name] for trial in study.trials} == {
        row["trial"]: row["state"] for row in rows
    }
    for row in rows:
        trial = study.trials[row["trial"]]
        assert sorted(trial.intermediate_values) == list(range(1, row["epochs"] + 1))
        if row["state"] == "complete":
            assert trial.value == row["val_cer"]


def test_mlflow_tells_the_same(
    rows: list[dict[str, Any]], runs: list[Run], corpus: Corpus, platform: Platform, printed: str
) -> None:
    (parent,) = [run for run in runs if run.data.tags["kind"] == "sweep"]
    children = {run.info.run_id: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert parent.info.status == "FINISHED"
    assert parent.data.params["corpus_hash"] == corpus.hash
    assert {"git_revision", "version.torch", "version.ray"} <= set(parent.data.tags)
    assert set(children) == {row["mlflow_run_id"] for row in rows}
    client = MlflowClient(f"sqlite:///{platform.home}/mlflow.db")
    for row in rows:
        run = children[row["mlflow_run_id"]]
        assert run.info.status == {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[row["state"]]
        reason = run.data.tags.get("stopped", "")
        assert reason.startswith(("rung at epoch", "chance to beat the best")) == (row["state"] == "pruned")
        assert row["state"] != "pruned" or f"trial {row['trial']} pruned: {reason}" in printed
        assert {key for key, _ in flatten(Config().model_dump())} <= set(run.data.params)
        assert run.data.params["parameters"] == str(row["parameters"])
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "asr/cer_percent")]
        assert sorted(steps) == list(range(1, row["epochs"] + 1))


def test_the_best_model_is_whole_and_learned_something(
    platform: Platform, rows: list[dict[str, Any]], corpus: Corpus
) -> None:
    model = platform.home / "models" / NAME
    assert sorted(path.name for path in model.iterdir()) == [
        "README.md", "checksums.json", "confidence.json", "config.json", "decoding.json", "errors.json",
        "features.json", "model.safetensors", "plots", "tokenizer.model",
    ]  # fmt: skip
    assert {path.name for path in (model / "plots").iterdir()} == {
        "cross_attention.png", "examples.html", "examples.txt", "learning_curves.png", "self_attention.png",
        "sweep.png",
    }  # fmt: skip
    with safe_open(str(model / "model.safetensors"), "pt") as weights:
        assert sum(np.prod(weights.get_slice(key).get_shape()) for key in weights.keys()) == rows[0]["parameters"]  # noqa: SIM118
    words = ("evaluate", model, "--data", corpus.path, "--split", "dev", "--method", "greedy", "--json")
    scores = json.loads(platform.run(*words))
    assert scores["cer"] == pytest.approx(rows[0]["val_cer"], abs=1e-9)
    assert scores["cer"] < 0.5


def test_the_model_transcribes_files_and_writes_a_submission(platform: Platform, printed: str, corpus: Corpus) -> None:
    model = platform.home / "models" / NAME
    write_noise(platform.folder / "noise.wav")
    assert platform.run("transcribe", model, "noise.wav").startswith("noise.wav\t")
    platform.run("submit", model, "--data", corpus.path, "--split", "test", "--out", "submission.csv")
    with (platform.folder / "submission.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0] == ["id", "transcription"]
    assert [row[0] for row in table[1:]] == ["0", "1", "2"]


def test_the_best_model_is_the_champion_of_its_name(
    platform: Platform, printed: str, rows: list[dict[str, Any]], corpus: Corpus
) -> None:
    assert f"in the registry: models:/{NAME}@champion\n" in printed
    client = MlflowClient(f"sqlite:///{platform.home}/mlflow.db")
    champion = client.get_model_version_by_alias(NAME, "champion")
    assert (champion.tags["trial"], float(champion.tags["val_cer"])) == (str(rows[0]["trial"]), rows[0]["val_cer"])
    low, high = rows[0]["val_cer_interval"]
    assert f"| CER | {rows[0]['val_cer']:.2%} | {low:.2%} to {high:.2%} |" in champion.description
    data = ["--data", corpus.path, "--split", "dev"]
    scores = json.loads(platform.run("evaluate", f"models:/{NAME}@champion", *data, "--method", "greedy", "--json"))
    assert scores["cer"] == pytest.approx(rows[0]["val_cer"], abs=1e-9)


def write_noise(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 8000), 8000)


def test_a_finished_sweep_takes_more_trials_of_a_wider_space(platform: Platform, rows: list[dict[str, Any]]) -> None:
    """A transcript editor competes with the earlier trials, which stay what they were, but for lost models."""
    wider = yaml.safe_load(SPACE)
    wider["base"]["model"] |= EDITOR
    wider["vary"] |= {"model.kind": {"choice": list(RECOGNISERS)}, "model.encoder_layers": {"int": [1, 3]}}
    wider["vary"]["optimizer.lr"]["choice"].append(5.0e-3)
    editor = {"model.kind": "transcript_editor", "optimizer.lr": 5.0e-3, "model.encoder_layers": 2}
    wider["start"] += [wider["start"][0], editor]  # proposals 3 and 4; 3 has been the sampler's
    (platform.folder / "wider.yaml").write_text(yaml.safe_dump(wider))
    platform.run("sweep", "--resume", NAME, "wider.yaml", "--trials", 5, "--no-tune-decoding")
    after = {row["trial"]: row for row in platform.leaderboard(NAME)}
    assert sorted(after) == [0, 1, 2, 3, 4]
    for row in rows:
        changed = {key: after[row["trial"]][key] for key in ("model", "model_removed")}
        changed["params"] = {**row["params"], "model.kind": "encoder_decoder"}
        assert after[row["trial"]] == {**row, **changed}
    assert sum(row["model"] is not None for row in after.values()) <= 3
    assert after[4]["params"] == editor and after[4]["epochs"] >= 2
    client = MlflowClient(f"sqlite:///{platform.home}/mlflow.db")
    kinds = [client.get_run(after[number]["mlflow_run_id"]).data.params["model.kind"] for number in (3, 4)]
    assert kinds == list(RECOGNISERS)
    assert platform.run("doctor", NAME).endswith(f"sweep {NAME} is sound\n")


def test_the_best_configuration_trains_on_two_workers(
    platform: Platform, rows: list[dict[str, Any]], corpus: Corpus
) -> None:
    """`train --from` is a sweep of one; two gloo workers begin the curve that one worker drew in the sweep."""
    platform.run("train", "--data", corpus.path, "--from", NAME, "--name", "two", "--workers", 2, "--no-tune-decoding")
    (row,) = platform.leaderboard("two")
    assert (row["state"], row["epochs"]) == ("complete", 8)
    printed = platform.run("logs", "two", 0)
    assert "==> log.txt <==" in printed and "==> log-1.txt <==" in printed and printed.count(" epoch 8: ") == 2
    client = MlflowClient(f"sqlite:///{platform.home}/mlflow.db")
    curves = []
    for run in (rows[0]["mlflow_run_id"], row["mlflow_run_id"]):
        history = client.get_metric_history(run, "train/loss")
        curves.append([metric.value for metric in sorted(history, key=lambda metric: metric.step)])
    assert curves[0][:2] == pytest.approx(curves[1][:2], abs=1e-4)  # later, sums in another order have grown apart


def test_the_best_configurations_are_confirmed(platform: Platform, printed: str, corpus: Corpus) -> None:
    """From two seeds of their own, to the end; the result stays, and what cannot be told apart is said to be so."""
    best = platform.leaderboard(NAME)[0]
    asked = ["confirm", NAME, "--top", 1, "--seeds", 2, "--method", "joint", "--beam", 2]
    (found,) = json.loads(platform.run(*asked, "--json"))
    confirmed = f"{NAME}-confirm-1"
    rows = {row["trial"]: row for row in platform.leaderboard(confirmed)}
    assert sorted(rows) == [0, 1]
    assert [rows[number]["params"] for number in (0, 1)] == [{"training.seed": 1}, {"training.seed": 2}]
    assert {(row["state"], row["epochs"]) for row in rows.values()} == {("complete", best["epochs"])}
    values = [rows[number]["val_cer"] for number in (0, 1)]
    assert (found["trial"], found["values"], found["failed"]) == (best["trial"], values, 0)
    assert found["mean"] == pytest.approx(sum(values) / 2)
    config = json.loads((platform.home / "models" / confirmed / "config.json").read_text())["config"]
    assert config["decoding"]["method"] == "joint"
    assert "Ray dashboard" not in platform.run(*asked), "it is done, and only told again"
    compared = json.loads(platform.run("compare", f"{confirmed}:0", f"{confirmed}:1", "--json"))
    assert {row["tied"] for row in rows.values()} == {compared["cer"]["tied"]}


def test_the_example_notebook_does_the_same(
    platform: Platform, rows: list[dict[str, Any]], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verb of the command line, on this sweep and on one of its own."""
    monkeypatch.chdir(platform.folder)
    monkeypatch.setenv("ASR_PLATFORM_HOME", str(platform.home))
    write_noise(platform.folder / "noise.wav")
    shown = cells.run(NOTEBOOK)
    sizes = shown["Sweep.plan(space, 'corpus', profile=False)['parameters']"]
    assert list(sizes) == ["min", "25%", "50%", "75%", "max"]
    own = platform.leaderboard("notebook")
    board = shown["sweep.leaderboard()"]
    assert [(row["trial"], row["val_cer"], row["model"]) for row in own] == list(
        board[["trial", "val_cer", "model"]].itertuples(index=False, name=None)
    )
    assert set(board.columns) >= {"model.feed_forward", "optimizer.lr", "tied"} and "params" not in board
    assert shown["sweep.best['params']"] == own[0]["params"]
    assert shown["sweep.status()['state']"] == "finished"
    assert shown["sweep.logs(0)"] == platform.run("logs", "notebook", "0")
    assert "Sweep notebook" in shown["sweep.report()"].read_text(encoding="utf-8")
    assert own[0]["state"] == own[1]["state"] == "complete"
    assert shown["sweep.compare(0, 1)['cer']['tied']"] == own[0]["tied"]
    assert shown["sweep.compare(0, 1, data='corpus', split='test')['utterances']"] == 3
    assert shown["earlier.importances()"] == json.loads(platform.run("importances", NAME, "--json"))
    confirmed = platform.run("confirm", NAME, "--top", 1, "--seeds", 2, "--method", "joint", "--beam", 2, "--json")
    assert shown["earlier.confirm(top=1, seeds=2, method='joint', beam=2)"].to_dict("records") == json.loads(confirmed)
    asked = ["--data", corpus.path, "--split", "dev", "--method", "joint", "--beam", 2, "--json"]
    scores = json.loads(platform.run("evaluate", platform.home / "models" / NAME, *asked))
    assert shown["model.evaluate('corpus', 'dev', method='joint', beam=2)"] == scores
    (heard,) = json.loads(platform.run("transcribe", platform.home / "models" / NAME, "noise.wav", "--format", "json"))
    assert shown["model.transcribe(['noise.wav'])"] == shown["model.transcribe(samples, rate)"] == [heard["text"]]
    assert shown["model.transcripts('noise.wav')"] == [heard]
