"""A worker refuses another corpus, and removes the temporary checkpoints of killed workers."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tiny

from trainables.errors import InputError
from trainables.folders import this_process

worker = pytest.importorskip("trainables.worker", exc_type=ModuleNotFoundError, reason="needs Ray")


def settings(folder: Path, corpus_hash: str) -> dict[str, Any]:
    return {"config": tiny.config({}), "corpus": str(folder), "corpus_hash": corpus_hash, "watch": None}


def test_another_corpus_in_the_place_of_the_sweeps_is_refused(tmp_path: Path) -> None:
    """One leaderboard would rank trials on two corpora."""
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train": tiny.SENTENCES, "dev": tiny.SENTENCES})
    tiny.write_corpus(tmp_path / "other", {"train": tiny.SENTENCES[::-1], "dev": tiny.SENTENCES})
    (tmp_path / "corpus").rename(tmp_path / "away")
    (tmp_path / "other").rename(tmp_path / "corpus")
    with pytest.raises(InputError, match="not the corpus that the sweep began with"):
        worker._train(settings(tmp_path / "corpus", corpus.hash), lambda: None)
    assert json.loads((tmp_path / "away" / "corpus.json").read_text())["hash"] == corpus.hash


def test_checkpoints_of_killed_workers_are_removed_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = this_process().rpartition("-")[0]
    names = {
        "dead": f"{here}-{ended.pid}_x",
        "own": f"{this_process()}_x",
        "other": "letters_x",
        "elsewhere": f"another-machine-{ended.pid}_x",
    }
    folders = {key: tmp_path / f"{worker.TEMPORARY}{name}" for key, name in names.items()}
    for folder in [*folders.values(), tmp_path / "checkpoint_1"]:
        (folder / "checkpoint").mkdir(parents=True)
    worker.remove_temporary()
    assert not folders["dead"].exists()
    assert all(folders[key].exists() for key in ("own", "other", "elsewhere"))
    assert (tmp_path / "checkpoint_1").exists()
