"""Transcription of recordings of any length, printed or written into files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from asr_platform.inference.formats import FORMATS, Transcript, TranscriptFormat
from asr_platform.inference.parallel import Transcriber, Utterances, load, processes_for
from asr_platform.inference.recordings import Recording, find_recordings
from trainables.data.audio import read_audio
from trainables.data.features import FeatureRecipe
from trainables.data.importers.hw4 import read_course_features
from trainables.data.mistakes import Mistakes
from trainables.decoding import Search
from trainables.errors import InputError
from trainables.folders import written_whole
from trainables.inference.decoding_options import check_nbest, decoding_with
from trainables.inference.long_form import CutRecording, cut, joined, longest_piece
from trainables.inference.recognizer import Recognizer
from trainables.inference.segmentation import Piece

# A group of recordings that are transcribed together, in batches of similar length, has at most so many files, and so
# many seconds before its last file.
FILES_AT_ONCE = 64
SECONDS_AT_ONCE = 1800.0


def transcribe(
    recognizer: Recognizer, recordings: Sequence[Recording], timed: bool = False, piece_seconds: float | None = None,
    search: Search | None = None, nbest: int = 0, model: Path | None = None, jobs: int | None = 1,
) -> Iterator[Transcript]:  # fmt: skip
    """Yields the transcripts of recordings, in order; all files are checked before the first is transcribed.

    Long recordings are cut at silences, and each piece is transcribed as an utterance of its own.

    Args:
        timed: whether transcripts have word timestamps.
        piece_seconds: longest piece, 1 s or more; None: the 90% quantile of the training utterances' durations, 30 s at
            most.
        search: a search made by `recognizer.search`; None: the search of the model's decoding options.
        nbest: number of best hypotheses of each piece of a recording; 0: none.
        model: model directory, from which other processes load the recogniser.
        jobs: number of processes that transcribe; None: as the CPUs and the recordings' lengths suggest.

    Raises:
        InputError: a file cannot be read, or its features do not fit the model; or `timed` is true, but the model was
            trained without CTC; or the search finds fewer hypotheses than `nbest`.
    """
    if nbest:
        check_nbest((search or recognizer.search()).config, nbest)
    if timed and not recognizer.has_times:
        raise InputError(
            f"the model was trained without CTC ({recognizer.ctc_weight}: 0), so its words have no times",
            f"Use the format txt, or train with a {recognizer.ctc_weight} above 0.",
        )
    _check(recordings, recognizer.recipe)
    groups = _groups(recordings, recognizer.recipe, piece_seconds or longest_piece(recognizer))
    first = next(groups, [])
    if jobs is None:
        jobs = processes_for(sum(one.seconds for _, one in first) * len(recordings) / max(1, len(first)))
    ahead: deque[list[tuple[str, CutRecording]]] = deque()

    def utterances() -> Iterator[Utterances]:
        for group in chain([first], groups):
            ahead.append(group)
            features = [frames for _, recording in group for frames in recording.features]
            yield Utterances(features, timed or any(recording.needs_times for _, recording in group))

    for texts in Transcriber(recognizer, search or recognizer.search(), model, nbest).transcribe(utterances(), jobs):
        found = iter(texts)
        for name, recording in ahead.popleft():
            text, words, pieces = joined(recording, found, nbest)
            yield Transcript(name, recording.seconds, text, words if timed else [], pieces)


def _check(recordings: Sequence[Recording], recipe: FeatureRecipe) -> None:
    mistakes = Mistakes()
    for recording in recordings:
        with mistakes.collecting():
            recording.check(recipe)
    mistakes.check("Replace these files, or leave them out.")


def _groups(
    recordings: Sequence[Recording], recipe: FeatureRecipe, longest: float
) -> Iterator[list[tuple[str, CutRecording]]]:
    """Yields (name, cut recording) pairs in groups that are transcribed together.

    A group ends at `FILES_AT_ONCE` recordings or `SECONDS_AT_ONCE` of audio. `longest`: longest piece in seconds.
    """
    group: list[tuple[str, CutRecording]] = []
    for recording in recordings:
        group.append((recording.name, _cut(recording, recipe, longest)))
        if len(group) == FILES_AT_ONCE or sum(one.seconds for _, one in group) >= SECONDS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _cut(recording: Recording, recipe: FeatureRecipe, longest: float) -> CutRecording:
    if recording.ready:  # features in dB below the peak of the utterance: it cannot be cut
        frames = read_course_features(Path(recording.name))
        whole = Piece(0, len(frames) * recipe.hop_length, spoken=True)
        return CutRecording(len(frames) * recipe.hop_seconds, [whole], [frames])
    samples = read_audio(Path(recording.name)) if recording.samples is None else recording.samples
    return cut(samples, recipe, longest, recording.name)


def transcribe_to(
    model: Path, paths: Sequence[str], format: str, out: str | None, piece_seconds: float | None = None,
    decoding: Mapping[str, Any] = MappingProxyType({}), nbest: int = 0, jobs: int | None = 1,
) -> Iterator[str]:  # fmt: skip
    """Transcribes the recordings that `paths` name (see `find_recordings`), and yields the lines to print.

    Without `out`, the lines are the transcripts: `file<TAB>text`, a JSON list, or the subtitles of one recording.
    Otherwise transcripts are written to the file `out`, or, if `out` is a folder or ends with a slash, to one file for
    each recording. A file appears only once it is complete.

    Args:
        decoding: decoding options that replace those of the model.
        nbest: number of best hypotheses, for the format json.
        jobs: number of processes that transcribe; None: as the CPUs and the recordings' lengths suggest.

    Raises:
        InputError: from `find_recordings` and `transcribe`; `decoding` does not fit the model; or `out` cannot hold
            these transcripts.
    """
    if out == "":
        raise InputError("--out is empty", "Name a file or a folder, or leave it out.")
    recordings = find_recordings(paths)
    chosen = FORMATS[format]
    folder = Path(out) if out is not None and (out.endswith(os.sep) or os.path.isdir(out)) else None
    if folder is None and chosen.write_all is None and len(recordings) > 1:
        raise InputError(
            f"--format {format} holds one recording, but {len(recordings)} are given", "Give a folder: --out subtitles/"
        )
    if nbest and format != "json":
        raise InputError(f"--nbest {nbest} with --format {format}", "Only --format json has several hypotheses.")
    targets = [Path(out)] if folder is None and out is not None else []
    if folder is not None:
        targets = [folder / recording.place.with_name(f"{recording.place.name}.{format}") for recording in recordings]
    _check_targets(targets, recordings)
    recognizer = load(model)
    search = recognizer.search(decoding_with(recognizer.config, decoding))
    transcripts = transcribe(recognizer, recordings, chosen.timed, piece_seconds, search, nbest, model, jobs)
    if folder is not None:
        yield from _write_each(transcripts, targets, chosen)
        return
    lines = chosen.write_all(transcripts) if chosen.write_all else map(chosen.write, transcripts)
    if out is None:
        yield from lines
        return
    with written_whole(Path(out)) as file:
        file.writelines(f"{line}\n" for line in lines)
    yield f"{out}: {len(recordings)} transcribed"


def _write_each(transcripts: Iterator[Transcript], targets: list[Path], format: TranscriptFormat) -> Iterator[str]:
    for transcript, target in zip(transcripts, targets, strict=True):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: cannot be made: {error.strerror}", "Choose another --out.") from None
        with written_whole(target) as file:
            file.write(format.write(transcript) + "\n")
        yield str(target)


def _check_targets(targets: list[Path], recordings: Sequence[Recording]) -> None:
    """Raises InputError if two recordings have the same output file, or an output file is one of the recordings."""
    sources = {os.path.realpath(recording.name) for recording in recordings}
    places: dict[Path, str] = {}
    for number, target in enumerate(targets):
        if os.path.realpath(target) in sources:
            raise InputError(f"--out {target}: one of the recordings", "Choose another --out.")
        name = recordings[number].name
        if target in places:
            raise InputError(
                f"{places[target]} and {name} would both be {target}", "Transcribe them into different folders."
            )
        places[target] = name
