"""Two models on the same utterances: how they differ, whether the utterances can tell, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_platform.errors_on_record import ErrorsOnRecord
from asr_platform.home import Home
from asr_platform.leaderboard import find
from asr_platform.model_names import IN_MLFLOW, located
from asr_platform.significance import Difference, Interval, difference, error_interval
from trainables.errors import InputError
from trainables.utterance_errors import ERRORS, UtteranceErrors

SHOWN = 10  # utterances that differ most


@dataclass(frozen=True)
class Measure:
    """An error rate of both models with its 95% interval, and the difference between them, A less B."""

    a: float
    a_interval: Interval
    b: float
    b_interval: Interval
    difference: Difference

    @classmethod
    def of(cls, a: UtteranceErrors, b: UtteranceErrors, words: bool) -> Measure:
        one, other = (a.wer, b.wer) if words else (a.cer, b.cer)
        return cls(one, error_interval(a, words), other, error_interval(b, words), difference(a, b, words))

    def as_tree(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "a_interval": self.a_interval,
            "b": self.b,
            "b_interval": self.b_interval,
            "difference": self.difference.value,
            "difference_interval": self.difference.interval,
            "a_better": self.difference.better,
            "tied": self.difference.tied,
        }


@dataclass(frozen=True)
class Comparison:
    """Two models' errors on the same utterances.

    Args:
        names: what the models were called by whoever asked.
    """

    names: tuple[str, str]
    a: UtteranceErrors
    b: UtteranceErrors
    cer: Measure
    wer: Measure

    @property
    def most_different(self) -> list[int]:
        """Places of the utterances in which one model has more errors than the other, those of most more first."""
        apart = [abs(one - other) for one, other in zip(self.a.character_errors, self.b.character_errors, strict=True)]
        places = sorted(range(len(apart)), key=lambda place: (-apart[place], place))
        return [place for place in places[:SHOWN] if apart[place]]

    def as_tree(self) -> dict[str, Any]:
        """For machines; rates are fractions, and `a_better` is the share of resamples that say so."""
        one, other = self.a, self.b
        return {
            "a": self.names[0],
            "b": self.names[1],
            "split": one.split,
            "utterances": len(one.ids),
            "cer": self.cer.as_tree(),
            "wer": self.wer.as_tree(),
            "most_different": [
                {
                    "id": one.ids[place],
                    "reference": one.references[place],
                    "a": one.hypotheses[place],
                    "a_errors": one.character_errors[place],
                    "b": other.hypotheses[place],
                    "b_errors": other.character_errors[place],
                }
                for place in self.most_different
            ],
        }


def compare(home: Path, a: str, b: str, data: Path | None, split: str | None) -> Comparison:
    """Compares two models, each a model directory, one of MLflow's (see `located`), or `NAME:TRIAL` (`NAME`: the best
    one) of a sweep in this home.

    Without `data` and `split`, by the errors of the validations that they are ranked by; else both transcribe the
    split, each as its configuration says.

    Raises:
        InputError: there is no such model, or no errors of it, or they are of different utterances.
    """
    if data is not None and split is not None:
        one, other = (_transcribed(home, name, data, split) for name in (a, b))
    elif data is None and split is None:
        one, other = (_kept(home, name) for name in (a, b))
    else:
        raise InputError("--data and --split go together", "Give both, or neither for the errors kept with the models.")
    if not one.same_utterances(other):
        raise InputError(
            f"{a} and {b} were validated on different utterances (splits {one.split} and {other.split})",
            "Give --data and --split: both models transcribe that.",
        )
    return Comparison((a, b), one, other, Measure.of(one, other, words=False), Measure.of(one, other, words=True))


def _directory(home: Path, name: str) -> Path | None:
    """The model directory of that name; None where it names a trial."""
    return located(home, name) if name.startswith(IN_MLFLOW) or Path(name).is_dir() else None


def _kept(home: Path, name: str) -> UtteranceErrors:
    """The errors of the validation that a model is ranked by."""
    if directory := _directory(home, name):
        errors = UtteranceErrors.load(directory / ERRORS)
    else:
        place = Home.existing(home)
        sweep, trial = find(place.studies, name)
        errors = ErrorsOnRecord(place.sweep(sweep)).of(trial)
    if errors is None:
        raise InputError(
            f"{name}: no errors of its validation are kept", "Give --data and --split: both models transcribe that."
        )
    return errors


def _transcribed(home: Path, name: str, data: Path, split: str) -> UtteranceErrors:
    from asr_platform.using import utterance_errors  # torch

    if directory := _directory(home, name):
        return utterance_errors(directory, data, split)
    _, trial = find(Home.existing(home).studies, name)
    if trial.model is None:
        raise InputError(f"{name}: none of its checkpoints is there", "Compare without --data and --split.")
    return utterance_errors(Path(trial.model), data, split)
