"""Speakers whom a model is tested on after it was trained on them: its errors on new voices will be more."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.data.corpus import Corpus
from trainables.data.utterance import validates


def heard_voices(corpus: Corpus, split: str, training: Sequence[str]) -> str | None:
    """A sentence about the speakers of a split who are in training splits too; None where none is known to be.

    Args:
        training: names of the training splits.
    """
    speakers = set(corpus.split(split).speakers or ()) - {None}
    heard = speakers & {speaker for name in training for speaker in corpus.split(name).speakers or ()}
    if not heard:
        return None
    remedy = "; platform prepare --dev-speakers N holds N of them out of training" if validates(split) else ""
    return (
        f"{split} has speakers of {' and '.join(training)} ({len(heard):,} of {len(speakers):,}), "
        f"so its CER is lower than on new speakers{remedy}"
    )


def heard_in_tests(corpus: Corpus) -> list[str]:
    """A sentence for each split of a corpus that is no training split and has speakers of the training splits."""
    training = corpus.training_splits
    found = (heard_voices(corpus, split, training) for split in corpus.splits if split not in training)
    return [sentence for sentence in found if sentence]
