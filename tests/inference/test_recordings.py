"""Which recordings the words of a command stand for."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recorded import tone, write_audio

from asr_platform.inference.recordings import AUDIO, find_recordings
from trainables.data.features import FeatureRecipe
from trainables.errors import InputError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recordings, with other files between them."""
    for name in ("b.wav", "a.flac", "deep/er/c.WAV", "deep/d.ogg", "e.mp3"):
        write_audio(tmp_path / "calls" / name, 0.2)
    np.save(tmp_path / "calls" / "f.npy", np.zeros((80, 9), np.float32))
    for name in ("notes.txt", ".hidden.wav", ".git/g.wav", "deep/README.md"):
        (tmp_path / "calls" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "calls" / name).touch()
    (tmp_path / "nothing" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*paths: str) -> list[str]:
    return [recording.name for recording in find_recordings(paths)]


def test_a_folder_is_all_audio_below_it(place: Path) -> None:
    inside = ["a.flac", "b.wav", "deep/d.ogg", "deep/er/c.WAV", "e.mp3", "f.npy"]
    found = find_recordings(["calls"])
    assert [recording.name for recording in found] == [f"calls/{name}" for name in inside]
    assert [str(recording.place) for recording in found] == ["a", "b", "deep/d", "deep/er/c", "e", "f"]
    assert names("calls/", "calls/b.wav") == [*(f"calls/{name}" for name in inside), "calls/b.wav"]
    assert names(str(place / "calls")) == [str(place / "calls" / name) for name in inside]


def test_a_pattern_is_the_files_that_it_matches(place: Path) -> None:
    assert names("calls/*.wav") == ["calls/b.wav"]
    assert names("calls/**/*.[wW][aA][vV]") == ["calls/b.wav", "calls/deep/er/c.WAV"]
    assert names("calls/?.*") == ["calls/a.flac", "calls/b.wav", "calls/e.mp3", "calls/f.npy"]


def test_a_name_that_looks_like_a_pattern_is_a_name_first(place: Path) -> None:
    write_audio(place / "calls[1].wav", 0.2)
    assert names("calls[1].wav", "./calls/b.wav") == ["calls[1].wav", "calls/b.wav"]


def test_all_that_leads_nowhere_is_named_at_once(place: Path) -> None:
    with pytest.raises(InputError) as error:
        names("absent.wav", "nothing", "calls/*.aiff", "calls/b.wav")
    assert error.value.problem.splitlines() == [
        "no such file: absent.wav",
        f"nothing: no audio here ({', '.join([*AUDIO, '.npy'])})",
        "no file matches calls/*.aiff",
    ]


def test_every_kind_of_audio_in_a_folder_can_be_read(tmp_path: Path) -> None:
    for suffix in AUDIO:
        kind = {".opus": {"format": "OGG", "subtype": "OPUS"}}.get(suffix, {})
        soundfile.write(tmp_path / f"a{suffix}", tone(0.5), 16_000, **kind)
    found = find_recordings([str(tmp_path)])
    assert len(found) == len(AUDIO)
    for recording in found:
        recording.check(FeatureRecipe())


# Standard input


def heard(content: bytes) -> subprocess.CompletedProcess[str]:
    """Samples, or the mistake, of what comes through a pipe."""
    code = (
        "from asr_platform.inference.recordings import find_recordings\n"
        "from trainables.errors import InputError\n"
        "try:\n"
        "    recording, = find_recordings(['-'])\n"
        "    print(recording.name, recording.place, recording.ready, len(recording.samples))\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    return ended.stdout.decode().strip()


def sound(format: str, subtype: str | None = None, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0.5, rate), rate, format=format, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(("format", "rate"), [("WAV", 16_000), ("FLAC", 8_000), ("OGG", 44_100)])
def test_audio_comes_through_a_pipe(format: str, rate: int) -> None:
    assert heard(sound(format, rate=rate)) == "- stdin False 8000"


@pytest.mark.parametrize("length", [0x7FFF_F000, 0xFFFF_FFFF])
def test_a_program_that_pipes_wav_cannot_know_its_length(length: int) -> None:
    """SoX' largest number, ffmpeg's."""
    wav = sound("WAV", "PCM_16")
    place = wav.index(b"data") + 4
    piped = wav[:4] + b"\xff\xff\xff\xff" + wav[8:place] + length.to_bytes(4, "little") + wav[place + 4 :]
    assert heard(piped) == "- stdin False 8000"


def test_a_program_that_pipes_flac_cannot_know_its_length() -> None:
    flac = bytearray(sound("FLAC"))
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])
    assert heard(bytes(flac)) == "- stdin False 8000"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "zero-length file"), (b"not audio", "unreadable"), (sound("WAV")[:-99], "truncated")],
)
def test_a_pipe_without_audio_is_refused(content: bytes, problem: str) -> None:
    first, second = heard(content).splitlines()
    assert first.startswith(f"standard input: {problem}") and "/tmp" not in first
    assert second == "Send one WAV or FLAC file."


def test_a_terminal_is_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, callback = os.openpty()
    with os.fdopen(leader), os.fdopen(callback) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with pytest.raises(InputError, match="standard input is a terminal"):
            find_recordings(["-"])


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(sound("WAV"))))
    with pytest.raises(InputError, match="standard input is read once"):
        find_recordings(["-", "-"])
