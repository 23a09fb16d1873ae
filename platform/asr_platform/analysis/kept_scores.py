"""Scores of a model on splits, as `platform evaluate` last found them, kept in the model's directory."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from asr_platform.analysis.bootstrap import ConfidenceInterval
from trainables.data.utterance import trains, validates
from trainables.errors import InputError
from trainables.folders import written_whole
from trainables.inference.model_files import SCORES


@dataclass(frozen=True)
class Score:
    """Error rates of a recogniser on a split, fractions, with 95% intervals.

    Args:
        corpus_hash: hash of the corpus that the split belongs to.
        decoding: decoding options in words.
    """

    corpus_hash: str
    split: str
    utterances: int
    cer: float
    cer_interval: tuple[float, float]
    wer: float
    wer_interval: tuple[float, float]
    decoding: str

    def __str__(self) -> str:
        cer, wer = ConfidenceInterval(*self.cer_interval), ConfidenceInterval(*self.wer_interval)
        return (
            f"CER {self.cer:.2%} (95% interval {cer}) and WER {self.wer:.2%} ({wer}) "
            f"on the {self.utterances:,} utterances of {self.split}, decoded with {self.decoding}"
        )


def keep_score(model: Path, score: Score) -> None:
    """Keeps a score in place of the one of the same split; does nothing where the directory cannot be written."""
    others = [one for one in scores_of(model) if (one.corpus_hash, one.split) != (score.corpus_hash, score.split)]
    with suppress(InputError), written_whole(model / SCORES) as file:
        json.dump([asdict(one) for one in [*others, score]], file, indent=2)


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
    return [one for one in scores_of(model) if one.corpus_hash == corpus_hash and is_test(one.split)]


def is_test(split: str) -> bool:
    """Whether a split is a test split by its name: neither weights nor the choice of a model depend on it."""
    return not (trains(split) or validates(split))
