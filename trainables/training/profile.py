"""A short look at a training: what a batch, a validation and a checkpoint take, and how much memory.

It is the training loop itself that is watched, for seconds instead of epochs, in a process of its own: memory that is
given back to a process counts to its peak.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from trainables.config import Config
from trainables.data.corpus import Corpus
from trainables.data.text.tokenizer import EOS
from trainables.errors import DivergedError
from trainables.inference.recognizer import SPARE_RATE, SPARE_TOKENS
from trainables.training.loop import Trainer
from trainables.training.resource_usage import peak_memory
from trainables.training.tasks import LanguageTask, RecognitionTask

SECONDS = 6.0  # of training, and of each validation, that are watched: more steadies the figures little
SECONDS_OF_OTHERS = 2.0  # of the training of configurations whose batches alone are watched


@dataclass(frozen=True)
class Profile:
    """What one worker was seen to take, in seconds and bytes.

    Args:
        start: from the beginning of the process to the first batch.
        batch: a forward and a backward pass with its share of an update.
        validation: of the whole split, by a model whose hypotheses are as long as the references.
        first_validation: by a model that has not learned to end, whose hypotheses run to their longest.
        checkpoint: writing one.
        memory: peak of the process.
        gpu_memory: peak of what torch reserved; 0 without a GPU.
        others: seconds of a batch of each of the other configurations that were asked about.
    """

    start: float
    batch: float
    validation: float
    first_validation: float
    checkpoint: float
    memory: int
    gpu_memory: int
    others: tuple[float, ...] = ()


def profile(config: Config, corpus: Path, threads: int, gpu: bool, others: Sequence[Config] = ()) -> Profile:
    """Trains and validates for some seconds, as a trial's worker would; then trains others, for less long."""
    torch.set_num_threads(threads)
    data, device = Corpus.open(corpus), torch.device("cuda", 0) if gpu else torch.device("cpu")
    trainer = Watched(config, data, device)
    start = age()
    trainer.watch()
    first, usual = validation_seconds(trainer)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = trainer.seconds(lambda: trainer.save(Path(folder) / "checkpoint"))
    reserved = torch.cuda.max_memory_reserved() if gpu else 0
    found = Profile(start, trainer.seconds_of_a_batch(), usual, first, checkpoint, peak_memory(), reserved)
    return replace(found, others=tuple(batch_seconds(other, data, device) for other in others))


def batch_seconds(config: Config, corpus: Corpus, device: torch.device) -> float:
    """A batch's alone, in a process that has begun."""
    trainer = Watched(config, corpus, device, SECONDS_OF_OTHERS)
    trainer.watch()
    return trainer.seconds_of_a_batch()


class Watched(Trainer):
    """A trainer whose epochs end after some seconds."""

    marks: list[tuple[float, int]]  # after each update: the time, and batches so far

    def __init__(self, config: Config, corpus: Corpus, device: torch.device, length: float | None = None) -> None:
        super().__init__(config, corpus, device)
        self.length = SECONDS if length is None else length

    def watch(self) -> None:
        """Trains in an epoch of the full model, whatever the stages before it."""
        epoch = self.config.training.epochs
        self.enter(self.phases[epoch - 1])
        with contextlib.suppress(DivergedError):  # nothing that a clock sees
            self.train_epoch(epoch)

    def updates_of(self, epoch: int) -> Iterator[list[tuple[np.ndarray, int]]]:
        batches = 0
        self.marks = [(self.now(), batches)]
        for update in super().updates_of(epoch):
            yield update
            batches += len(update)
            self.marks.append((self.now(), batches))
            if self.marks[-1][0] - self.marks[0][0] > self.length and len(self.marks) > 2:
                return

    def seconds_of_a_batch(self) -> float:
        """Without the first update, which allocates and chooses kernels, where there are others."""
        (start, before), *_, (end, after) = self.marks[1:] if len(self.marks) > 2 else self.marks
        return (end - start) / (after - before)

    def now(self) -> float:
        """The time at which the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, step: Callable[[], object]) -> float:
        """How long a step takes."""
        start = self.now()
        step()
        return self.now() - start


def validation_seconds(trainer: Watched) -> tuple[float, float]:
    """Of the whole split: with hypotheses at their longest, and with some as long as the references.

    Steps of a search all take about as long, so the latter lies between two measurements at limits of the hypotheses'
    length.
    """
    task = trainer.task
    assert isinstance(task, RecognitionTask | LanguageTask)
    plan = task.validation_plan
    order = np.argsort(-plan.frames, kind="stable")
    task.validation_plan = replace(plan, members=order[:: plan.batches])  # about a batch, of all lengths
    stride = math.ceil(plan.batches * validated(trainer) / SECONDS)
    task.validation_plan = replace(plan, members=order[::stride])
    share = plan.batches / task.validation_plan.batches
    if isinstance(task, LanguageTask):
        seconds = share * validated(trainer)
        return seconds, seconds
    with torch.no_grad():
        task.trained.model.decoder.output.weight[EOS] = 0  # some other token is likelier than this one, always
    longest = validated(trainer)
    rate, task.trained.tokens_per_frame = task.trained.tokens_per_frame * SPARE_RATE, 0.0
    shortest = validated(trainer)
    counts = task.validation_data.token_counts + 1
    batches = [indices for indices, _ in task.validation_plan.epoch()]
    wanted = sum(counts[indices].max() - SPARE_TOKENS for indices in batches)
    most = sum(rate * plan.frames[indices].max() for indices in batches)
    return share * longest, share * (shortest + (longest - shortest) * float(wanted / most))


def validated(trainer: Watched) -> float:
    """Seconds of a validation."""

    def validate() -> None:
        with contextlib.suppress(DivergedError):
            trainer.validate()

    return trainer.seconds(validate)


def age() -> float:
    """Seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
