"""Audits a sweep: compares MLflow and the files on disk with the ledger, and checks the ledger itself.

MLflow and the files can be repaired from the ledger. Mistakes in the ledger itself are only reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from asr_platform.analysis.leaderboard import ranked
from asr_platform.storage.home import Home, trial_name
from asr_platform.study.ledger import REMOVED, Ledger, TrialRecord
from asr_platform.study.ledger_copies import keep_copy
from asr_platform.study.recorded_space import recorded_space
from asr_platform.study.run_record import STOPPED
from asr_platform.tracking.metrics import METRICS, metric_histories
from asr_platform.tracking.notes import is_edited, lacks_note
from asr_platform.tracking.registry import BestModel, Registry
from asr_platform.tracking.runs import DESCRIPTION, INTERRUPTED, STATUS, Run, Tracker, experiment_of
from asr_platform.tracking.store import FAILURES, one_line
from asr_platform.tuning.best_model import best_of, make_best_model, register_best_model
from asr_platform.tuning.callbacks.mirror import Mirror
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from asr_platform.tuning.callbacks.retention import Retention
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.evaluation.metrics import OBJECTIVES, objective_value
from trainables.inference.language_model import TextModel
from trainables.inference.model_directory import read_info
from trainables.inference.model_files import WEIGHTS
from trainables.inference.recognizer import Recognizer

REMEDIES = {
    "interrupted": "go on with --resume",
    "ledger": "the ledger cannot be changed: leave the trial out",
    "corpus": "put that one back, or begin a new sweep",
    "checkpoint": "it cannot be restored",
    "mlflow": "--repair logs what the ledger has",
    "discard": "--repair deletes the run; its trial, if any, is logged again",
    "disk": "--repair removes it",
    "late": "--repair removes it, or --resume",
    "model": "--repair copies it from the best trial",
    "registry": "--repair registers it",
    "note": "--repair adds it, or --resume",
}
"""Kinds of findings, with what can be done about each."""
SOUND = ("interrupted", "late", "note")
"""Kinds of findings of a sound sweep: it has not ended, a stopped worker wrote a last checkpoint, or a user a note."""
RANKING = {METRICS[key].name for key in OBJECTIVES}  # names in MLflow of the metrics that rank epochs


@dataclass(frozen=True)
class Finding:
    """A finding of an audit.

    Args:
        kind: a key of REMEDIES.
        trial: number of the trial; None if the finding is about the sweep.
        run: id of the MLflow run to delete.
    """

    kind: str
    text: str
    trial: int | None = None
    run: str | None = None

    @property
    def sound(self) -> bool:
        """Whether a sweep with this finding is sound."""
        return self.kind in SOUND

    def __str__(self) -> str:
        where = f"trial {self.trial}: " if self.trial is not None else ""
        return f"{where}{self.text}: {REMEDIES[self.kind]}"

    def as_tree(self) -> dict[str, Any]:
        """The finding as `platform doctor --json` prints it."""
        return {"kind": self.kind, "trial": self.trial, "finding": str(self), "sound": self.sound}


def examine(
    home: Home, name: str, repair: bool, tracking_uri: str | None = None, say: Callable[[str], None] = print
) -> list[Finding]:
    """Audits a sweep; returns what is found, with `repair` what is still found after it.

    Args:
        tracking_uri: address of the MLflow store to audit; None for the sweep's.
        say: takes a line for each repair.

    Raises:
        InputError: there is no such sweep, or its corpus is missing.
        RunningError: another process runs or audits the sweep.
    """
    doctor = Doctor(home, name, tracking_uri)
    with home.lock(name, "doctor"):
        findings = doctor.audit()
        if repair:
            for line in doctor.repair(findings):
                say(line)
            keep_copy(home, name)
            findings = doctor.audit()
    return findings


class Doctor:
    """Audits and repairs one sweep, whose lock must be held: no driver may write meanwhile.

    Attributes:
        corpus: corpus at the recorded path, which may be another than the sweep's.

    Raises:
        InputError: there is no such sweep, or its corpus is missing.
    """

    def __init__(self, home: Home, name: str, tracking_uri: str | None = None) -> None:
        self.home, self.name, self.tracking_uri = home, name, tracking_uri
        self.ledger = Ledger.open(home.studies, name)
        self.space = recorded_space(self.ledger.about)
        self.corpus = Corpus.open(Path(self.ledger.about["corpus"]))
        self.mirror = Mirror(home, name, home.storage, self.ledger.id) if home.storage else None
        self.retention = Retention(self.ledger, home.sweep(name), self.space.settings.keep, mirror=self.mirror)

    def audit(self) -> list[Finding]:
        """All findings: mistakes, and whether the sweep has been interrupted."""
        trials, frozen = self.ledger.trials(), self.ledger.whole()
        findings = [finding for pair in zip(trials, frozen, strict=True) for finding in self._check_record(*pair)]
        findings += [*self._check_progress(trials), *self._check_corpus(trials)]
        try:
            tracker = self._connect()
            findings += [*self._check_mlflow(tracker, trials), *self._check_registry(tracker, trials)]
        except FAILURES as error:
            findings.append(Finding("mlflow", f"MLflow cannot be read ({one_line(error, 400)})"))
        findings += self._check_disk(trials)
        return [*findings, *self._check_model(trials)]

    def repair(self, findings: list[Finding]) -> list[str]:
        """Repairs MLflow and the files from the ledger; returns a line for each repair.

        Nothing is repaired if the corpus is not the sweep's: MLflow's experiment is named after the corpus, and the
        model card describes it.
        """
        done: list[str] = []
        kinds = {finding.kind for finding in findings}
        if "corpus" in kinds:
            return done
        if self.tracking_uri:
            self.ledger.note("options", {**self.ledger.about.get("options", {}), "tracking_uri": self.tracking_uri})
        for run, why in {finding.run: finding.text for finding in findings if finding.run}.items():
            self._connect().discard(run, why)
            done.append(f"discarded the MLflow run {run}: {why}")
        model = None
        if kinds & {"model", "registry"}:
            model = make_best_model(self.home, self.ledger, self.space, self.corpus, done.append)
            done += [f"copied the best model to {model}"] if model else []
        if model or kinds & {"mlflow", "discard", "note"}:
            done += self._log(model)
        if kinds & {"disk", "late"}:
            self.retention.apply()
            done.append("removed checkpoints that nothing needs from the sweep's folder")
        return done

    def _log(self, model: Path | None) -> list[str]:
        """Logs the data that MLflow lacks, closes the sweep's run and registers the model; returns the messages."""
        said: list[str] = []
        mlflow_callback = MLflowCallback(self.home, self.ledger, self.space, self.corpus, said.append)
        mlflow_callback.log_all()
        best = best_of(self.ledger.trials())
        mlflow_callback.end("FINISHED" if self.ledger.done else "KILLED", best)
        if best and model:
            register_best_model(mlflow_callback, self.ledger, best, model, said.append)
        return said or ["brought MLflow up to the ledger"]

    def _connect(self) -> Tracker:
        return Tracker(self.home.store(self.ledger.about, self.tracking_uri), experiment_of(self.corpus))

    @property
    def _ended(self) -> bool:
        """Whether all trials have ended, or the sweep has reached a limit."""
        return self.ledger.done or bool(self.ledger.about.get(STOPPED))

    def _check_progress(self, trials: list[TrialRecord]) -> Iterator[Finding]:
        for trial in trials:
            if trial.state == "running":
                yield Finding("interrupted", f"interrupted after epoch {trial.epochs}", trial.number)
        asked = self.ledger.about["trials"]
        if len(trials) < asked:
            yield Finding("interrupted", f"{len(trials)} of {asked} trials begun")

    def _check_record(self, trial: TrialRecord, frozen: FrozenTrial) -> Iterator[Finding]:
        """Checks a trial in the ledger: its epochs have no gaps, and its value is the best of its epochs."""
        values = frozen.intermediate_values
        if sorted(values) != list(range(1, len(values) + 1)):
            yield Finding("ledger", f"epochs {sorted(values)}", trial.number)
        if values != {row["epoch"]: objective_value(row) for row in trial.curve}:
            yield Finding("ledger", "metrics and values differ", trial.number)
        written = [key for key in frozen.user_attrs if key.startswith("epoch:")]
        if trial.state != "running" and len(written) != len(values):
            yield Finding("ledger", "an epoch that is half recorded", trial.number)
        if trial.state == "complete":
            epochs = self.ledger.about["epochs"]
            if trial.epochs != epochs:
                yield Finding("ledger", f"complete after {trial.epochs} of {epochs} epochs", trial.number)
            best = objective_value(trial.best) if trial.best else None
            if not frozen.values or frozen.values[0] != best:
                yield Finding("ledger", f"value {frozen.values} where the best of its curve is {best}", trial.number)

    def _check_corpus(self, trials: list[TrialRecord]) -> Iterator[Finding]:
        """Checks by hash that the corpus, and the corpora of the trials' models, are the sweep's own."""
        begun = self.ledger.about["corpus_hash"]
        if self.corpus.hash != begun:
            text = (
                f"{self.corpus.path}: its hash is {self.corpus.hash[:12]}, but the sweep began with corpus {begun[:12]}"
            )
            yield Finding("corpus", text)
        for trial in trials:
            with suppress(InputError):  # a damaged model directory
                found = read_info(Path(trial.model)).corpus_hash if trial.model else begun
                if found != begun:
                    text = f"trained on corpus {found[:12]}, but the sweep began with corpus {begun[:12]}"
                    yield Finding("ledger", text, trial.number)

    def _check_mlflow(self, tracker: Tracker, trials: list[TrialRecord]) -> Iterator[Finding]:
        """Checks that each trial has a run with the ledger's metrics and status, and that each run has a trial."""
        claimed = Counter(trial.about.get("mlflow_run_id") for trial in trials)
        parent = tracker.run(self.ledger.about.get("mlflow_run_id"))
        if parent is None and trials:
            yield Finding("mlflow", "the sweep has no MLflow run")
        elif parent and parent.status == "RUNNING" and self.ledger.done:
            yield Finding("mlflow", "the sweep's MLflow run is RUNNING, and all its trials have ended")
        for child in tracker.children(parent.id) if parent else []:
            if child.id not in claimed:
                yield Finding("discard", f"an MLflow run ({child.name}) that no trial has", run=child.id)
        for trial in trials:
            run = tracker.run(trial.about.get("mlflow_run_id"))
            if run is None:
                yield Finding("mlflow", "no MLflow run", trial.number)
            elif claimed[run.id] > 1:
                yield Finding("discard", "its MLflow run is another trial's as well", trial.number, run.id)
            else:
                yield from _check_run(tracker, run, trial)

    def _check_registry(self, tracker: Tracker, trials: list[TrialRecord]) -> Iterator[Finding]:
        """Checks that a sweep that has ended has registered its best model, if the model is still on disk."""
        best, model = best_of(trials), self.home.model(self.name)
        if not (self._ended and best and best is ranked(trials)[0] and model.is_dir()):
            return
        if Registry(tracker.client).lacks(BestModel.of(self.ledger, best, model)):
            yield Finding("registry", f"MLflow's registry does not have its best model as {self.name}")

    def _check_disk(self, trials: list[TrialRecord]) -> Iterator[Finding]:
        if self.mirror:
            self.mirror.sync(None)
        for folder in self.retention.leftovers():
            yield Finding("disk", f"{folder}: of no trial, or half removed")
        for trial in trials:
            if trial.state == "running":
                continue  # its checkpoints may be ahead of the ledger
            named = any(row["checkpoint"] for row in trial.curve)
            superfluous = self.retention.superfluous(trial)
            if named and trial.checkpoint is None and not trial.about.get(REMOVED) and not superfluous:
                yield Finding("checkpoint", "none of the checkpoints that the ledger names is there", trial.number)
            elif trial.model and "://" not in trial.model and not self._has_weights(trial):
                yield Finding("checkpoint", f"{trial.model} has no weights", trial.number)
            for folder in superfluous:
                yield Finding("late", f"{folder.name} is not its best checkpoint", trial.number)

    def _has_weights(self, trial: TrialRecord) -> bool:
        folder = Path(str(trial.model))
        stored = self.mirror.files.get(folder.parent.name, {}) if self.mirror else {}
        return (folder / WEIGHTS).is_file() or f"{folder.name}/{WEIGHTS}" in stored

    def _check_model(self, trials: list[TrialRecord]) -> Iterator[Finding]:
        """Checks that the best model's directory exists and can be loaded, once the sweep has ended."""
        folder = self.home.model(self.name)
        if folder.is_dir():
            try:
                recogniser = read_info(folder).config.model.is_recogniser
                (Recognizer if recogniser else TextModel).load(folder)
            except InputError as error:
                yield Finding("model", f"the model cannot be loaded: {error.problem}")
        elif self._ended and any(trial.model for trial in trials):
            yield Finding("model", f"no model directory {folder}")


def _check_run(tracker: Tracker, run: Run, trial: TrialRecord) -> Iterator[Finding]:
    """Checks that a trial's run has the trial's name and status, and every metric of every epoch once."""
    if run.name != trial_name(trial.number):
        yield Finding("discard", f"its MLflow run is named {run.name}", trial.number, run.id)
        return
    missing: set[int] = set()
    unfinished: set[int] = set()
    expected = metric_histories(trial.curve)
    for name in sorted(expected, key=lambda name: name not in RANKING):
        logged = tracker.history(run.id, name)
        lacking = {epoch for epoch, _ in set(expected[name]) - set(logged)}
        if name in RANKING:
            missing, unfinished = lacking, tracker.model_lacks(run, name)
        elif lacking != missing & {epoch for epoch, _ in expected[name]}:
            yield Finding("discard", f"MLflow has epochs without {name}", trial.number, run.id)
            return
        if len(logged) + len(lacking) != len(expected[name]):
            yield Finding("discard", f"MLflow has {name} of other epochs, or twice", trial.number, run.id)
            return
    if missing:
        yield Finding("mlflow", f"MLflow lacks {len(missing)} of its {trial.epochs} epochs", trial.number)
    if unfinished:
        yield Finding("mlflow", f"MLflow's model lacks {len(unfinished)} of its {trial.epochs} epochs", trial.number)
    if lacks_note(trial):
        yield Finding("mlflow", "MLflow lacks its note", trial.number)
    elif is_edited(trial, run.tags.get(DESCRIPTION, "")):
        yield Finding("note", "the ledger lacks what MLflow has as its note", trial.number)
    closed = trial.state == "running" and run.status == INTERRUPTED
    if run.status != STATUS[trial.state] and not closed:
        yield Finding("mlflow", f"{trial.state}, but its MLflow run is {run.status}", trial.number)
