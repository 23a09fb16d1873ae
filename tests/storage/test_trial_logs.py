"""A trial's logs are read whole, in the order of its workers, and while they grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_platform.storage import trial_logs
from asr_platform.storage.trial_logs import TAIL, last_lines, log_files, printed


def test_the_logs_are_in_the_order_of_the_workers(tmp_path: Path) -> None:
    for name in ("log-10.txt", "log.txt", "log-2.txt", "training.json"):
        (tmp_path / name).write_text(f"{name}\n")
    assert [path.name for path in log_files(tmp_path)] == ["log.txt", "log-2.txt", "log-10.txt"]
    assert "".join(printed(tmp_path)) == (
        "==> log.txt <==\nlog.txt\n==> log-2.txt <==\nlog-2.txt\n==> log-10.txt <==\nlog-10.txt\n"
    )
    assert log_files(tmp_path / "absent") == [] and list(printed(tmp_path / "absent")) == []


def test_one_log_needs_no_heading(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"one\n\xff\n")
    assert list(printed(tmp_path)) == ["one\n�\n"]


def test_the_last_lines_are_those_of_the_log_that_was_written_last(tmp_path: Path) -> None:
    assert last_lines(tmp_path, 3) == (None, [])
    (tmp_path / "log-1.txt").write_text("another\n")
    (tmp_path / "log.txt").write_text("".join(f"line {n}\n\n" for n in range(TAIL)))
    (tmp_path / "log-1.txt").touch()
    last = TAIL - 1
    newest = max(log_files(tmp_path), key=lambda path: path.stat().st_mtime)
    assert last_lines(tmp_path, 3)[0] == newest
    (tmp_path / "log-1.txt").unlink()
    file, lines = last_lines(tmp_path, 3)
    assert file == tmp_path / "log.txt" and lines == [f"line {n}" for n in (last - 2, last - 1, last)]


def test_a_growing_log_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written between the last look and the trial's end is read too, and letters are never cut in two."""
    monkeypatch.setattr(trial_logs, "POLL_SECONDS", 0.0)
    pieces = [b"begins\n", "é".encode()[:1], "é".encode()[1:] + b"\n", b"the end\n"]

    def write() -> Iterator[bool]:
        for piece in pieces:
            with (tmp_path / "log.txt").open("ab") as file:
                file.write(piece)
            yield piece is not pieces[-1]

    going_on = write()
    assert "".join(printed(tmp_path, lambda: next(going_on))) == "begins\né\nthe end\n"
