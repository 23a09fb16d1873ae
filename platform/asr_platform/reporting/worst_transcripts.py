"""The worst transcripts of a validation, with their audio where the corpus knows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr_platform.reporting.data_uri import mp3
from trainables.data.corpus import Corpus, Split
from trainables.data.inspection.signals import audio_of
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors

SHOWN_TRANSCRIPTS = 8
EMBEDDED_SECONDS = 40.0  # of audio; a longer utterance, more than 150 kB, is a link to its file


@dataclass(frozen=True)
class WorstTranscript:
    """An utterance with errors.

    Args:
        errors: character errors.
        audio: MP3 as a data URI; empty where there is no audio, or it is long.
        files: the audio files that a long utterance is joined from.
    """

    id: str
    reference: str
    hypothesis: str
    errors: int
    audio: str = ""
    files: tuple[Path, ...] = ()


def worst_transcripts(errors: UtteranceErrors | None, corpus: Corpus | None) -> list[WorstTranscript]:
    """The utterances with the most errors, the worst first; [] where no errors are on record.

    Args:
        corpus: the corpus with the utterances; None: their audio is not known.
    """
    if errors is None:
        return []
    split = _split(corpus, errors.split)
    found = zip(errors.ids, errors.references, errors.hypotheses, errors.character_errors, strict=True)
    worst = sorted((one for one in found if one[3]), key=lambda one: -one[3])[:SHOWN_TRANSCRIPTS]
    return [WorstTranscript(*one, *_heard(split, one[0])) for one in worst]


def _split(corpus: Corpus | None, name: str) -> Split | None:
    try:
        return corpus.split(name) if corpus else None
    except InputError:  # damaged since
        return None


def _heard(split: Split | None, id: str) -> tuple[str, tuple[Path, ...]]:
    """Audio of an utterance, embedded or as files; neither where it cannot be read."""
    if split is None or id not in split.ids:
        return "", ()
    place = split.ids.index(id)
    if split.seconds[place] > EMBEDDED_SECONDS:
        paths = dict.fromkeys(part.path for part in split.recordings(place))
        return "", tuple(path.absolute() for path in paths if path is not None and path.is_file())
    samples = audio_of(split, place)
    return ("" if samples is None else mp3(samples)), ()
