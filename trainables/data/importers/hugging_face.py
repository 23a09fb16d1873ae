"""A data set of Hugging Face on disk, read by the package `datasets`: https://huggingface.co/docs/datasets

It is a folder that `save_to_disk` wrote, or one that was downloaded from the hub, with Parquet files, of which
`datasets` keeps an Arrow copy in its cache. (Folders of audio files it reads only with the package torchcodec.)
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pyarrow as pa

from trainables.data.features import Samples
from trainables.data.importers.tools.paths import TRAINING, located
from trainables.data.mistakes import Mistakes
from trainables.data.packages import optional
from trainables.data.text.transcripts import single_spaced
from trainables.data.utterance import AudioSegment, AudioSource, Utterance
from trainables.errors import InputError

NEED = "data sets of Hugging Face are read by"
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes
# Usual names of the columns; the first one that is there is taken.
COLUMNS: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "file", "path"),
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id",),
}


@dataclass(frozen=True)
class AudioCell(AudioSource):
    """The content of an audio file in a row and column of an Arrow file."""

    file: Path
    row: int
    column: str

    @property
    def name(self) -> str:
        return f"{self.file}: row {self.row}"

    def samples(self) -> Samples:
        """Samples (N,) at 16 kHz."""
        from trainables.data.audio import read_audio

        return read_audio(io.BytesIO(_table(self.file).column(self.column)[self.row].as_py()["bytes"]), name=self.name)


def hugging_face_utterances(
    root: Path,
    bad: Mistakes | None = None,
    keys: Mapping[str, str] = MappingProxyType({}),
    config: str | None = None,
) -> list[Utterance]:
    """Utterances of a data set in a folder: one row each.

    Args:
        bad: collects rows without audio; default: an error.
        keys: names of the columns `audio`, `text`, `speaker` and `id`; default: a column of the type Audio, and usual
            names.
        config: name of one of several data sets in a downloaded folder (a configuration, such as a language).

    Raises:
        InputError: the package datasets is not installed, the folder has no data set or one that cannot be read, a
            column is missing, or `bad` has more mistakes than may be left out.
    """
    if unknown := [key for key in keys if key not in COLUMNS]:
        raise InputError(f"--keys: no key named {', '.join(unknown)}", f"The keys are {', '.join(COLUMNS)}.")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder", "Give the folder of a data set that was saved or downloaded.")
    bad = bad or Mistakes(skippable=0)
    utterances: list[Utterance] = []
    for split, part in _splits(optional("datasets", NEED), root, config).items():
        utterances += _rows(split, part, _columns(part, keys, f"{root}: {split}"), bad)
    bad.check("Correct these rows, or remove them.")
    return utterances


def _splits(datasets: ModuleType, root: Path, config: str | None) -> dict[str, Any]:
    """The data set of each split."""
    datasets.disable_progress_bars()
    try:
        if any((root / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(str(root))
        else:
            found = datasets.load_dataset(str(root), config)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error)
        raise InputError(
            f"{root}: not readable as a data set: {reason}",
            "Give the folder that save_to_disk wrote, or a downloaded one; --config names one of several data sets.",
        ) from None
    return {found.split or TRAINING: found} if isinstance(found, datasets.Dataset) else dict(found)


def _columns(part: Any, keys: Mapping[str, str], name: str) -> dict[str, str]:
    """Name of the column of each key that the split has."""
    there = list(part.features)
    found = {key: column for key, usual in COLUMNS.items() for column in reversed(usual) if column in there}
    if audio := [column for column, kind in part.features.items() if type(kind).__name__ == "Audio"]:
        found["audio"] = audio[0]
    missing = [f"{column} ({key})" for key, column in keys.items() if column not in there]
    missing += [] if "audio" in found or "audio" in keys else ["audio"]
    if missing:
        raise InputError(
            f"{name}: no column {', '.join(missing)}",
            f"Its columns are {', '.join(there)}: name them with --keys, such as audio=recording,text=sentence.",
        )
    return {**found, **keys}


def _rows(split: str, part: Any, names: Mapping[str, str], bad: Mistakes) -> Iterator[Utterance]:
    """Yields the utterances of a split, row by row of its Arrow files; rows without audio are added to `bad`."""
    for file in (Path(each["filename"]) for each in part.cache_files):
        table = _table(file)
        columns = {key: table.column(name).to_pylist() for key, name in names.items() if key != "audio"}
        for row, source in enumerate(_sources(file, table, names["audio"])):
            origin = f"{file}: row {row}"
            cell = {key: values[row] for key, values in columns.items() if values[row] is not None}
            if source is None:
                bad.add(f"{origin}: no audio in the column {names['audio']}")
                continue
            text = single_spaced(str(cell["text"])) if "text" in cell else None
            speaker = str(cell["speaker"]) if "speaker" in cell else None
            yield Utterance(str(cell.get("id", f"{file.stem}-{row:06d}")), split, text, source, origin, speaker)


def _sources(file: Path, table: pa.Table, column: str) -> Iterator[AudioSource | None]:
    """Yields the audio of each row: the content of a file, or a path; None where there is neither."""
    start = 0
    for chunk in table.column(column).chunks:
        content = chunk.field("bytes") if pa.types.is_struct(chunk.type) else None
        paths = (chunk.field("path") if content is not None else chunk).to_pylist()
        for row, path in enumerate(paths):
            if content is not None and content[row].is_valid:
                yield AudioCell(file, start + row, column)
            else:
                yield AudioSegment(located(path, file.parent, Path.cwd())) if path else None
        start += len(chunk)


@lru_cache(maxsize=4)
def _table(file: Path) -> pa.Table:
    """Memory-mapped table of an Arrow file as the package datasets writes it."""
    return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
