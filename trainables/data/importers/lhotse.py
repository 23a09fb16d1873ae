"""Cuts and manifests of Lhotse, read by the package `lhotse`: https://lhotse.readthedocs.io"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from trainables.data.features import SAMPLE_RATE, Samples
from trainables.data.files import visible
from trainables.data.importers.tools.paths import TRAINING, located, names_split, not_a_file
from trainables.data.mistakes import Mistakes
from trainables.data.packages import optional
from trainables.data.text.transcripts import single_spaced
from trainables.data.utterance import AudioSegment, AudioSource, Utterance
from trainables.errors import InputError

SUFFIXES = (".jsonl.gz", ".jsonl", ".json.gz", ".json", ".yaml")
CUTS, RECORDINGS, SUPERVISIONS = "cuts", "recordings", "supervisions"  # in names such as libri_cuts_train.jsonl.gz
READABLE = "file"  # type of a recording's source that is read; no command is run, no address fetched
UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    yaml.YAMLError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
)  # what Lhotse raises of files that hold something else
REMEDY = "Correct these manifests with Lhotse, or remove the cuts named."


@dataclass(frozen=True)
class CutAudio(AudioSource):
    """The audio of a cut with channels, mixed tracks or transforms, as Lhotse reads it."""

    cut: Any

    @property
    def name(self) -> str:
        return str(self.cut.id)

    def samples(self) -> Samples:
        """Samples (N,) at 16 kHz: the mean of the cut's channels."""
        from trainables.data.audio.reading import mono

        try:
            channels = self.cut.load_audio()  # (C, N)
        except Exception as error:  # of each reader of audio that Lhotse tries
            raise InputError(f"{self.name}: not readable by Lhotse: {error}", "Replace or remove it.") from None
        return mono(channels.T, self.cut.sampling_rate)


def lhotse_utterances(path: Path, bad: Mistakes | None = None) -> list[Utterance]:
    """Utterances of a file of cuts, or of all cuts (else recordings and supervisions) in a folder.

    Each supervision is an utterance. Its split is the part that is named in the file's name, as in
    `libri_cuts_dev-clean.jsonl.gz`; the split is `train` where the name has no part.

    Args:
        bad: collects supervisions with mistakes; default: an error.

    Raises:
        InputError: lhotse is not installed, there are no manifests or unreadable ones, or `bad` has more mistakes than
            may be left out.
    """
    files = _files(path)
    lhotse = optional("lhotse", "Lhotse's manifests are read by")
    bad = bad or Mistakes(skippable=0)
    utterances: list[Utterance] = []
    for file, supervisions in files:
        for cut in _cuts(lhotse, file, supervisions):
            utterances += list(_utterances(cut, file, bad))
    bad.check(REMEDY)
    if not utterances:
        raise InputError(f"{path}: no supervisions", "Give cuts with supervisions that have a text.")
    return utterances


def _files(path: Path) -> list[tuple[Path, Path | None]]:
    """Files of cuts, each with None, or files of recordings, each with its file of supervisions."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", "Give a file of Lhotse's cuts, or a folder of manifests.")
    if not path.is_dir():
        return [(path, None)]
    files = [file for file in visible(path.iterdir()) if file.name.endswith(SUFFIXES)]
    if cuts := [file for file in files if _marked(file, CUTS)]:
        return [(file, None) for file in cuts]
    recordings = [file for file in files if _marked(file, RECORDINGS)]
    if not recordings:
        raise InputError(
            f"{path}: no manifests of Lhotse, such as cuts_train.jsonl.gz or recordings_train.jsonl.gz",
            "Give the folder that holds them, or a file of cuts.",
        )
    return [(file, file.with_name(file.name.replace(RECORDINGS, SUPERVISIONS))) for file in recordings]


def _cuts(lhotse: ModuleType, file: Path, supervisions: Path | None) -> Any:
    """Cuts of a file, or of recordings and their supervisions."""
    if supervisions is None:
        return _read(lhotse.CutSet, file)
    recordings, texts = _read(lhotse.RecordingSet, file), _read(lhotse.SupervisionSet, supervisions)
    return lhotse.CutSet.from_manifests(recordings=recordings, supervisions=texts)


def _read(kind: Any, file: Path) -> Any:
    """The manifest in a file, as an object of the Lhotse class `kind`."""
    try:
        return kind.from_file(file).to_eager()
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{file}: not readable as a {kind.__name__} of Lhotse: {reason}",
            "Correct the path, or write the manifest again.",
        ) from None


def _marked(file: Path, kind: str) -> bool:
    return kind in re.split(r"[_.-]", file.name)


def _split_of(file: Path) -> str:
    """Split in a file's name: libri_cuts_dev-clean.jsonl.gz -> dev-clean, train_cuts.jsonl -> train."""
    name = next((file.name.removesuffix(suffix) for suffix in SUFFIXES if file.name.endswith(suffix)), file.stem)
    before, *after = re.split(rf"(?:^|[_.-])(?:{CUTS}|{RECORDINGS})(?:[_.-]|$)", name, maxsplit=1)
    if after and after[0]:
        return after[0]
    return next((word for word in reversed(before.split("_")) if names_split(word)), TRAINING)


def _utterances(cut: Any, file: Path, bad: Mistakes) -> Iterator[Utterance]:
    """Yields an utterance for each supervision of a cut; those without audio are added to `bad`."""
    if problem := _without_audio(cut, file):
        bad.add(*(f"{file}: {supervision.id}: {problem}" for supervision in cut.supervisions))
        return
    for piece in cut.trim_to_supervisions(keep_overlapping=False):
        (supervision,) = piece.supervisions
        text = None if supervision.text is None else single_spaced(supervision.text)
        origin, source = f"{file}: {supervision.id}", _source(piece, file)
        yield Utterance(supervision.id, _split_of(file), text, source, origin, supervision.speaker)


def _recordings(cut: Any) -> list[Any]:
    parts = [track.cut for track in cut.tracks] if hasattr(cut, "tracks") else [cut]
    return [part.recording for part in parts if part.has_recording]


def _without_audio(cut: Any, file: Path) -> str | None:
    """Why the audio of a cut cannot be read; None if it can."""
    sources = [source for recording in _recordings(cut) for source in recording.sources]
    if not sources:
        return "without a recording"
    if others := sorted({source.type for source in sources} - {READABLE}):
        return f"a recording by {', '.join(others)}, which is neither run nor fetched"
    return next(filter(None, (not_a_file(_located(source, file)) for source in sources)), None)


def _located(source: Any, file: Path) -> Path:
    return located(str(source.source), Path.cwd(), file.parent)


def _source(cut: Any, file: Path) -> AudioSource:
    """Audio of a cut: a segment of a file, or where channels or changes of the audio count, what Lhotse reads."""
    recording, *others = _recordings(cut)
    path = _located(recording.sources[0], file)
    plain = len(recording.sources) == 1 and recording.num_channels == 1 and not recording.transforms and not others
    if not plain or hasattr(cut, "tracks"):
        relative = not Path(str(recording.sources[0].source)).is_file()
        return CutAudio(cut.with_recording_path_prefix(file.parent) if relative else cut)
    whole = not cut.start and abs(cut.duration - recording.duration) < 1 / SAMPLE_RATE
    return AudioSegment(path) if whole else AudioSegment(path, cut.start, cut.duration)
