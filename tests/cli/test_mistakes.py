"""The command line: a user's mistake is two lines and exit code 2.

The mistakes are lines of the tables in tests/assets/mistakes, one table for each group of commands: the words after
`platform`, how the message begins, and what else it says, with ` | ` between them. `{place}` is the folder in which the
commands are run (place.py); the files in tests/assets/mistakes/files lie in it.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import soundfile
from command import PLATFORM
from place import Run

from asr_platform.cli import main as cli

TABLES = Path(__file__).parents[1] / "assets" / "mistakes"


def mistakes() -> Iterator[Any]:
    """The lines of all tables: words, how the message begins, what else it says."""
    for table in sorted(TABLES.glob("*.txt")):
        for line in table.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                words, beginning, *parts = line.split(" | ")
                yield pytest.param(words, beginning, parts, id=words)


def message(err: str) -> str:
    """What is said, without the program's name and the reminder of the usage."""
    lines = [line for line in err.splitlines() if line and not line.startswith(("Usage: ", "Try 'platform"))]
    return "\n".join(lines).removeprefix("platform: ").removeprefix("Error: ")


@pytest.mark.parametrize(("words", "beginning", "parts"), mistakes())
def test_a_mistake_is_explained(run: Run, place: Path, words: str, beginning: str, parts: list[str]) -> None:
    """It names the file, key or option, says what to do, and changes nothing."""
    before = sorted(place.rglob("*.csv")) + sorted(place.glob("*corpus*"))
    ended = run(*shlex.split(words))
    assert ended.code == 2, ended
    assert message(ended.err).startswith(beginning.replace("{place}", str(place))), ended.err
    assert [part for part in parts if part not in ended.err] == [], ended.err
    assert len(ended.err.strip().splitlines()) >= 2, "a problem and a remedy"
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert sorted(place.rglob("*.csv")) + sorted(place.glob("*corpus*")) == before


def commands(command: click.Command = cli.cli, words: str = "") -> Iterator[str]:
    """The words of every command that does something."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{words} {name}".strip())
    else:
        yield words


@pytest.mark.parametrize("words", commands())
def test_every_command_has_mistakes_of_its_own(words: str) -> None:
    assert any(f" {words} " in f" {case.values[0]} " for case in mistakes())


def test_a_taken_port_is_refused(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = run("ui", "--port", str(port))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"platform: port {port} of 127.0.0.1: Address already in use\n" + (
        "Say another --port, or --host 127.0.0.1.\n"
    )


def test_a_home_without_a_sweep(run: Run, place: Path) -> None:
    """A sweep that was refused leaves a home, but no sweep."""
    assert run("--home", "refused", "sweep", "right.yaml", "--data", "no-dev").code == 2
    ended = run("--home", "refused", "leaderboard")
    assert ended.code == 2
    assert "refused: nothing has been run here" in ended.err and "Run platform sweep first" in ended.err


def test_an_error_of_the_program_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Only what the system refuses is a message; a bug keeps its traceback."""

    def broken(*arguments: object) -> None:
        raise OSError("no error number: not the system's")

    monkeypatch.setattr("asr_platform.inference.evaluate.write_submission", broken)
    with pytest.raises(OSError, match="not the system's"):
        run("submit", "model", "--data", "corpus", "--split", "test", "--out", "s.csv")


# What the system refuses


def manifest(folder: Path, seconds: float = 0.1) -> Path:
    """A manifest of three utterances of noise to train on, and one to validate on."""
    lines = []
    for number in range(4):
        audio = folder / f"{number}.wav"
        soundfile.write(audio, 0.1 * np.random.default_rng(number).normal(size=round(16_000 * seconds)), 16_000)
        split = "train" if number else "dev"
        lines.append(json.dumps({"audio_filepath": str(audio), "text": "A CAB", "split": split}))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(("seconds", "room"), [(1.0, 10_000), (1.0, 61_000), (0.1, 1_000)])
def test_a_full_disk_while_preparing(tmp_path: Path, seconds: float, room: int) -> None:
    """The installed command, where no file may grow beyond `room` bytes.

    It gives out in the midst of the frames, in the Arrow file of the training split (3 x 126 frames of 160 bytes and
    the rest), or when all that is buffered is written. Nothing is left of the corpus, and the message names it.
    """
    out = tmp_path / "made" / "corpus"
    ended = subprocess.run(
        [PLATFORM, "prepare", "manifest", manifest(tmp_path, seconds), "--out", out, "--jobs", "1"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert ended.returncode == 2, ended
    assert ended.stderr == f"platform: {out}: File too large\nFree space there, or choose another place.\n"
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(run: Run, tmp_path: Path) -> None:
    path = manifest(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o500)
    ended = run("prepare", "manifest", str(path), "--out", str(tmp_path / "closed" / "corpus"))
    assert ended.code == 2
    assert str(tmp_path / "closed") in ended.err and "may write to" in ended.err


def test_a_reader_that_has_seen_enough_is_no_error(place: Path) -> None:
    """As in `platform leaderboard | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [PLATFORM, "leaderboard", "small", "--json"], cwd=place, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 1
