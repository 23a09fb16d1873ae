"""Mozilla Common Voice: tables `train.tsv`, `dev.tsv`, `test.tsv` or `validated.tsv`, and recordings in `clips/`."""

from __future__ import annotations

from pathlib import Path

from trainables.data.files import read_lines
from trainables.data.importers.tools.paths import TRAINING, located, not_a_file
from trainables.data.mistakes import Mistakes
from trainables.data.text.transcripts import single_spaced
from trainables.data.utterance import AudioSegment, Utterance
from trainables.errors import InputError

SPLITS = ("train", "dev", "test")
VALIDATED = "validated"  # the table of all recordings that people approved, with those of the splits
CLIPS = "clips"
SPEAKER, FILE, TEXT = "client_id", "path", "sentence"
REMEDY = "Correct these lines, or remove them."


def common_voice_utterances(root: Path, bad: Mistakes | None = None, validated: bool = False) -> list[Utterance]:
    """Utterances of the tables of a language's folder, such as `cv-corpus-22.0-2025-06-20/cy`.

    The splits are those of `train.tsv`, `dev.tsv` and `test.tsv`. Without `train.tsv`, or with `validated`, the split
    `train` has the lines of `validated.tsv` whose speaker is in no other split.

    Args:
        bad: collects lines with mistakes; default: an error.

    Raises:
        InputError: there is no table to train on, a table lacks a column, or `bad` has more mistakes than may be left
            out (each named as file:line).
    """
    tables = (VALIDATED,) if validated else (VALIDATED, TRAINING)
    if not any((root / f"{table}.tsv").is_file() for table in tables):
        below = sorted(path.parent for path in root.glob(f"*/{VALIDATED}.tsv"))
        remedy = f"Give a language's folder, such as {below[0]}." if below else "Give a language's folder."
        raise InputError(f"{root}: no {' or '.join(f'{table}.tsv' for table in tables)} here", remedy)
    validated = validated or not (root / f"{TRAINING}.tsv").is_file()
    bad = bad or Mistakes(skippable=0)
    utterances: list[Utterance] = []
    for split in SPLITS:
        if split == TRAINING and validated:
            continue
        if (root / f"{split}.tsv").is_file():
            utterances += _read_table(root, split, split, bad)
    if validated:
        others = {utterance.speaker for utterance in utterances} - {None}
        training = _read_table(root, VALIDATED, TRAINING, bad)
        utterances = [item for item in training if item.speaker not in others] + utterances
    bad.check(REMEDY)
    return utterances


def _read_table(root: Path, table: str, split: str, bad: Mistakes) -> list[Utterance]:
    """Utterances of a table; lines with mistakes are left out and added to `bad`."""
    path = root / f"{table}.tsv"
    # Nothing is quoted in these tables: a quotation mark in a sentence is one.
    rows = ((number, line.split("\t")) for number, line in read_lines(path) if line)
    _, header = next(rows, (0, [""]))
    if missing := [name for name in (SPEAKER, FILE, TEXT) if name not in header]:
        raise InputError(f"{path}: no column {', '.join(missing)}", "Give a table of Common Voice as it was unpacked.")
    utterances = []
    for number, cells in rows:
        origin = f"{path}:{number}"
        if len(cells) != len(header):
            bad.add(f"{origin}: {len(cells)} columns, but the header has {len(header)}")
            continue
        row = dict(zip(header, cells, strict=True))
        clip = _clip(root, row[FILE])
        if problem := not_a_file(clip):
            bad.add(f"{origin}: {problem}")
        else:
            text = single_spaced(row[TEXT])
            utterances.append(Utterance(clip.stem, split, text, AudioSegment(clip), origin, row[SPEAKER] or None))
    return utterances


def _clip(root: Path, name: str) -> Path:
    """Path of a clip; the first releases leave out its suffix."""
    return located(name if Path(name).suffix else f"{name}.mp3", root / CLIPS)
