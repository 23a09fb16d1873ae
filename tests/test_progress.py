"""Progress within an epoch: reported by the training loop, kept in a file, and read from it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
import tiny

from trainables.data.corpus import Corpus
from trainables.progress import Progress, ProgressFile, read_progress
from trainables.training.loop import train


def test_a_training_tells_of_each_update_in_each_epoch(tiny_corpus: Corpus) -> None:
    """The first epoch's number of updates is known before its first one, and is that which it has in the end."""
    told: list[Progress] = []
    rows: list[int] = []
    train(
        tiny.config({"training.epochs": 2}), tiny_corpus, lambda row, save: rows.append(row["updates"]),
        progress=told.append,
    )  # fmt: skip
    epochs = [list(group) for _, group in groupby(told, lambda one: one.epoch)]
    assert [one[0].epoch for one in epochs] == [1, 2]
    for number, updates in zip(epochs, (rows[0], rows[1] - rows[0]), strict=True):
        assert updates > 1
        assert [(one.done, one.total) for one in number] == [(done, updates) for done in range(1, updates + 1)]
    assert 0 < told[0].share < 1 and epochs[0][-1].share == 1


def test_a_file_has_the_latest_progress_of_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new epoch and the end of one are written at once; a process that begins removes what another has left."""
    monkeypatch.setattr("trainables.progress.SECONDS_BETWEEN_WRITES", 1000.0)  # a busy machine takes its time
    path = tmp_path / "progress.json"
    path.write_text('{"epoch": 1, "done": 8, "total": 9}')
    write = ProgressFile(path)
    assert read_progress(path) is None
    for progress in (Progress(1, 0, 9), Progress(1, 1, 9)):
        write(progress)
        assert read_progress(path) == Progress(1, 0, 9)
    write.written -= 2000.0
    write(Progress(1, 5, 9))
    assert read_progress(path) == Progress(1, 5, 9)
    for progress in (Progress(1, 9, 9), Progress(2, 1, 9)):
        write(progress)
        assert read_progress(path) == progress


def test_what_is_no_progress_is_none(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    for text in ("", '{"epoch": 1', "[]", '{"epoch": 1}', "7"):
        path.write_text(text)
        assert read_progress(path) is None
    ProgressFile(tmp_path / "gone" / "progress.json")(Progress(1, 0, 9))
