"""JSONL manifest: a JSON object a line with an audio file, its text, and optionally a segment and a split."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

from trainables.data.files import read_lines
from trainables.data.mistakes import Mistakes
from trainables.data.text.transcripts import BYTE_ORDER_MARK, single_spaced
from trainables.data.utterance import AudioSegment, Utterance
from trainables.errors import InputError

DEFAULT_SPLIT = "train"
MOST_SECONDS = 1e9  # 30 years


def manifest_utterances(path: Path, bad: Mistakes | None = None) -> list[Utterance]:
    """The utterances of a manifest.

    Keys of a line: `audio_filepath` (absolute, from `~`, or relative to the manifest's folder), `text` (optional in all
    lines of a test split), `offset` and `duration` in seconds, `split`, `id` (default: the audio file's name and the
    line number). Other keys are ignored.

    Args:
        bad: collects lines with mistakes; default: an error.

    Raises:
        InputError: the file has no lines, or `bad` has more mistakes than may be left out (each named as file:line).
    """
    utterances: list[Utterance] = []
    bad = bad or Mistakes(skippable=0)
    for number, line in read_lines(path):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        record, wrong = _record(line.lstrip(BYTE_ORDER_MARK))  # joined files have it inside
        wrong = wrong or _mistakes(record, path.parent)
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


def _mistakes(record: dict[str, Any], folder: Path) -> list[str]:
    """Mistakes in the values of a line."""
    mistakes = []
    audio = record.get("audio_filepath")
    if not isinstance(audio, str) or not audio:
        mistakes.append(f"audio_filepath must be a path, but got {audio!r}")
    elif problem := _not_a_file(_path(audio, folder)):
        mistakes.append(problem)
    text = record.get("text")
    if text is not None and not isinstance(text, str):
        mistakes.append(f"text must be a string, but got {text!r}")
    elif text is not None and not text.strip():
        mistakes.append("empty transcript")
    offset, duration = record.get("offset"), record.get("duration")
    if offset is not None and not (_is_number(offset) and offset >= 0):
        mistakes.append(f"offset must be seconds from 0, but got {offset!r}")
    if duration is not None and not (_is_number(duration) and duration > 0):
        mistakes.append(f"duration must be seconds above 0, but got {duration!r}")
    for key in ("split", "id"):
        value = record.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            mistakes.append(f"{key} must be a name, but got {value!r}")
    return mistakes


def _path(audio: str, folder: Path) -> Path:
    """Path of the audio file, whose name may have composed or (on macOS) decomposed accents."""
    named = folder / os.path.expanduser(audio)
    forms = (named, *(folder / unicodedata.normalize(form, str(named)) for form in ("NFC", "NFD")))
    return next((path for path in forms if not _not_a_file(path)), named)


def _not_a_file(path: Path) -> str | None:
    try:
        return None if path.is_file() else f"no such file: {path}"
    except OSError as error:
        return f"{path}: {error.strerror}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST_SECONDS


def _utterance(record: dict[str, Any], folder: Path, number: int, origin: str) -> Utterance:
    audio = _path(record["audio_filepath"], folder)
    text = record.get("text")
    return Utterance(
        id=record.get("id") or f"{audio.stem}-{number:06d}",
        split=record.get("split") or DEFAULT_SPLIT,
        text=None if text is None else single_spaced(text),
        source=AudioSegment(audio, record.get("offset") or 0.0, record.get("duration")),
        origin=origin,
    )
