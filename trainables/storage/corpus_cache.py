"""Corpora on a storage, and their copies on each machine: fetched once, checked, and removed when they fill the cache.

A corpus is stored under the hash of its content, so every sweep that trains on it finds the same copy.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from trainables.data.corpus import DESCRIPTION_FILE, Corpus
from trainables.data.corpus_writer import SplitContent, corpus_hash
from trainables.errors import InputError
from trainables.folders import cached_corpus, replaced
from trainables.output import say
from trainables.storage.remote import Remote, StorageError

MOST_GB = "ASR_PLATFORM_CACHE_GB"  # variable with the most 10^9 bytes of all copies together
DEFAULT_GB = 200.0
FOLDER = "corpora"  # on the storage
_in_use: dict[Path, IO[str]] = {}  # locks of the copies that this process uses, until it ends


def store_corpus(storage: Remote, corpus: Corpus) -> bool:
    """Copies a corpus to the storage, its description last; returns False if it is there already."""
    if has_corpus(storage, corpus.hash):
        return False
    for name in (*(f"{split}.arrow" for split in corpus.splits), DESCRIPTION_FILE):
        storage.store(corpus.path / name, f"{FOLDER}/{corpus.hash}/{name}")
    return True


def has_corpus(storage: Remote, hash: str) -> bool:
    """Whether a corpus is on the storage as a whole."""
    return DESCRIPTION_FILE in storage.files(f"{FOLDER}/{hash}")


def local_corpus(path: Path, hash: str, storage: Remote | None) -> Corpus:
    """The corpus at `path` on this machine; if another or none is there, a copy of the one with the hash.

    Raises:
        InputError: there is no storage, and this machine does not have it; or what was fetched is damaged.
        StorageError: neither this machine nor the storage has it, as where a node has not mounted the storage.
    """
    try:
        corpus = Corpus.open(path)
        if corpus.hash == hash:
            return corpus
        missing = InputError(f"{path}: not the corpus that the sweep began with", "Put that one back.")
    except InputError as error:
        missing = error
    if storage is None:
        raise missing
    folder = cached_corpus(hash)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder not in _in_use:
        _in_use[folder] = _locked(folder, lambda: _fetch(storage, hash, folder))
    with suppress(OSError):
        os.utime(folder)  # used now
    return Corpus.open(folder)


def _locked(folder: Path, fetch: Callable[[], None]) -> IO[str]:
    """A lock that keeps a copy from being removed while it is open; one process fetches the copy, and others wait."""
    lock = _lock_file(folder).open("a")
    try:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if folder.is_dir():
                return lock
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                fetch()
    except BaseException:
        lock.close()
        raise


def _fetch(storage: Remote, hash: str, folder: Path) -> None:
    if not has_corpus(storage, hash):
        raise StorageError(storage.address, f"the corpus {hash[:12]} is not there")
    files = storage.files(f"{FOLDER}/{hash}")
    make_room(folder.parent, sum(files.values()))
    say(f"fetching the corpus {hash[:12]} ({sum(files.values()) / 1e9:.1f} GB) from {storage.address}")
    with replaced(folder) as partial:
        storage.fetch_folder(f"{FOLDER}/{hash}", partial, files)
        found = content_hash(Corpus.open(partial))
        if found != hash:
            raise InputError(
                f"{storage.address}/{FOLDER}/{hash}: damaged: its content has the hash {found[:12]}",
                "Delete it there; the next sweep that begins with the corpus stores it again.",
            )


def make_room(root: Path, size: int) -> None:
    """Removes the copies that were not used for longest until `size` bytes fit below the cap; those in use stay."""
    cap = float(os.environ.get(MOST_GB) or DEFAULT_GB) * 1e9
    copies = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in copies}
    for path in copies:
        if sum(sizes.values()) + size <= cap:
            return
        with suppress(BlockingIOError), _free(path):
            shutil.rmtree(path, ignore_errors=True)
            del sizes[path]


def content_hash(corpus: Corpus) -> str:
    """The hash of a corpus, computed from its content."""
    splits: dict[str, SplitContent] = {}
    for name in corpus.splits:
        split, content = corpus.split(name), SplitContent()
        nothing: list[None] = [None] * len(split)
        texts, speakers = split.texts or nothing, split.speakers or nothing
        for place, (id, text, speaker) in enumerate(zip(split.ids, texts, speakers, strict=True)):
            encoded = None if text is None else text.encode()
            content.add(id.encode(), encoded, split.utterance(place).numpy(), speaker)
        splits[name] = content
    return corpus_hash(corpus.recipe, splits)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def _free(folder: Path) -> Iterator[None]:
    """Context in which nobody uses a copy.

    Raises:
        BlockingIOError: somebody does.
    """
    with _lock_file(folder).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
