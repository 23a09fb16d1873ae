"""Writes a corpus utterance by utterance, in memory that does not grow with it.

Frames go to a raw file for each split; at the end an Arrow file is written from a memory map of it. The folder has a
temporary name until everything is written, so that an interrupted run leaves nothing at the corpus's path.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trainables.data.corpus import (
    DESCRIPTION_FILE,
    FORMAT_VERSION,
    RECORDINGS,
    SPLIT_NAME,
    Corpus,
    Description,
    Preparation,
    SplitSummary,
)
from trainables.data.features import FeatureRecipe
from trainables.data.utterance import Recording, storable, trains
from trainables.errors import InputError
from trainables.folders import UnfinishedFolder, check_decodable

if TYPE_CHECKING:
    from typing_extensions import Buffer

SKIPPED_FILE = "skipped.txt"
WRITTEN_AT_ONCE = 1 << 24  # bytes


class CorpusWriter:
    """Writes a corpus to `out`; leaving the `with` block without `finish` removes partial files.

    Args:
        out: the new folder, which must not exist or be empty.
        recipe: feature recipe (feature-extraction settings).
        source: the importer's name, such as "librispeech".

    Raises:
        InputError: `out` exists and is not an empty folder.
    """

    def __init__(self, out: Path, recipe: FeatureRecipe, source: str) -> None:
        self.out, self.recipe, self.source = Path(out), recipe, source
        check_free(self.out)
        self._unfinished = UnfinishedFolder(self.out.resolve())
        self._folder = self._unfinished.path
        self._splits: dict[str, _SplitWriter] = {}
        self._statistics = RunningStatistics(recipe.bins)

    def add(
        self,
        split: str,
        id: str,
        text: str | None,
        seconds: float,
        features: npt.NDArray[np.floating],
        speaker: str | None = None,
        recordings: Sequence[Recording] = (),
    ) -> None:
        """Appends an utterance to a split.

        Args:
            text: transcript; None in a split without texts.
            features: (T, F), stored as float16.
            speaker: None: unknown.
            recordings: what the audio is joined from; not part of the corpus's hash.

        Raises:
            InputError: the name, the text or the features cannot be stored; the utterance is not added.
        """
        half = storable(features, self.recipe.bins, f"{split}/{id}")
        if not re.fullmatch(SPLIT_NAME, split):
            raise InputError(f"split {split!r} cannot name a file", "Use letters, digits, '.', '_' and '-'.")
        writer = self._splits.get(split) or _SplitWriter(self._folder, split)
        writer.add(id, text, seconds, half, speaker, recordings)
        self._splits[split] = writer
        if trains(split):
            self._statistics.add(half.astype(np.float64))

    def finish(self, skipped: Sequence[str] = (), preparation: Preparation | None = None) -> Corpus:
        """Writes the Arrow files and `corpus.json`, moves the folder to `out`, and opens it.

        Args:
            skipped: lines for `skipped.txt` beside `corpus.json`, each a recording that was left out and why.
            preparation: what was done to the source's utterances; recorded in the corpus.
        """
        splits = dict(sorted(self._splits.items()))
        if not splits:
            raise InputError(f"{self.out}: no utterances to write", "Check the source: nothing was found in it.")
        summaries = {name: writer.finish(self.recipe.bins) for name, writer in splits.items()}
        trained = any(map(trains, splits))
        description = Description(
            format_version=FORMAT_VERSION,
            source=self.source,
            recipe=self.recipe,
            hash=corpus_hash(self.recipe, {name: writer.content for name, writer in splits.items()}),
            splits=summaries,
            mean=self._statistics.mean_F.tolist() if trained else None,
            std=np.sqrt(self._statistics.variance_F).tolist() if trained else None,
            preparation=preparation or Preparation(),
        )
        text = description.model_dump_json(indent=2) + "\n"
        (self._folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
        if skipped:
            lines = "".join(f"{line}\n" for line in skipped)
            (self._folder / SKIPPED_FILE).write_text(lines, encoding="utf-8", errors="backslashreplace")
        check_free(self.out)
        self._unfinished.finish()
        return Corpus.open(self.out)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._splits.values():
            with contextlib.suppress(OSError):  # on a full disk, closing fails again
                writer.raw.close()
        self._unfinished.close()


class RunningStatistics:
    """Mean and variance of frames (F,) that come utterance by utterance.

    After Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", equations 1.5 and 1.7. Equal
    to the last bit to scikit-learn's `StandardScaler.partial_fit`, whose checks take longer than all else of writing
    an utterance, and whose import takes seconds.
    """

    def __init__(self, bins: int) -> None:
        self.count = 0
        self.mean_F, self.variance_F = np.zeros(bins), np.zeros(bins)

    def add(self, frames_TF: npt.NDArray[np.float64]) -> None:
        """Adds one frame or more."""
        known, new = self.count, len(frames_TF)
        known_sum_F, sum_F = self.mean_F * known, frames_TF.sum(axis=0)
        centered_TF = frames_TF - sum_F / new
        squares_F = (centered_TF**2).sum(axis=0) - centered_TF.sum(axis=0) ** 2 / new
        self.count = known + new
        if known:
            ratio = known / new
            apart_F = ratio / self.count * (known_sum_F / ratio - sum_F) ** 2
            squares_F = self.variance_F * known + squares_F + apart_F
        self.mean_F, self.variance_F = (known_sum_F + sum_F) / self.count, squares_F / self.count


class SplitContent:
    """Digests of a split's texts and features, and its speakers: what `corpus_hash` takes of a split.

    Utterances are added in the order of the split.

    Attributes:
        speakers: of each utterance; None: unknown.
    """

    def __init__(self) -> None:
        self.texts, self.features = hashlib.sha256(), hashlib.sha256()
        self.speakers: list[str | None] = []

    def add(self, id: bytes, text: bytes | None, half: npt.NDArray[np.float16], speaker: str | None) -> None:
        """Adds an utterance, with its features (T, F) as they are stored."""
        for word in (id, text):
            # Length before content, so that different lists of strings never give equal bytes.
            self.texts.update(f"{-1 if word is None else len(word)}:".encode() + (word or b""))
        self.features.update(f"{len(half)}:".encode())
        self.features.update(half.data)
        self.speakers.append(speaker)


def corpus_hash(recipe: FeatureRecipe, splits: Mapping[str, SplitContent]) -> str:
    """Hash of a corpus, given its splits by name, in alphabetical order."""
    total = hashlib.sha256(f"corpus format {FORMAT_VERSION}\n{recipe.model_dump_json()}\n".encode())
    for name, content in splits.items():
        total.update(f"{name}\n{content.texts.hexdigest()}\n{content.features.hexdigest()}\n".encode())
        if any(content.speakers):  # corpora without speakers keep the hashes that they had before speakers were kept
            total.update(json.dumps(content.speakers).encode())
    return total.hexdigest()


class _SplitWriter:
    """Writes a split: frames to a raw file, other columns in memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._raw_path, self._arrow_path = folder / f"{name}.raw", folder / f"{name}.arrow"
        self.raw: BinaryIO = self._raw_path.open("wb")
        self.ids: dict[str, None] = {}
        self.texts: list[str | None] = []
        self.seconds: list[float] = []
        self.recordings: list[Sequence[Recording]] = []
        self.ends: list[int] = [0]
        self.content = SplitContent()

    def add(
        self,
        id: str,
        text: str | None,
        seconds: float,
        half: npt.NDArray[np.float16],
        speaker: str | None,
        recordings: Sequence[Recording],
    ) -> None:
        if id in self.ids:
            raise InputError(f"{self.name}/{id}: the same id twice in a split", "Give every utterance its own id.")
        if self.texts and (self.texts[0] is None) != (text is None):
            lacks = "has no text, but others of its split have" if text is None else "has a text, but others have none"
            raise InputError(f"{self.name}/{id}: {lacks}", "Give a split texts for all utterances or for none.")
        if speaker is not None:
            _encoded(speaker, f"{self.name}/{id}")
        place = f"{self.name}/{id}"
        self.content.add(_encoded(id, place), None if text is None else _encoded(text, place), half, speaker)
        self.raw.write(half.data)
        self.ids[id] = None
        self.texts.append(text)
        self.seconds.append(seconds)
        self.recordings.append(recordings)
        self.ends.append(self.ends[-1] + len(half))

    def finish(self, bins: int) -> SplitSummary:
        """Writes the Arrow file and removes the raw one."""
        self.raw.close()
        with self._raw_path.open("rb") as raw:
            self._write_arrow(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ), bins)
        self._raw_path.unlink()
        return SplitSummary(
            utterances=len(self.ids),
            seconds=float(np.sum(self.seconds)),
            characters=sum(len(text) for text in self.texts if text is not None),
            frames=self.ends[-1],
            speakers=len(set(self.content.speakers) - {None}) or None,
        )

    def _write_arrow(self, frames: mmap.mmap, bins: int) -> None:
        count = self.ends[-1]
        values = pa.Array.from_buffers(pa.float16(), count * bins, [None, pa.py_buffer(frames)])
        vectors = pa.FixedSizeListArray.from_arrays(values, bins)
        lists = pa.LargeListArray.from_arrays(pa.array(self.ends, pa.int64()), vectors)
        columns: dict[str, pa.Array] = {
            "id": pa.array(list(self.ids), pa.string()),
            "text": pa.array(self.texts, pa.string()),
            "duration": pa.array(self.seconds, pa.float32()),
            "features": lists,
        }
        if any(self.content.speakers):
            columns["speaker"] = pa.array(self.content.speakers, pa.string())
        if any(self.recordings):
            columns["recordings"] = pa.array([stored_recordings(each) for each in self.recordings], RECORDINGS)
        batch = pa.record_batch(columns)
        with self._arrow_path.open("wb") as file, pa.ipc.new_file(_Sink(file, frames), batch.schema) as writer:
            writer.write_batch(batch)


class _Sink(io.RawIOBase):
    """A file for writing that releases the mapped pages of `frames` once they are written.

    Otherwise a whole split would count as this process's memory, and exceed the limits of batch jobs.
    """

    def __init__(self, file: BinaryIO, frames: mmap.mmap) -> None:
        self._file, self._frames = file, frames

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), WRITTEN_AT_ONCE):
            self._file.write(view[start : start + WRITTEN_AT_ONCE])
            self._frames.madvise(mmap.MADV_DONTNEED)
        return len(view)

    def tell(self) -> int:
        return self._file.tell()


def check_free(out: Path) -> None:
    """Raises an InputError unless `out` is free for a new folder: absent, or an empty folder."""
    check_decodable(out)
    if out.is_symlink():
        raise InputError(f"{out}: a symbolic link, which is not followed", "Choose another folder with --out.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not empty", "Choose another folder with --out, or remove this one.")


def _encoded(word: str, name: str) -> bytes:
    try:
        return word.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name!r}: {word!r} is not valid Unicode", "Correct or remove it.") from None


def stored_recordings(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """Recordings as the column `recordings` has them, with absolute paths; empty where a path is not valid Unicode."""
    paths = [None if part.path is None else str(part.path.absolute()) for part in recordings]
    if any(path and not _is_unicode(path) for path in paths):
        return []
    return [
        {"path": path, "offset": part.offset, "duration": part.duration}
        for path, part in zip(paths, recordings, strict=True)
    ]


def _is_unicode(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False
