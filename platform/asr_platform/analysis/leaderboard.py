"""Which models are better: a sweep's trials, ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from asr_platform.analysis.bootstrap import ConfidenceInterval
from asr_platform.study.ledger import REMOVED, Ledger, TrialRecord
from trainables.errors import InputError
from trainables.evaluation.metrics import objective, objective_value


def ranked(trials: list[TrialRecord]) -> list[TrialRecord]:
    """Lowest validation CER (or perplexity) of all epochs first; trials without an epoch last, by number."""
    return sorted(trials, key=lambda trial: (objective_value(trial.best) if trial.best else float("inf"), trial.number))


def pareto_front(trials: list[TrialRecord], objectives: Sequence[str]) -> set[int]:
    """Numbers of the trials at whose best epoch no other is as good in every objective and better in one."""
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


def rows(
    trials: list[TrialRecord],
    intervals: Mapping[int, ConfidenceInterval] = MappingProxyType({}),
    objectives: Sequence[str] = ("val_cer",),
) -> list[dict[str, Any]]:
    """The leaderboard for machines: one object a trial, best first.

    `val_cer` is a fraction, at the trial's best epoch, and `model` is the model directory of that epoch; both are None
    for a trial that has not finished an epoch. Language models have `val_character_perplexity` in its place. Where
    `model_removed`, the model was not among the best, which alone stay on disk. `val_cer_interval` is the CER's 95%
    interval. `tied` says that the trial cannot be told from the best; of the best, that some cannot be told from it.
    Both are None without the trial's errors on record. Where there are several objectives, `pareto` says whether the
    trial is on their front, and they are all there.
    """
    front = pareto_front(trials, objectives)
    measured = [name for name in objectives if name not in ("val_cer", "parameters")]
    key = next((objective(trial.best) for trial in trials if trial.best), "val_cer")
    return [
        {
            "trial": trial.number,
            "state": trial.state,
            key: objective_value(trial.best) if trial.best else None,
            "val_cer_interval": list(confidence.interval) if confidence else None,
            "tied": confidence.tied if confidence else None,
            "parameters": trial.about.get("parameters"),
            **{name: (trial.best or {}).get(name) for name in measured},
            **({"pareto": trial.number in front} if len(objectives) > 1 else {}),
            "epochs": trial.epochs,
            "params": trial.params,
            "mlflow_run_id": trial.about.get("mlflow_run_id"),
            "model": trial.model,
            "model_removed": bool(trial.about.get(REMOVED)),
        }
        for trial in ranked(trials)
        for confidence in [intervals.get(trial.number)]
    ]


def latest(storage: str, name: str | None) -> str:
    """The sweep asked for, or the one begun last.

    Raises:
        InputError: there is no sweep yet.
    """
    if name is not None:
        return name
    names = Ledger.names(storage)
    if not names:
        raise InputError("no sweep has been run here yet", "Run one: platform sweep SPACE --data DIR.")
    return names[-1]


def find(storage: str, origin: str) -> tuple[str, TrialRecord]:
    """The sweep and the trial that `NAME:TRIAL` means; `NAME` alone means its best trial.

    Raises:
        InputError: there is no such sweep, or no such trial in it.
    """
    name, _, number = origin.partition(":")
    if number and not number.isdigit():
        raise InputError(f"{origin}: {number} is no trial's number", "Give NAME or NAME:TRIAL, such as digits-1:3.")
    return name, pick(Ledger.open(storage, name), int(number) if number else None)


def pick(ledger: Ledger, number: int | None) -> TrialRecord:
    """The trial of that number, or the best one.

    Raises:
        InputError: there is no such trial, or none with a finished epoch.
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
