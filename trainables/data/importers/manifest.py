"""JSONL manifest: a JSON object a line with an audio file, its text, and optionally a segment and a split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainables.data.files import read_lines
from trainables.data.importers.tools.paths import TRAINING, located, not_a_file
from trainables.data.mistakes import Mistakes
from trainables.data.text.transcripts import BYTE_ORDER_MARK, single_spaced
from trainables.data.utterance import AudioSegment, Utterance
from trainables.errors import InputError

KEYS = ("audio_filepath", "text", "offset", "duration", "split", "id", "speaker")
MOST_SECONDS = 1e9  # 30 years


def manifest_utterances(
    path: Path, bad: Mistakes | None = None, keys: Mapping[str, str] = MappingProxyType({})
) -> list[Utterance]:
    """The utterances of a manifest.

    Keys of a line: `audio_filepath` (absolute, from `~`, or relative to the manifest's folder), `text` (optional in all
    lines of a test split), `offset` and `duration` in seconds, `split`, `id` (default: the audio file's name and the
    line number), `speaker`. Other keys are ignored.

    Args:
        keys: names in this manifest of some of these keys, such as {"text": "sentence"}.
        bad: collects lines with mistakes; default: an error.

    Raises:
        InputError: the file has no lines, or `bad` has more mistakes than may be left out (each named as file:line).
    """
    if unknown := [key for key in keys if key not in KEYS]:
        raise InputError(f"--keys: no key named {', '.join(unknown)}", f"The keys are {', '.join(KEYS)}.")
    utterances: list[Utterance] = []
    bad = bad or Mistakes(skippable=0)
    names = {key: keys.get(key, key) for key in KEYS}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        record, wrong = _record(line.lstrip(BYTE_ORDER_MARK))  # joined files have it inside
        record = {key: record.get(name) for key, name in names.items()}
        wrong = wrong or _mistakes(record, path.parent, names)
        if wrong:
            bad.add(f"{origin}: {'; '.join(wrong)}")
        else:
            utterances.append(_utterance(record, path.parent, number, origin))
    bad.check("Correct these lines, or remove them.")
    if not utterances:
        raise InputError(f"{path}: no utterances", "Give a JSON object a line.")
    return utterances


def _record(line: str) -> tuple[dict[str, Any], list[str]]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, [f"not JSON: {error}"]
    return (record, []) if isinstance(record, dict) else ({}, ["not a JSON object"])


def _mistakes(record: dict[str, Any], folder: Path, names: Mapping[str, str]) -> list[str]:
    """Mistakes in the values of a line, whose keys are named in messages as in the manifest."""
    mistakes = []
    audio, text, offset, duration = (record[key] for key in ("audio_filepath", "text", "offset", "duration"))
    if not isinstance(audio, str) or not audio:
        mistakes.append(f"{names['audio_filepath']} must be a path, but got {audio!r}")
    elif problem := not_a_file(located(audio, folder)):
        mistakes.append(problem)
    if text is not None and not isinstance(text, str):
        mistakes.append(f"{names['text']} must be a string, but got {text!r}")
    elif text is not None and not text.strip():
        mistakes.append("empty transcript")
    if offset is not None and not (_is_number(offset) and offset >= 0):
        mistakes.append(f"{names['offset']} must be seconds from 0, but got {offset!r}")
    if duration is not None and not (_is_number(duration) and duration > 0):
        mistakes.append(f"{names['duration']} must be seconds above 0, but got {duration!r}")
    for key in ("split", "id", "speaker"):
        value = record[key]
        numbered = key == "speaker" and isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not isinstance(value, str) or not value) and not numbered:
            mistakes.append(f"{names[key]} must be a name, but got {value!r}")
    return mistakes


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST_SECONDS


def _utterance(record: dict[str, Any], folder: Path, number: int, origin: str) -> Utterance:
    audio, text, speaker = located(record["audio_filepath"], folder), record["text"], record["speaker"]
    return Utterance(
        id=record["id"] or f"{audio.stem}-{number:06d}",
        split=record["split"] or TRAINING,
        text=None if text is None else single_spaced(text),
        source=AudioSegment(audio, record["offset"] or 0.0, record["duration"]),
        origin=origin,
        speaker=None if speaker is None else str(speaker),
    )
