"""Transcription by several processes of a machine without a GPU.

Utterances are put into the same batches whatever the number of processes, so that their texts are the same, up to the
rounding of another number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr_platform.tracking.resolving import registered_language_model
from trainables.config.tree import Decoding
from trainables.data.batch_plan import in_batches
from trainables.data.workers import available_cpus, ordered_map
from trainables.decoding import Search
from trainables.inference.recognizer import BATCH_FRAMES, Recognizer, TimedText

SECONDS_PER_JOB = 300.0  # of audio; a process takes seconds to start


def load(model: Path) -> Recognizer:
    """Loads the recogniser of a model directory, on the GPU if there is one."""
    return Recognizer.load(model, device(), registered_language_model(model))


def device() -> str:
    """The GPU, if there is one, or the CPU, as torch names them."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def processes_for(seconds: float) -> int:
    """Number of processes that transcribe so many seconds of audio soonest: at most one a CPU, or one with a GPU."""
    return 1 if device() == "cuda" else int(min(available_cpus(), 1 + seconds // SECONDS_PER_JOB))


class Utterances(NamedTuple):
    """Features (T, F) of utterances, and whether their words get times."""

    features: Sequence[np.ndarray | Tensor]
    timed: bool = False


@dataclass
class Transcriber:
    """A recogniser with a search, in this process or in several.

    Args:
        search: a search made by `recognizer.search`.
        model: model directory of the recogniser, from which other processes load it; None: there are no others.
        nbest: number of best hypotheses of each utterance; 0: none.
    """

    recognizer: Recognizer
    search: Search
    model: Path | None = None
    nbest: int = 0

    def transcribe(self, groups: Iterable[Utterances], jobs: int) -> Iterator[list[TimedText]]:
        """Yields the texts of each group of utterances, in order; several processes read groups ahead.

        Args:
            jobs: number of processes, which share the CPUs; 1: this process transcribes.

        Raises:
            InputError: memory ran out, or the system killed a process.
        """
        waiting: deque[_Group] = deque()
        jobs = 1 if self.model is None else jobs

        def batches() -> Iterator[Utterances]:
            for utterances in groups:
                waiting.append(_Group.of(utterances))
                for indices in tuple(waiting[-1].batches):
                    # As arrays: to send a tensor, torch would move the whole split it is a part of to shared memory.
                    features = [np.asarray(utterances.features[index]) for index in indices]
                    yield Utterances(features, utterances.timed)

        with closing(ordered_map(self._function(jobs), batches(), jobs)) as found:
            for texts in found:
                yield from _whole(waiting)  # groups without an utterance
                waiting[0].add(texts)
                yield from _whole(waiting)
        yield from _whole(waiting)

    def _function(self, jobs: int) -> Callable[[Utterances], list[TimedText]]:
        if jobs == 1 or self.model is None:  # the same question twice, for the type checker
            return partial(_texts, self.recognizer, self.search, self.nbest)
        threads, decoding = max(1, available_cpus() // jobs), self.search.config.model_dump_json()
        return partial(_transcribe, self.model, decoding, self.nbest, threads)


@dataclass
class _Group:
    """Texts of a group of utterances, and the indices of those in each batch that is not transcribed yet."""

    texts: list[TimedText]
    batches: deque[np.ndarray]

    @classmethod
    def of(cls, utterances: Utterances) -> _Group:
        lengths = [len(frames) for frames in utterances.features]
        return cls([TimedText("", [])] * len(lengths), deque(in_batches(lengths, BATCH_FRAMES)))

    def add(self, texts: Sequence[TimedText]) -> None:
        """Adds the texts of the next batch."""
        for index, text in zip(self.batches.popleft(), texts, strict=True):
            self.texts[index] = text


def _whole(waiting: deque[_Group]) -> Iterator[list[TimedText]]:
    """Takes the first groups away as long as all of their batches are transcribed, and yields their texts."""
    while waiting and not waiting[0].batches:
        yield waiting.popleft().texts


def _texts(recognizer: Recognizer, search: Search, nbest: int, batch: Utterances) -> list[TimedText]:
    return recognizer.transcribe_timed(batch.features, search, batch.timed, nbest=nbest)


def _transcribe(model: Path, decoding: str, nbest: int, threads: int, batch: Utterances) -> list[TimedText]:
    """Transcribes a batch in another process, which loads the recogniser with its first batch."""
    return _texts(*_loaded(model, decoding, threads), nbest, batch)


@cache
def _loaded(model: Path, decoding: str, threads: int) -> tuple[Recognizer, Search]:
    torch.set_num_threads(threads)
    recognizer = load(model)
    return recognizer, recognizer.search(Decoding.model_validate_json(decoding))
