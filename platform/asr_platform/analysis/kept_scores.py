"""Scores of a model on splits, as `platform evaluate` last found them, kept in the model's directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from asr_platform.analysis.bootstrap import ConfidenceInterval, error_interval
from trainables.data.utterance import trains, validates
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.folders import written_whole
from trainables.inference.model_files import SCORES


@dataclass(frozen=True)
class Score:
    """Error rates of a recogniser on a split, fractions, with 95% intervals.

    Args:
        corpus_hash: hash of the corpus that the split belongs to.
        decoding: decoding options in words.
        condition: what the audio was changed by (`asr_platform.inference.conditions`); None: the split's own features.
    """

    corpus_hash: str
    split: str
    utterances: int
    cer: float
    cer_interval: tuple[float, float]
    wer: float
    wer_interval: tuple[float, float]
    decoding: str
    condition: str | None = None

    @classmethod
    def of(cls, errors: UtteranceErrors, corpus_hash: str, decoding: str, condition: str | None = None) -> Score:
        """The score of the errors in a split; the other arguments are the score's own."""
        cer, wer = error_interval(errors), error_interval(errors, words=True)
        rates = errors.cer, (cer.low, cer.high), errors.wer, (wer.low, wer.high)
        return cls(corpus_hash, errors.split, len(errors.ids), *rates, decoding, condition)

    @property
    def intervals(self) -> tuple[ConfidenceInterval, ConfidenceInterval]:
        """The intervals of CER and WER."""
        return ConfidenceInterval(*self.cer_interval), ConfidenceInterval(*self.wer_interval)

    def __str__(self) -> str:
        cer, wer = self.intervals
        return (
            f"CER {self.cer:.2%} (95% interval {cer}) and WER {self.wer:.2%} ({wer}) "
            f"on the {self.utterances:,} utterances of {self.split}, decoded with {self.decoding}"
        )


def keep_scores(model: Path, scores: Sequence[Score]) -> None:
    """Keeps scores in place of those of the same split and condition, where the directory can be written."""
    new = {_what(one) for one in scores}
    others = [one for one in scores_of(model) if _what(one) not in new]
    with suppress(InputError), written_whole(model / SCORES) as file:
        json.dump([asdict(one) for one in [*others, *scores]], file, indent=2)


def _what(score: Score) -> tuple[str, str, str | None]:
    return score.corpus_hash, score.split, score.condition


def scores_of(model: Path) -> list[Score]:
    """The scores that are kept of a model, the latest last; [] where the file is missing or damaged."""
    try:
        found = json.loads((model / SCORES).read_text(encoding="utf-8"))
        pairs = [{key: tuple(one[key]) for key in ("cer_interval", "wer_interval")} for one in found]
        return [Score(**{**one, **each}) for one, each in zip(found, pairs, strict=True)]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def test_scores(model: Path, corpus_hash: str) -> list[Score]:
    """The scores that are kept of a model on test splits of a corpus."""
    found = [one for one in scores_of(model) if one.corpus_hash == corpus_hash and is_test(one.split)]
    return [one for one in found if one.condition is None]


def condition_scores(model: Path, corpus_hash: str) -> list[Score]:
    """Scores by condition, the unchanged audio first, on the split of a corpus that was scored so last."""
    found = [one for one in scores_of(model) if one.corpus_hash == corpus_hash and one.condition is not None]
    return [one for one in found if one.split == found[-1].split]


def is_test(split: str) -> bool:
    """Whether a split is a test split by its name: neither weights nor the choice of a model depend on it."""
    return not (trains(split) or validates(split))
