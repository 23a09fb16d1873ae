"""Comparison of two models on the same utterances: error rates, significance, and the utterances that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asr_platform.analysis.bootstrap import ConfidenceInterval, Difference, difference, error_interval
from trainables.evaluation.utterance_errors import UtteranceErrors

SHOWN = 10  # utterances with the largest difference


@dataclass(frozen=True)
class Measure:
    """An error rate of models A and B with 95% intervals, and the difference A minus B."""

    a: float
    a_interval: ConfidenceInterval
    b: float
    b_interval: ConfidenceInterval
    difference: Difference

    @classmethod
    def of(cls, a: UtteranceErrors, b: UtteranceErrors, words: bool) -> Measure:
        """CERs of two models, or their WERs if `words`."""
        one, other = (a.wer, b.wer) if words else (a.cer, b.cer)
        return cls(one, error_interval(a, words), other, error_interval(b, words), difference(a, b, words))

    def as_tree(self) -> dict[str, Any]:
        """The measure as JSON; `a_better` is the share of resamples in which A has the lower rate."""
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
        names: names of the models, as given by the caller.
    """

    names: tuple[str, str]
    a: UtteranceErrors
    b: UtteranceErrors
    cer: Measure
    wer: Measure

    @property
    def most_different(self) -> list[int]:
        """Indices of the utterances that differ in their number of errors, the largest difference first."""
        apart = [abs(one - other) for one, other in zip(self.a.character_errors, self.b.character_errors, strict=True)]
        places = sorted(range(len(apart)), key=lambda place: (-apart[place], place))
        return [place for place in places[:SHOWN] if apart[place]]

    def as_tree(self) -> dict[str, Any]:
        """The comparison as JSON; rates are fractions."""
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
