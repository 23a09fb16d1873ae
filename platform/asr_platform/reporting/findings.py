"""What a report tells of a sweep, gathered from the ledger and from what lies beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.importances import Importances, importances
from asr_platform.analysis.leaderboard import ranked, ranking_name
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.reporting.figures import Shown
from asr_platform.reporting.plots import CROSS_ATTENTION, PLOTS, SELF_ATTENTION, draw_trial
from asr_platform.storage.home import SWEEP, Home
from asr_platform.study.halving import PROGRESS, Rungs
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.recorded_space import recorded_space
from asr_platform.study.samplers import distributions_of
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import ERRORS, UtteranceErrors

PICTURES = {
    CROSS_ATTENTION: "From the token to say to the speech",
    SELF_ATTENTION: "From the token to say to those already said",
}
NAMES = {"parameters": "parameters", "real_time_factor": "real-time factor"}  # of objectives beside the first


@dataclass(frozen=True)
class Findings:
    """A sweep at one moment.

    Args:
        done: whether all trials that were asked for have ended.
        running: whether a driver is at it.
        trials: best first.
        intervals: intervals and ties, by trial.
        errors: of the best trial's utterances; None where they are not on record.
        corpus: None where it is not to be had any more, and `corpus_problem` says why.
        model: where the best model lies; None where it does not any more.
        attention: pictures of the best model with their captions.
    """

    name: str
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
    def gather(cls, home: Home, name: str) -> Findings:
        """Reads all there is; of what is gone there is nothing.

        Raises:
            InputError: there is no such sweep.
        """
        ledger = Ledger.open(home.studies, name)
        about, trials = ledger.about, ranked(ledger.trials())
        store = RecordedErrors(home.sweep(name))
        best = next((trial for trial in trials if trial.best), None)
        errors = store.of(best) if best else None
        corpus, problem = _corpus(about)
        model = _model(home, name, best, errors)
        return cls(
            name=name,
            about=about,
            space=recorded_space(dict(about)),
            objectives=ledger.objectives,
            done=ledger.done,
            running=home.holder(name).startswith(SWEEP),
            trials=trials,
            intervals=store.cer_intervals(trials),
            importances=importances(ledger),
            errors=errors,
            corpus=corpus,
            corpus_problem=problem,
            model=model,
            attention=_attention(best, model),
        )

    @property
    def best(self) -> TrialRecord | None:
        """The trial that ranks first; None before any has finished an epoch."""
        return next((trial for trial in self.trials if trial.best), None)

    @property
    def measured(self) -> list[TrialRecord]:
        """The trials that have finished an epoch, best first."""
        return [trial for trial in self.trials if trial.best]

    @property
    def tied(self) -> list[TrialRecord]:
        """Those that cannot be told from the best, which is none of them."""
        return [
            trial for trial in self.trials[1:] if (confidence := self.intervals.get(trial.number)) and confidence.tied
        ]

    @property
    def ranked_by(self) -> str:
        """What a trial's rank depends on, for people."""
        return ranking_name(self.trials)

    @property
    def minimised(self) -> list[str]:
        """The objectives, for people."""
        return [self.ranked_by, *(NAMES[name] for name in self.objectives[1:])]

    @property
    def transcribes(self) -> bool:
        """Whether this is about recognisers, and not language models."""
        return self.space.base.get("model.kind") != "language_model"

    @cached_property
    def shown(self) -> Shown:
        """What the figures are drawn of; only where a trial has finished an epoch."""
        return Shown.of(sorted(self.trials, key=lambda trial: trial.number), distributions_of(self.space))

    @property
    def rungs(self) -> list[float]:
        """Where a trial may be stopped: epochs, or hours of audio where the space counts updates or hours."""
        settings = self.space.comparable_settings
        length = float(settings.epochs)
        if settings.asha.unit != "epochs":
            if self.best is None or self.best.best is None:
                return []
            row = self.best.best
            length *= row[PROGRESS[settings.asha.unit]] / row["epoch"]
        return list(Rungs(settings).places(length).values())


def _corpus(about: Mapping[str, Any]) -> tuple[Corpus | None, str]:
    """The corpus that the sweep was run on, or why it is not here."""
    try:
        corpus = Corpus.open(about["corpus"])
    except InputError as error:
        return None, error.problem
    if corpus.hash != about["corpus_hash"]:
        return None, f"{corpus.path}: another corpus by now"
    return corpus, ""


def _model(home: Home, name: str, best: TrialRecord | None, errors: UtteranceErrors | None) -> str | None:
    """The model directory that the sweep left, where it is the best trial's; else that trial's checkpoint."""
    folder = home.model(name)
    if best and errors and UtteranceErrors.load(folder / ERRORS) == errors:
        return str(folder)
    return best.model if best else None


def _attention(best: TrialRecord | None, model: str | None) -> list[tuple[bytes, str]]:
    """The pictures beside the model, or new ones of what the trial's checkpoint keeps."""
    found = _pictures(Path(model) / PLOTS) if model else []
    if found or best is None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        draw_trial(best, Path(folder))
        return _pictures(Path(folder))


def _pictures(folder: Path) -> list[tuple[bytes, str]]:
    present = ((folder / name, caption) for name, caption in PICTURES.items())
    return [(path.read_bytes(), caption) for path, caption in present if path.is_file()]
