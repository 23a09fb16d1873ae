"""What makes a node unfit for a sweep, each with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from asr_platform.storage.home import LOCK
from asr_platform.tuning.nodes import check
from asr_platform.tuning.nodes.check import unfit
from trainables.data.corpus import Corpus
from trainables.storage.corpus_cache import store_corpus
from trainables.storage.remote import Remote

HOLDER = "sweep 4711"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a sweep that is running."""
    folder = tmp_path / "home" / "sweeps" / "one"
    folder.mkdir(parents=True)
    (folder / LOCK).write_text(HOLDER)
    return folder


def reason(folder: Path, corpus: Path, corpus_hash: str, storage: Path | None = None) -> str:
    return unfit(str(folder), HOLDER, str(corpus), corpus_hash, str(storage) if storage else None)


def test_a_node_with_home_and_corpus_is_fit(folder: Path, tiny_corpus: Corpus) -> None:
    assert reason(folder, tiny_corpus.path, tiny_corpus.hash) == ""
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_what_a_node_lacks_is_named(folder: Path, tiny_corpus: Corpus, tmp_path: Path) -> None:
    other = tiny.write_corpus(tmp_path / "other", {"train": ["A"], "dev": ["A"]})
    assert reason(folder, other.path, tiny_corpus.hash) == f"{other.path} is another corpus there"
    assert "it cannot read the corpus: " in reason(folder, tmp_path / "nowhere", tiny_corpus.hash)
    (folder / LOCK).write_text("sweep 12")
    assert "is another folder there" in reason(folder, tiny_corpus.path, tiny_corpus.hash)
    (folder / LOCK).unlink()
    assert "it cannot use the home: " in reason(folder, tiny_corpus.path, tiny_corpus.hash)


def test_what_a_node_cannot_import_is_named(folder: Path, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MODULES", ("no_such_library",))
    found = reason(folder, tiny_corpus.path, tiny_corpus.hash)
    assert found.startswith("it cannot import no_such_library: ModuleNotFoundError")


def test_with_a_storage_a_node_needs_neither_home_nor_corpus_but_room_for_logs(
    tmp_path: Path, tiny_corpus: Corpus
) -> None:
    nowhere, storage, hash = tmp_path / "nowhere", tmp_path / "storage", tiny_corpus.hash
    store_corpus(Remote(str(storage)), tiny_corpus)
    assert reason(tmp_path / "new" / "sweeps" / "one", nowhere, hash, storage) == ""
    (tmp_path / "file").write_text("")
    assert "it cannot make the folder of the home: " in reason(tmp_path / "file" / "sweeps", nowhere, hash, storage)
    found = unfit(str(nowhere), HOLDER, str(nowhere), hash, "s3://bucket?zone=1")
    assert found.startswith("it cannot use the storage: ")


def test_a_storage_that_the_node_has_not_mounted_is_named_and_not_made(tmp_path: Path, tiny_corpus: Corpus) -> None:
    found = reason(tmp_path / "home" / "sweeps" / "one", tiny_corpus.path, tiny_corpus.hash, tmp_path / "unmounted")
    assert found == f"{tmp_path / 'unmounted'} is another folder there than on the driver's machine: " + (
        "the corpus is not in it"
    )
    assert not (tmp_path / "unmounted").exists()
