"""Data that the report shows of a sweep, read from the ledger and the sweep's files."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.error_breakdown import EditCounts, WordBreakdown, by_word, edits
from asr_platform.analysis.importances import Importances, importances
from asr_platform.analysis.kept_scores import Score, is_test, test_scores
from asr_platform.analysis.leaderboard import Column, columns, entries, ranked, ranking_name
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.analysis.text import counted, enumerated, short_value
from asr_platform.reporting.plots import CROSS_ATTENTION, PLOTS, SELF_ATTENTION, draw_trial
from asr_platform.storage.home import SWEEP, Home
from asr_platform.study.allocation.rungs import PROGRESS, Rungs
from asr_platform.study.ledger import WARM_START, Ledger, TrialRecord
from asr_platform.study.provenance import PROVENANCE, provenance
from asr_platform.study.recorded_space import INIT_FROM, recorded_space
from asr_platform.study.run_record import SPENT
from asr_platform.study.spending import HOUR
from asr_platform.study.steering.notes import NOTE, note_of
from search_spaces.distributions import Choice, Float, Variable
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_files import ERRORS

CAPTIONS = {
    CROSS_ATTENTION: "Cross-attention: from each output token to the speech",
    SELF_ATTENTION: "Self-attention: from each output token to the tokens before it",
}
EDITOR_CAPTIONS = {
    CROSS_ATTENTION: "From each text position of the draft to the speech",
    SELF_ATTENTION: "From each text position of the draft to all others",
}
PROMOTED = "what has the highest chance per second of becoming the sweep's best goes next"


@dataclass(frozen=True)
class ReportData:
    """State of a sweep at one moment.

    Args:
        command: the platform command, for hints to copy.
        about: facts about the sweep by key, from the ledger.
        done: whether all trials of the sweep have ended.
        running: whether a driver is running the sweep.
        trials: all trials, best first.
        intervals: CER intervals by trial number.
        errors: utterance errors of the best trial; None if they are not recorded.
        corpus: the sweep's corpus; None if it cannot be opened (`corpus_problem` is the reason).
        model: path of the best model; None if it was deleted.
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
    def gather(cls, home: Home, ledger: Ledger, command: str = "platform") -> ReportData:
        """Reads the data of a sweep; deleted files give None or empty values."""
        name = ledger.name
        about, trials = ledger.about, ranked(ledger.trials())
        recorded = RecordedErrors(home.sweep(name))
        best = next((trial for trial in trials if trial.best), None)
        errors = recorded.of(best) if best else None
        corpus, problem = _corpus(about)
        model, space = _model(home, name, best, errors), recorded_space(dict(about))
        captions = EDITOR_CAPTIONS if _edits(space, best) else CAPTIONS
        return cls(
            name=name,
            command=command,
            about=about,
            space=space,
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
            attention=_attention(best, model, captions),
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
        names = {column.key: column.name for column in columns(self.trials, self.objectives)}
        return [self.metric, *(names[key] for key in self.objectives[1:])]

    @property
    def transcribes(self) -> bool:
        """Whether the models are recognisers, not language models."""
        return self.space.is_recogniser

    @property
    def edits(self) -> bool:
        """Whether the best model is a transcript editor."""
        return _edits(self.space, self.best)

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

    @property
    def varied(self) -> list[tuple[str, str, str, str]]:
        """Searched keys: name, possible values in words, value in the base, value in the best trial."""
        space, rows = self.space, []
        for key, variable in space.vary.items():
            base = short_value(space.value(key, {})) if space.is_active(key, {}) else "not used"
            rows.append((key, _values_text(variable), base))
        if space.fit:
            bounds = [str(bound) for bound in (space.fit.low, space.fit.high) if bound is not None]
            within = f", within {' to '.join(bounds)}" if bounds else ""
            rows.append((space.fit.key, f"computed, to fill the budget{within}", ""))
        return [(*row, value_of(self.best, row[0]) if self.best else "") for row in rows]

    @property
    def search(self) -> list[tuple[str, str]]:
        """Settings of the search, and the time that the sweep took, as (name, value)."""
        settings, about, asha = self.space.settings, self.about, self.space.comparable_settings.asha
        rungs = enumerated(f"{rung:,.4g}" for rung in self.rungs)
        limits = [f"{value:g} {name.replace('_', ' ')}" for name, value in about.get("limits", {}).items() if value]
        spent = about.get(SPENT)
        trained = sum(trial.seconds for trial in self.trials)
        plateau = f"trials that have not been below {asha.plateau or 0:.0%} are not pruned in their first half"
        facts = {
            "budget": f"{settings.budget:,} parameters at most",
            "trials": f"{about['trials']} asked for, {len(self.trials)} begun",
            "length of a trial": counted(settings.epochs, "epoch"),
            "sampler": f"{settings.sampler}, seed {settings.seed}",
            "minimised": enumerated(self.objective_names),
            "promotions": settings.promotions and f"after {enumerated(settings.promotions)} epochs: {PROMOTED}",
            "rungs": rungs and f"{rungs} ({asha.unit}); at each, the best 1/{asha.reduction:g} continue",
            "plateau": plateau if rungs and asha.plateau is not None and self.transcribes else "",
            "start": self.space.start and f"{counted(len(self.space.start), 'configuration')}, tried first",
            "warm start": about.get(WARM_START) and f"{counted(len(about[WARM_START]), 'trial')} of earlier sweeps",
            "limits": enumerated(limits),
            "duration": spent is not None and f"{spent / HOUR:.2f} h",
            "training": f"{trained / HOUR:.2f} h, the sum over all epochs of all trials",
        }
        return [(name, str(value)) for name, value in facts.items() if value]

    @property
    def headings(self) -> list[str]:
        """Headings of the leaderboard."""
        return ["rank", *(column.name for column in self._shown), "why it ended", *([NOTE] if self._noted else [])]

    @property
    def leaderboard(self) -> list[list[str]]:
        """Rows of the leaderboard, with the reason why each trial ended, and notes if a trial has one."""
        shown, board = self._shown, entries(self.trials, self.intervals, self.objectives)
        return [
            [one.marked_rank, *(column.cell(one) for column in shown), one.trial.reason]
            + ([note_of(one.trial)] if self._noted else [])
            for one in board
        ]

    @property
    def _shown(self) -> list[Column]:
        found = columns(self.trials, self.objectives, () if self.running else range(len(self.trials)))
        return [column for column in found if column.heading and column.key != NOTE]  # which is there as a whole

    @property
    def _noted(self) -> bool:
        return any(map(note_of, self.trials))

    @property
    def word_errors(self) -> WordBreakdown | None:
        """Word errors of the best trial; None if its errors are not recorded."""
        return by_word(self.errors) if self.errors else None

    @property
    def character_edits(self) -> EditCounts | None:
        """Edits that the CER of the best trial counts; None if its errors are not recorded."""
        return edits(self.errors) if self.errors else None

    @property
    def test_scores(self) -> list[Score]:
        """Scores of the best model on test splits of the sweep's corpus, from `platform evaluate`."""
        return test_scores(Path(self.model), self.about["corpus_hash"]) if self.model else []

    @property
    def no_errors(self) -> str:
        """Reason why there are no utterance errors."""
        if not self.transcribes:
            return "A language model transcribes nothing, so it makes no such errors."
        return "No errors of the best model are on record."

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Commands that repeat the sweep, its best trial, and the evaluation of its model: (purpose, command line)."""
        about, platform = self.about, self.command
        corpus, options = shlex.quote(str(about["corpus"])), about.get("options", {})
        keys = (
            "max_concurrent", "workers_per_trial", "min_workers", "max_workers", "gpus_per_worker", "accelerator_type"
        )  # fmt: skip
        given = [(key, options[key]) for key in keys if options.get(key) is not None]
        texts = [(key, shlex.quote(value) if isinstance(value, str) else f"{value:g}") for key, value in given]
        flags = "".join(f" --{key.replace('_', '-')} {text}" for key, text in texts)
        sweep = f"{platform} sweep {shlex.quote(f'{self.space.name}.yaml')} --data {corpus} --name {self.name}-again"
        if initial := about.get(INIT_FROM):
            flags += f" --init-from {shlex.quote(initial)}"
        length = f"--trials {about['trials']} --epochs {about['epochs']}"
        found = [("run the sweep again, with the space below as a file", f"{sweep} {length}{flags}")]
        if self.best:
            train = f"{platform} train --from {self.name}:{self.best.number} --data {corpus}"
            found.append(("train the best trial again", train))
        if self.model and self.corpus:
            model = shlex.quote(os.path.relpath(self.model) if "://" not in self.model else self.model)
            own = self.corpus.validation_name(self.space.config(self.best.params if self.best else {}).data)
            tests = [name for name, one in self.corpus.splits.items() if one.characters and is_test(name)]
            purposes = {own: "evaluate the best model"} | {name: f"the report's score on {name}" for name in tests}
            for split, purpose in purposes.items():
                found.append((purpose, f"{platform} evaluate {model} --data {corpus} --split {split}"))
        return found

    @property
    def versions(self) -> list[tuple[str, str]]:
        """Seed, and versions of code and packages at the sweep's start; the current versions if not recorded."""
        found = self.about.get(PROVENANCE) or provenance()
        names = [(key.removeprefix("version.").replace("_", " "), str(value)) for key, value in found.items()]
        return [("seed of the sampler", str(self.space.settings.seed)), *names]

    @property
    def best_config(self) -> str:
        """Whole configuration of the best trial as YAML."""
        assert self.best is not None
        config = self.space.config(self.best.params).model_dump(mode="json")
        return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def value_of(trial: TrialRecord, key: str) -> str:
    """A trial's value of a searched key, as text."""
    return short_value(trial.params[key]) if key in trial.params else "not used"


def keys_of(trials: Iterable[TrialRecord]) -> list[str]:
    """Searched keys that have a value in any of the trials."""
    return list(dict.fromkeys(key for trial in trials for key in trial.params))


def _values_text(variable: Variable) -> str:
    distribution = variable.distribution
    if isinstance(distribution, Choice):
        text = ", ".join(map(short_value, distribution.values))
    else:
        number = "g" if isinstance(distribution, Float) else "d"
        text = f"{distribution.low:{number}} to {distribution.high:{number}}"
    text += ", on a logarithmic scale" * getattr(distribution, "log", False)
    step = getattr(distribution, "step", None)
    steps = f" in steps of {step:g}" if step and step != 1 else ""
    return text + steps + (f"; where {variable.condition}" if variable.when else "")


def _corpus(about: Mapping[str, Any]) -> tuple[Corpus | None, str]:
    try:
        corpus = Corpus.open(about["corpus"])
    except InputError as error:
        return None, error.problem
    if corpus.hash != about["corpus_hash"]:
        return None, f"{corpus.path}: another corpus by now"
    return corpus, ""


def _model(home: Home, name: str, best: TrialRecord | None, errors: UtteranceErrors | None) -> str | None:
    """Path of the sweep's model directory if it has the best trial's model, else of the trial's best checkpoint."""
    folder = home.model(name)
    if best and errors and UtteranceErrors.load(folder / ERRORS) == errors:
        return str(folder)
    return best.model if best else None


def _edits(space: Space, best: TrialRecord | None) -> bool:
    return best is not None and space.config(best.params).model.kind == "transcript_editor"


def _attention(best: TrialRecord | None, model: str | None, captions: Mapping[str, str]) -> list[tuple[bytes, str]]:
    """Attention plots as (PNG, caption), from the model directory or drawn from the best trial's checkpoint."""
    found = _plots(Path(model) / PLOTS, captions) if model else []
    if found or best is None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        draw_trial(best, Path(folder))
        return _plots(Path(folder), captions)


def _plots(folder: Path, captions: Mapping[str, str]) -> list[tuple[bytes, str]]:
    paths = ((folder / name, caption) for name, caption in captions.items())
    return [(path.read_bytes(), caption) for path, caption in paths if path.is_file()]
