"""Characters of transcripts: Unicode normalisation, characters that no tokenizer can keep, unseen characters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.data.corpus import Corpus

SPACE = "\u2581"  # SentencePiece's space
RESERVED = "\u2585"  # SentencePiece skips texts with it
BYTE_ORDER_MARK = "\ufeff"  # invisible: UTF-8 files may begin with it, and joined files have it inside

# Control characters, halves of surrogate pairs, and characters with a meaning in SentencePiece.
UNUSABLE = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{SPACE}{RESERVED}]")
WHITE_SPACE = re.compile(r"[^\S\x0b\x0c\x1c-\x1f\x85]+")  # tabs and line ends, but no other control characters


def normalized(text: str) -> str:
    """Text in Unicode's normal form C (an accented letter is one character), without byte order marks."""
    return unicodedata.normalize("NFC", text.replace(BYTE_ORDER_MARK, ""))


def single_spaced(text: str) -> str:
    """Normalised text with one space between words and none at the ends."""
    return WHITE_SPACE.sub(" ", normalized(text)).strip(" ")


def unusable(text: str) -> list[str]:
    """Code points in a text that no tokenizer can keep, such as "U+0007", sorted."""
    return sorted(f"U+{ord(character):04X}" for character in set(UNUSABLE.findall(text)))


def unseen_characters(corpus: Corpus) -> dict[str, Counter[str]]:
    """Characters without a training example, by split, with the number of utterances that have each.

    Empty where the corpus has no training split.
    """
    texts = {name: corpus.split(name).texts or [] for name in corpus.splits}
    training = [texts.pop(name) for name in corpus.training_splits]
    seen = {character for split in training for text in split for character in text}
    if not seen:
        return {}
    counts = {name: Counter(c for text in split for c in sorted(set(text) - seen)) for name, split in texts.items()}
    return {name: count for name, count in counts.items() if count}
