"""Every utterance's errors at one validation: what a difference between two models is judged by.

One file, `errors.json`: beside a checkpoint's other files, in model directories, and in a sweep's folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainables.evaluation.metrics import Piece, align_characters, align_words
from trainables.inference.model_directory import ERRORS as ERRORS


@dataclass(frozen=True)
class UtteranceErrors:
    """What was said and heard in each utterance of a split, in the corpus' order, and how many errors that is.

    Args:
        epoch: the one that the validation followed; None for one outside of training.
        character_errors, word_errors: of each utterance: substitutions, deletions and insertions.
        characters, words: of each reference.
    """

    split: str
    epoch: int | None
    ids: list[str]
    references: list[str]
    hypotheses: list[str]
    character_errors: list[int]
    characters: list[int]
    word_errors: list[int]
    words: list[int]

    @classmethod
    def of(
        cls, split: str, epoch: int | None, ids: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]
    ) -> UtteranceErrors:
        """Counts errors as `metrics.character_error_rate` and `word_error_rate` do."""
        character_errors, characters = _counts(align_characters(references, hypotheses))
        word_errors, words = _counts(align_words(references, hypotheses))
        texts = list(ids), list(references), list(hypotheses)
        return cls(split, epoch, *texts, character_errors, characters, word_errors, words)

    @property
    def cer(self) -> float:
        """Over all characters of the split: a sum of errors over a sum of characters."""
        return sum(self.character_errors) / max(1, sum(self.characters))

    @property
    def wer(self) -> float:
        """Over all words of the split."""
        return sum(self.word_errors) / max(1, sum(self.words))

    def same_utterances(self, other: UtteranceErrors) -> bool:
        """Whether both are of the same utterances, so that each error of one has its counterpart."""
        return self.ids == other.ids and self.references == other.references

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> UtteranceErrors | None:
        """Reads what `save` wrote; None where it is not there, or not whole: no model depends on it."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def _counts(aligned: list[list[Piece]]) -> tuple[list[int], list[int]]:
    """Errors and reference length, an utterance each."""
    errors = [sum(piece.errors for piece in pieces) for pieces in aligned]
    return errors, [sum(len(piece.reference) for piece in pieces) for pieces in aligned]
