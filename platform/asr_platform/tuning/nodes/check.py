"""Checks whether a node of a cluster can train a sweep's trials, in a task of Ray on that node."""

from __future__ import annotations

import tempfile
import time
from importlib import import_module
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from asr_platform.storage.home import LOCK
from asr_platform.tuning.cluster import Node
from asr_platform.tuning.loop.failure_reasons import reason_of
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.storage.corpus_cache import has_corpus
from trainables.storage.remote import Remote, StorageError

MODULES = ("trainables.training.loop", "asr_platform.tuning.trial")  # what the processes of a trial import
RECHECK_AFTER = 60.0  # seconds; a node may join before its shared folders are there
RECHECK_SILENT_AFTER = 1800.0  # seconds; each check of a node whose folders hang may leave a process there
TIMEOUT = 180.0  # seconds; the first import of torch on a machine can take one or two minutes


def unfit(folder: str, holder: str, corpus: str, corpus_hash: str, storage: str | None) -> str:
    """Reason why this node cannot train a sweep's trials, in one line; empty if it can.

    Args:
        folder: folder of the sweep in the home.
        holder: content of the sweep's lock file, which tells its home from another one at the same path.
        corpus: folder of the corpus, which must have the hash `corpus_hash`.
        storage: address of checkpoints and corpora, with which a node needs neither home nor corpus; or None. The
            driver has stored the corpus there.
    """
    for module in MODULES:
        try:
            import_module(module)
        except Exception as error:  # a library without its own libraries raises OSError
            return f"it cannot import {module}: {type(error).__name__}: {error}"
    if storage is not None:
        try:
            if not has_corpus(Remote(storage), corpus_hash):  # before a folder is made that was to be mounted
                return f"{storage} is another folder there than on the driver's machine: the corpus is not in it"
            Remote(storage).check()
        except StorageError as error:
            return f"it cannot use the storage: {error.problem}"
        try:  # where the processes of a trial keep their logs until they are on the storage
            Path(folder).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            return f"it cannot make the folder of the home: {error}; choose a --home that every node can make"
        return ""
    try:
        if (Path(folder) / LOCK).read_text() != holder:
            return f"{folder} is another folder there than on the driver's machine"
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"checked")
    except OSError as error:
        return f"it cannot use the home: {error}"
    try:
        found = Corpus.open(Path(corpus)).hash
    except (InputError, OSError) as error:
        return f"it cannot read the corpus: {error}"
    return "" if found == corpus_hash else f"{corpus} is another corpus there"


class Check:
    """Check of a node, which begins when it is made.

    Args:
        folder: folder of the sweep, which its driver has locked.
        storage: address of checkpoints and corpora, or None.

    Attributes:
        began: when it began (time.monotonic).
        recheck_after: seconds from its beginning until a node that has failed it may be checked again.
    """

    def __init__(self, node: Node, folder: Path, corpus: Corpus, storage: str | None = None) -> None:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task = ray.remote(unfit).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        holder, place = (folder / LOCK).read_text(), str(corpus.path.resolve())
        self.began, self.recheck_after = time.monotonic(), RECHECK_AFTER
        self._found: str | None = None
        self._task = task.remote(str(folder.resolve()), holder, place, corpus.hash, storage)

    @property
    def reason(self) -> str | None:
        """Reason why the node cannot be used; empty if it can; None while that is not known yet."""
        if self._found is None:
            if ray.wait([self._task], timeout=0)[0]:
                self._found = self._answer()
            elif time.monotonic() - self.began > TIMEOUT:
                self._found, self.recheck_after = f"no answer for {TIMEOUT:.0f} s", RECHECK_SILENT_AFTER
                ray.cancel(self._task, force=True)  # a folder of the network that hangs would keep it for ever
        return self._found

    def _answer(self) -> str:
        try:
            return str(ray.get(self._task))
        except Exception as error:  # the node has gone, or cannot set up the platform's own packages
            return reason_of(error)
