"""Error counts of every utterance of a split, by which two models are compared.

The file `errors.json` with these counts is in checkpoints, model directories and the folder of a sweep.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainables.evaluation.metrics import Alignment, align_words, count_characters, count_words


@dataclass(frozen=True)
class UtteranceErrors:
    """References, hypotheses and error counts of the utterances of a split, in the order of the corpus.

    Args:
        epoch: epoch after which the split was transcribed; None outside of training.
        character_errors, word_errors: substitutions + deletions + insertions in each utterance.
        characters, words: length of each reference.
        speakers: who says each utterance, None: unknown; None where no speaker is known.
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
    speakers: list[str | None] | None = None

    @classmethod
    def of(
        cls, split: str, epoch: int | None, ids: Sequence[str], references: Sequence[str], hypotheses: Sequence[str],
        speakers: Sequence[str | None] | None = None, aligned: Sequence[Alignment] | None = None,
    ) -> UtteranceErrors:  # fmt: skip
        """Counts the errors of hypotheses as `metrics.character_error_rate` and `metrics.word_error_rate` do.

        Args:
            aligned: the utterances' words, aligned by `align_words`; None: they are aligned here.
        """
        character_errors, characters = count_characters(references, hypotheses)
        word_errors, words = count_words(align_words(references, hypotheses) if aligned is None else aligned)
        texts = list(ids), list(references), list(hypotheses)
        known = list(speakers) if speakers and any(speakers) else None
        return cls(split, epoch, *texts, character_errors, characters, word_errors, words, known)

    @property
    def cer(self) -> float:
        """Character error rate over the whole split, a fraction."""
        return sum(self.character_errors) / max(1, sum(self.characters))

    @property
    def wer(self) -> float:
        """Word error rate over the whole split, a fraction."""
        return sum(self.word_errors) / max(1, sum(self.words))

    def same_utterances(self, other: UtteranceErrors) -> bool:
        """Whether both have the same utterances and references, so that errors can be compared in pairs."""
        return self.ids == other.ids and self.references == other.references

    def save(self, path: Path) -> None:
        """Writes a JSON file."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> UtteranceErrors | None:
        """Content of a file that `save` wrote; None where it is missing or damaged."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
