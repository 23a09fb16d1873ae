"""Corpora on a storage: fetched once a machine, checked by their hash, and removed when they fill the cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.folders import CACHE, cached_corpus
from trainables.storage import corpus_cache
from trainables.storage.corpus_cache import content_hash, local_corpus, store_corpus
from trainables.storage.remote import Remote, StorageError


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(corpus_cache, "_in_use", {})
    return Remote(str(tmp_path / "shared"))


def corpus(folder: Path, text: str = "AB", **options: object) -> Corpus:
    return tiny.write_corpus(folder, {"train": [text, "CAB"], "dev": [text]}, **options)


def test_the_hash_is_that_of_the_content(tmp_path: Path, tiny_corpus: Corpus) -> None:
    assert content_hash(tiny_corpus) == tiny_corpus.hash
    other = corpus(tmp_path / "other")
    assert content_hash(other) == other.hash != tiny_corpus.hash


def test_a_corpus_is_stored_and_fetched_once(tmp_path: Path, storage: Remote) -> None:
    here = corpus(tmp_path / "here")
    assert store_corpus(storage, here)
    assert not store_corpus(storage, here), "it is there already"
    assert local_corpus(here.path, here.hash, storage).path == here.path
    assert not cached_corpus(here.hash).exists(), "nothing is fetched that is here"
    fetched = local_corpus(tmp_path / "absent", here.hash, storage)
    assert fetched.path == cached_corpus(here.hash) and fetched.hash == here.hash
    assert (fetched.path / "train.arrow").read_bytes() == (here.path / "train.arrow").read_bytes()
    storage.delete_folder("corpora")
    assert local_corpus(tmp_path / "absent", here.hash, storage).path == fetched.path
    other = corpus(tmp_path / "other", "BA")
    assert local_corpus(other.path, here.hash, storage).path == fetched.path, "another one is at the path"


def test_what_is_nowhere_or_damaged_is_told(tmp_path: Path, storage: Remote) -> None:
    here, other = corpus(tmp_path / "here"), corpus(tmp_path / "other", "BA")
    with pytest.raises(StorageError, match=f"shared: the corpus {here.hash[:12]} is not there"):
        local_corpus(tmp_path / "absent", here.hash, storage)
    with pytest.raises(InputError, match="other: not the corpus that the sweep began with"):
        local_corpus(other.path, here.hash, None)
    store_corpus(storage, here)
    storage.store(other.path / "dev.arrow", f"corpora/{here.hash}/dev.arrow")
    with pytest.raises(InputError, match=f"corpora/{here.hash}: damaged"):
        local_corpus(tmp_path / "absent", here.hash, storage)
    assert not cached_corpus(here.hash).exists()


def test_the_copies_used_longest_ago_make_room_but_none_in_use(
    tmp_path: Path, storage: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = []
    for number, text in enumerate(("AB", "BA", "AA", "BB")):
        one = corpus(tmp_path / text, text)
        store_corpus(storage, one)
        hashes.append(one.hash)
        size = sum(file.stat().st_size for file in one.path.glob("*.*"))
        monkeypatch.setenv(corpus_cache.MOST_GB, str(2.5 * size / 1e9))
        if number == 1:  # another process of the machine, which still uses it
            code = "import sys; from pathlib import Path; from trainables.storage.corpus_cache import local_corpus\n"
            code += "from trainables.storage.remote import Remote\n"
            code += "local_corpus(Path('absent'), sys.argv[1], Remote(sys.argv[2])); print('open', flush=True); input()"
            words = [sys.executable, "-c", code, one.hash, storage.address]
            user = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert user.stdout and user.stdout.readline().startswith(("open", "2"))
        else:
            local_corpus(tmp_path / "absent", one.hash, storage)
            for lock in corpus_cache._in_use.values():  # as when its process ends
                lock.close()
            corpus_cache._in_use.clear()
    there = [cached_corpus(hash).is_dir() for hash in hashes]
    user.communicate("\n")
    assert there == [False, True, False, True]
