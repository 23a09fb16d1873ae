"""Leaderboard: the trials of a sweep, ranked, with one table of columns for terminal, report and JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from asr_platform.analysis.bootstrap import CerInterval, ConfidenceInterval
from asr_platform.analysis.text import one_line
from asr_platform.storage.database import open_storage
from asr_platform.study.ledger import REMOVED, Ledger, Storage, TrialRecord
from asr_platform.study.steering.notes import NOTE, note_of
from trainables.errors import InputError
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text, objective_value

NO_INTERVALS: Mapping[int, CerInterval] = MappingProxyType({})


class Entry(NamedTuple):
    """A trial's place on the leaderboard.

    Args:
        rank: counted from 1.
        cer: interval of the trial's CER; None if the trial's utterance errors are not recorded.
        on_front: whether the trial is on the Pareto front of several objectives.
    """

    rank: int
    trial: TrialRecord
    cer: CerInterval | None
    on_front: bool

    @property
    def marked_rank(self) -> str:
        """The rank behind `*` (on the Pareto front) and `=` (not significantly different from the best)."""
        return f"{'*' * self.on_front}{'=' * bool(self.cer and self.cer.tied)}{self.rank}"


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Args:
        key: name of the column in JSON.
        value: returns an entry's value for JSON; None if unknown.
        heading: name of the column in tables, with line breaks; empty for columns that only JSON has.
        text: converts a known value to text for tables.
    """

    key: str
    value: Callable[[Entry], Any]
    heading: str = ""
    text: Callable[[Any], str] = str

    @property
    def name(self) -> str:
        """The heading in one line."""
        return self.heading.replace("\n", " ")

    def cell(self, entry: Entry) -> str:
        """An entry's value as text for tables; empty if the value is unknown."""
        value = self.value(entry)
        return "" if value is None else self.text(value)


def columns(
    trials: Sequence[TrialRecord], objectives: Sequence[str] = ("val_cer",), waiting: Collection[int] = frozenset()
) -> list[Column]:
    """Columns of the leaderboard: columns of tables and JSON in this order, then columns of JSON only.

    In JSON, rates are fractions. Metrics are from each trial's best epoch. Tables have notes if a trial has one.

    Args:
        waiting: numbers of trials that no worker trains now; of ended trials, they mean nothing.
    """
    ranking = ranking_metric(trials)
    found = [
        Column("trial", lambda entry: entry.trial.number, "trial"),
        Column(ranking, _metric(ranking), OBJECTIVES[ranking], lambda value: objective_text({ranking: value})),
        Column("val_cer_interval", lambda entry: list(entry.cer.interval) if entry.cer else None, "95%\ninterval",
               lambda bounds: str(ConfidenceInterval(*bounds))),
        Column("parameters", lambda entry: entry.trial.about.get("parameters"), "parameters", "{:,}".format),
    ]  # fmt: skip
    if "real_time_factor" in objectives:
        found.append(Column("real_time_factor", _metric("real_time_factor"), "real-time\nfactor", "{:.4f}".format))
    found += [
        Column("epochs", lambda entry: entry.trial.epochs, "epochs"),
        Column("state", lambda entry: entry.trial.shown_state(entry.trial.number not in waiting), "state"),
        Column(NOTE, lambda entry: note_of(entry.trial) or None, NOTE if any(map(note_of, trials)) else "", one_line),
        # Whether the trial does not differ significantly from the best; for the best, whether any other does not.
        Column("tied", lambda entry: entry.cer.tied if entry.cer else None),
        Column("params", lambda entry: entry.trial.params),
        Column("mlflow_run_id", lambda entry: entry.trial.about.get("mlflow_run_id")),
        Column("model", lambda entry: entry.trial.model),  # the model directory of the best epoch
        Column("model_removed", lambda entry: bool(entry.trial.about.get(REMOVED))),  # by checkpoint retention
    ]
    return found if len(objectives) == 1 else [*found, Column("pareto", lambda entry: entry.on_front)]


def _metric(key: str) -> Callable[[Entry], Any]:
    return lambda entry: (entry.trial.best or {}).get(key)


def entries(
    trials: Sequence[TrialRecord],
    intervals: Mapping[int, CerInterval] = NO_INTERVALS,
    objectives: Sequence[str] = ("val_cer",),
) -> list[Entry]:
    """Entries of the leaderboard, best first.

    Args:
        intervals: CER intervals by trial number.
        objectives: metrics that the sweep minimises; several have a Pareto front.
    """
    front = pareto_front(trials, objectives) if len(objectives) > 1 else set()
    return [
        Entry(rank, trial, intervals.get(trial.number), trial.number in front)
        for rank, trial in enumerate(ranked(trials), start=1)
    ]


def rows(
    trials: Sequence[TrialRecord],
    intervals: Mapping[int, CerInterval] = NO_INTERVALS,
    objectives: Sequence[str] = ("val_cer",),
    waiting: Collection[int] = frozenset(),
) -> list[dict[str, Any]]:
    """The leaderboard as JSON: one object a trial, best first, with the keys of `columns`.

    Args:
        waiting: numbers of trials that no worker trains now; of ended trials, they mean nothing.
    """
    shown = columns(trials, objectives, waiting)
    return [{column.key: column.value(entry) for column in shown} for entry in entries(trials, intervals, objectives)]


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials by their lowest validation CER (or perplexity); trials without a finished epoch come last, by number."""
    return sorted(trials, key=lambda trial: (trial.lowest, trial.number))


def ranking_metric(trials: Sequence[TrialRecord]) -> str:
    """Key of the metric that the trials are ranked by; `val_cer` before the first epoch."""
    return next((objective(trial.best) for trial in trials if trial.best), "val_cer")


def ranking_name(trials: Sequence[TrialRecord]) -> str:
    """Name of the metric that the trials are ranked by, such as `val CER`."""
    return OBJECTIVES[ranking_metric(trials)]


def pareto_front(trials: Sequence[TrialRecord], objectives: Sequence[str]) -> set[int]:
    """Numbers of the trials on the Pareto front, compared by the objectives of their best epochs."""
    points = {trial.number: _point(trial, objectives) for trial in trials if trial.best}
    return {
        number
        for number, point in points.items()
        if not any(
            other != point and all(theirs <= own for theirs, own in zip(other, point, strict=True))
            for other in points.values()
        )
    }


def _point(trial: TrialRecord, objectives: Sequence[str]) -> list[float]:
    assert trial.best is not None
    known = {**trial.best, **trial.about, "val_cer": objective_value(trial.best)}
    return [known.get(name, float("inf")) for name in objectives]


def latest(storage: Storage, name: str | None) -> Ledger:
    """The ledger of the sweep `name`, or if that is None of the sweep that was started last.

    Raises:
        InputError: there is no such sweep, or none yet.
    """
    if name is not None:
        return Ledger.open(storage, name)
    opened, _ = open_storage(storage)  # once: opening takes a fifth of a second
    names = Ledger.names(opened)
    if not names:
        raise InputError("no sweep has been run here yet", "Run one: platform sweep SPACE --data DIR.")
    return Ledger.open(opened, names[-1])


def find(storage: Storage, origin: str) -> tuple[str, TrialRecord]:
    """Name of the sweep and the trial for `NAME:TRIAL`, or for `NAME` its best trial.

    Raises:
        InputError: there is no such sweep or trial.
    """
    name, _, number = origin.partition(":")
    if number and not number.isdigit():
        raise InputError(f"{origin}: {number} is no trial's number", "Give NAME or NAME:TRIAL, such as digits-1:3.")
    return name, pick(Ledger.open(storage, name), int(number) if number else None)


def pick(ledger: Ledger, number: int | None) -> TrialRecord:
    """The trial with this number; None: the best trial.

    Raises:
        InputError: there is no such trial, or no trial has a finished epoch.
    """
    trials = ledger.trials()
    if number is None:
        best = next(iter(ranked(trials)), None)
        if best is None or best.best is None:
            name = ledger.study.study_name
            raise InputError(
                f"no trial of the sweep {name} has finished an epoch", f"Go on with it: platform sweep --resume {name}."
            )
        return best
    if not 0 <= number < len(trials):
        raise InputError(
            f"no trial {number} in the sweep {ledger.study.study_name}", f"It has {len(trials)}, counted from 0."
        )
    return trials[number]
