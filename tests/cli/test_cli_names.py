"""Names with bytes that are not UTF-8: used where that is possible, refused by name where it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from place import Run

NAME = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("words", [
    "evaluate {name} --data corpus --split dev", "evaluate model --data {name} --split dev",
    "export model --out {name}", "prepare synthetic --train 8 --jobs 1 --out {name}",
    "sweep right.yaml --data {name}", "export {name} --out new",
])  # fmt: skip
def test_a_folder_that_arrow_and_safetensors_cannot_open(words: str, run: Run, place: Path) -> None:
    ended = run(*words.format(name=NAME).split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("platform: caf\\udce9: a path that is not UTF-8\nRename it")
    assert not (place / NAME).exists() and not (place / "new").exists()


@pytest.mark.parametrize("words", ["submit model --data corpus --split test --out {name}", "report small --out {name}"])
def test_a_file_that_is_written(words: str, run: Run, place: Path) -> None:
    ended = run(*words.format(name=NAME).split())
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("caf\\udce9: ") and (place / NAME).stat().st_size
    (place / NAME).unlink()


@pytest.mark.parametrize("target", ["empty", "absent"])
@pytest.mark.parametrize("words", ["export model --out link", "prepare synthetic --train 8 --jobs 1 --out link"])
def test_no_folder_is_made_through_a_link(words: str, target: str, run: Run, place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (place / "link").symlink_to(tmp_path / target)
    ended = run(*words.split())
    (place / "link").unlink()  # which is still there
    assert (ended.code, ended.out) == (2, "") and "link: a symbolic link" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"] and not any((tmp_path / "empty").iterdir())
