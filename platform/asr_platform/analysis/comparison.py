"""Two models on the same utterances: how they differ, whether the utterances can tell, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asr_platform.analysis.bootstrap import Difference, Interval, difference, error_interval
from trainables.evaluation.utterance_errors import UtteranceErrors

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
