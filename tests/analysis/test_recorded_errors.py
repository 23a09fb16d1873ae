"""What is known of a CER outlives the checkpoint that it was measured on, and is never another epoch's."""

from __future__ import annotations

from pathlib import Path

import pytest
import records
from records import errors_of

from asr_platform.analysis.leaderboard import rows
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.study.ledger import TrialRecord
from trainables.inference.model_files import ERRORS


def trial(number: int, cers: list[float], folder: Path | None = None, wrong: list[int] | None = None) -> TrialRecord:
    """A trial that is running; its best epoch's checkpoint is in the folder, with so many errors."""
    found = records.trial(number, "running", cers)
    if found.best and folder is not None:
        checkpoint = folder / f"checkpoint-{number}-{found.best['epoch']}"
        checkpoint.mkdir()
        found.best["checkpoint"] = str(checkpoint)
        if wrong is not None:
            errors_of(wrong, epoch=found.best["epoch"]).save(checkpoint / ERRORS)
    return found


def test_they_outlive_the_checkpoint(tmp_path: Path) -> None:
    store, kept = RecordedErrors(tmp_path / "sweep"), trial(7, [0.5, 0.1], tmp_path, [1, 2, 3])
    assert store.of(kept) is None
    store.on_epoch_end(kept)
    checkpoint = Path(kept.best["checkpoint"]) if kept.best else tmp_path
    (checkpoint / ERRORS).unlink()
    checkpoint.rmdir()
    store.on_epoch_end(kept)
    assert store.of(kept) == errors_of([1, 2, 3], epoch=2)
    assert [path.name for path in (tmp_path / "sweep/errors").iterdir()] == ["trial-0007.json"]


def test_a_better_epoch_takes_their_place_and_a_worse_one_does_not(tmp_path: Path) -> None:
    store = RecordedErrors(tmp_path)
    store.on_epoch_end(trial(0, [0.5], tmp_path, [9, 9]))
    better = trial(0, [0.5, 0.1, 0.3], tmp_path, [1, 1])
    assert store.of(better) is None, "epoch 1's errors are not epoch 2's"
    store.on_epoch_end(better)
    assert store.of(better) == errors_of([1, 1], epoch=2)


@pytest.mark.parametrize("place", [None, "s3://bucket/checkpoint", "/not/mounted/here"])
def test_a_checkpoint_out_of_reach_leaves_none(place: str | None, tmp_path: Path) -> None:
    store, far = RecordedErrors(tmp_path), trial(0, [0.5])
    assert far.best is not None
    far.best["checkpoint"] = place
    store.on_epoch_end(far)
    assert store.of(far) is None


def test_what_cannot_be_written_ends_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "errors").touch()
    store, kept = RecordedErrors(tmp_path), trial(0, [0.5], tmp_path, [1])
    store.on_epoch_end(kept)
    assert store.of(kept) is None
    (tmp_path / "errors").unlink()
    store.on_epoch_end(kept)
    assert store.of(kept) is not None, "the next time"


def test_the_leaderboard_knows_intervals_and_ties(tmp_path: Path) -> None:
    """1 is best, 0 nearly as good, 2 clearly worse; 3 has no errors on record, 4 no epoch."""
    store = RecordedErrors(tmp_path)
    wrong = {0: [2, 0] * 49 + [2, 1], 1: [2, 0] * 50, 2: [3, 1] * 50}
    trials = [trial(number, [sum(counts) / 2000], tmp_path, counts) for number, counts in wrong.items()]
    trials += [trial(3, [0.07], tmp_path), trial(4, [])]
    for each in trials:
        store.on_epoch_end(each)
    table = rows(trials, store.cer_intervals(trials))
    assert [(row["trial"], row["tied"]) for row in table] == [(1, True), (0, True), (3, None), (2, False), (4, None)]
    for row in table:
        if row["trial"] in wrong:
            low, high = row["val_cer_interval"]
            assert 0 <= low < row["val_cer"] < high
        else:
            assert row["val_cer_interval"] is None


def test_a_sweep_without_a_trial_has_no_intervals(tmp_path: Path) -> None:
    assert RecordedErrors(tmp_path).cer_intervals([]) == {}
