"""Everything that the report shows of a sweep, read from the ledger and the files beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.importances import Importances, importances
from asr_platform.analysis.leaderboard import columns, ranked, ranking_name
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.reporting.plots import CROSS_ATTENTION, PLOTS, SELF_ATTENTION, draw_trial
from asr_platform.storage.home import SWEEP, Home
from asr_platform.study.halving import PROGRESS, Rungs
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.recorded_space import recorded_space
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import ERRORS, UtteranceErrors

CAPTIONS = {
    CROSS_ATTENTION: "Cross-attention: from each output token to the speech",
    SELF_ATTENTION: "Self-attention: from each output token to the tokens before it",
}


@dataclass(frozen=True)
class ReportData:
    """State of a sweep at one moment.

    Args:
        command: the platform command, for hints to copy.
        about: facts about the sweep by key, as the ledger has them.
        done: whether all trials that were asked for have ended.
        running: whether a driver is running the sweep.
        trials: all trials, best first.
        intervals: CER intervals by trial number.
        errors: utterance errors of the best trial; None if they are not on record.
        corpus: the sweep's corpus; None if it is gone, for the reason in `corpus_problem`.
        model: path of the best model; None if it is gone.
        attention: plots of the best model's attention as (PNG, caption).
    """

    name: str
    command: str
    about: Mapping[str, Any]
    space: Space
    objectives: tuple[str, ...]
    done: bool
    running: bool
    trials: list[TrialRecord]
    intervals: Mapping[int, CerInterval]
    importances: Importances
    errors: UtteranceErrors | None
    corpus: Corpus | None
    corpus_problem: str
    model: str | None
    attention: list[tuple[bytes, str]]

    @classmethod
    def gather(cls, home: Home, name: str, command: str = "platform") -> ReportData:
        """Data of a sweep; what has been deleted since is None or empty.

        Raises:
            InputError: there is no such sweep.
        """
        ledger = Ledger.open(home.studies, name)
        about, trials = ledger.about, ranked(ledger.trials())
        recorded = RecordedErrors(home.sweep(name))
        best = next((trial for trial in trials if trial.best), None)
        errors = recorded.of(best) if best else None
        corpus, problem = _corpus(about)
        model = _model(home, name, best, errors)
        return cls(
            name=name,
            command=command,
            about=about,
            space=recorded_space(dict(about)),
            objectives=ledger.objectives,
            done=ledger.done,
            running=home.holder(name).startswith(SWEEP),
            trials=trials,
            intervals=recorded.cer_intervals(trials),
            importances=importances(ledger),
            errors=errors,
            corpus=corpus,
            corpus_problem=problem,
            model=model,
            attention=_attention(best, model),
        )

    @property
    def measured(self) -> list[TrialRecord]:
        """Trials with at least one finished epoch, best first."""
        return [trial for trial in self.trials if trial.best]

    @property
    def best(self) -> TrialRecord | None:
        """Best trial; None before the first finished epoch."""
        return next(iter(self.measured), None)

    @property
    def tied(self) -> list[TrialRecord]:
        """Trials that do not differ significantly from the best, without the best itself."""
        intervals = [(trial, self.intervals.get(trial.number)) for trial in self.trials[1:]]
        return [trial for trial, interval in intervals if interval and interval.tied]

    @property
    def metric(self) -> str:
        """Name of the metric that trials are ranked by."""
        return ranking_name(self.trials)

    @property
    def objective_names(self) -> list[str]:
        """Names of the metrics that the sweep minimises."""
        headings = {column.key: column.heading.replace("\n", " ") for column in columns(self.trials, self.objectives)}
        return [self.metric, *(headings[key] for key in self.objectives[1:])]

    @property
    def transcribes(self) -> bool:
        """Whether the models are recognisers, not language models."""
        return self.space.base.get("model.kind") != "language_model"

    @property
    def rungs(self) -> list[float]:
        """Rungs in the unit of the learning curves' axis (epochs, updates, or hours of audio)."""
        settings = self.space.comparable_settings
        length = float(settings.epochs)
        if settings.asha.unit != "epochs":
            if self.best is None or self.best.best is None:
                return []
            row = self.best.best
            length *= row[PROGRESS[settings.asha.unit]] / row["epoch"]
        return list(Rungs(settings).places(length).values())


def _corpus(about: Mapping[str, Any]) -> tuple[Corpus | None, str]:
    """Corpus of the sweep, or None and the reason."""
    try:
        corpus = Corpus.open(about["corpus"])
    except InputError as error:
        return None, error.problem
    if corpus.hash != about["corpus_hash"]:
        return None, f"{corpus.path}: another corpus by now"
    return corpus, ""


def _model(home: Home, name: str, best: TrialRecord | None, errors: UtteranceErrors | None) -> str | None:
    """Path of the sweep's model directory if it is the best trial's, else of that trial's checkpoint."""
    folder = home.model(name)
    if best and errors and UtteranceErrors.load(folder / ERRORS) == errors:
        return str(folder)
    return best.model if best else None


def _attention(best: TrialRecord | None, model: str | None) -> list[tuple[bytes, str]]:
    """Attention plots from the model directory, or drawn from the best trial's checkpoint."""
    found = _plots(Path(model) / PLOTS) if model else []
    if found or best is None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        draw_trial(best, Path(folder))
        return _plots(Path(folder))


def _plots(folder: Path) -> list[tuple[bytes, str]]:
    paths = ((folder / name, caption) for name, caption in CAPTIONS.items())
    return [(path.read_bytes(), caption) for path, caption in paths if path.is_file()]
