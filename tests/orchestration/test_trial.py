"""What a trial finds in its folder when it goes on."""

from __future__ import annotations

from pathlib import Path

from asr_platform.trial import SNAPSHOT, TRAINING, mended


def checkpoint(folder: Path, name: str, whole: bool = True) -> Path:
    path = folder / f"checkpoint_{name}"
    path.mkdir(parents=True)
    if whole:
        (path / TRAINING).write_text("{}")
    return path


def test_a_new_trial_and_a_whole_list_need_no_mending(tmp_path: Path) -> None:
    assert mended(tmp_path / "missing") is None
    (tmp_path / SNAPSHOT).write_text("{}")
    assert mended(tmp_path) is None
    assert (tmp_path / SNAPSHOT).exists()


def test_half_a_list_is_removed_and_the_latest_whole_checkpoint_found(tmp_path: Path) -> None:
    checkpoint(tmp_path, "2026-11-21_10-00-00.000001")
    latest = checkpoint(tmp_path, "2026-11-21_10-00-09.000001")
    checkpoint(tmp_path, "2026-11-21_10-00-10.000001", whole=False)
    (tmp_path / SNAPSHOT).write_text('{"checkpoint_results": [')
    assert mended(tmp_path) == str(latest)
    assert not (tmp_path / SNAPSHOT).exists()


def test_half_a_list_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).write_text("")
    assert mended(tmp_path) is None
