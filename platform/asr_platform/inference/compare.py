"""Comparison of two models by the recorded errors of their validations, or by their errors on a split."""

from __future__ import annotations

from pathlib import Path

from asr_platform.analysis.comparison import Comparison, Measure
from asr_platform.analysis.leaderboard import find
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.storage.home import Home
from asr_platform.tracking.resolving import IN_MLFLOW, resolve_model
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_files import ERRORS


def compare(home: Path, a: str, b: str, data: Path | None, split: str | None) -> Comparison:
    """Compares two models by their errors in the same utterances.

    Without `data` and `split`, the recorded errors of the models' validations are compared; otherwise both models
    transcribe the split, each decoded as its configuration says.

    Args:
        a, b: a model directory, the name of a model in MLflow (see `resolve_model`), or `NAME:TRIAL` of a sweep in this
            home, where `NAME` alone is the best trial.

    Raises:
        InputError: a model or its errors are missing, or the models' utterances differ.
    """
    if data is not None and split is not None:
        one, other = (_transcribed(home, name, data, split) for name in (a, b))
    elif data is None and split is None:
        one, other = (_recorded(home, name) for name in (a, b))
    else:
        raise InputError("--data and --split go together", "Give both, or neither for the errors kept with the models.")
    _check_pairs(a, b, one, other)
    return Comparison((a, b), one, other, Measure.of(one, other, words=False), Measure.of(one, other, words=True))


def _check_pairs(a: str, b: str, one: UtteranceErrors, other: UtteranceErrors) -> None:
    """Raises InputError unless the errors of the models `a` and `b` are of the same utterances and references."""
    if one.ids != other.ids:
        raise InputError(
            f"{a} and {b} were validated on different utterances (splits {one.split} and {other.split})",
            "Give --data and --split: both models transcribe that.",
        )
    pairs = zip(one.references, other.references, strict=True)
    if apart := [(reference, another) for reference, another in pairs if reference != another]:
        raise InputError(
            f"{a} and {b} are scored against different references: {len(apart)} of {len(one.ids)} differ, such as "
            f"{apart[0][0]!r} and {apart[0][1]!r}",
            "References are normalised as a model's training texts were (--text, --punctuation, --numbers of platform "
            "prepare), so these error rates measure different things. Compare models of equal normalisation, or see "
            "each model's own rates: platform evaluate.",
        )


def _directory(home: Path, name: str) -> Path | None:
    """Model directory for a name; None if the name stands for a trial."""
    return resolve_model(home, name) if name.startswith(IN_MLFLOW) or Path(name).is_dir() else None


def _recorded(home: Path, name: str) -> UtteranceErrors:
    """Recorded errors of the validation that a model is ranked by."""
    if directory := _directory(home, name):
        errors = UtteranceErrors.load(directory / ERRORS)
    else:
        place = Home.existing(home)
        sweep, trial = find(place.studies, name)
        errors = RecordedErrors(place.sweep(sweep)).of(trial)
    if errors is None:
        raise InputError(
            f"{name}: no errors of its validation are kept", "Give --data and --split: both models transcribe that."
        )
    return errors


def _transcribed(home: Path, name: str, data: Path, split: str) -> UtteranceErrors:
    from asr_platform.inference.evaluate import utterance_errors  # torch

    if directory := _directory(home, name):
        return utterance_errors(directory, data, split)
    place = Home.existing(home)
    _, trial = find(place.studies, name)
    if trial.model is None:
        raise InputError(f"{name}: none of its checkpoints is there", "Compare without --data and --split.")
    return utterance_errors(place.whole_model(trial.model), data, split)
