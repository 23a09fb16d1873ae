"""Profiling of a configuration: time of a batch, a validation and a checkpoint, peak memory, size of a checkpoint.

The training loop itself is run, for seconds instead of epochs. Each profile needs a process of its own, since peak
memory is counted from the start of the process.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from trainables.config import Config
from trainables.data.batch_plan import PassBatch
from trainables.data.corpus import Corpus
from trainables.data.text.tokenizer import EOS
from trainables.errors import DivergedError
from trainables.inference.model_files import WEIGHTS
from trainables.models.speech_transformer import SpeechTransformer
from trainables.training.loop import Trainer
from trainables.training.resource_usage import peak_memory
from trainables.training.tasks import RecognitionTask

SECONDS = 6.0  # of training; more changes the mean time of a batch little
LONGEST = 12.0  # seconds, after which a slow machine's first update has to do


@dataclass(frozen=True)
class Profile:
    """Seconds and bytes measured in one worker.

    Args:
        start: seconds from the start of the process to the first batch.
        batch: seconds of a forward and a backward pass, with a share of the update.
        validation: seconds of the whole validation split, with hypotheses about as long as the references.
        checkpoint: seconds to write a checkpoint.
        checkpoint_bytes: size of a checkpoint.
        model_bytes: size of the weights in it.
        memory: peak resident memory of the process.
        gpu_memory: peak of the memory reserved by torch; 0 without a GPU.
    """

    start: float
    batch: float
    validation: float
    checkpoint: float
    checkpoint_bytes: int
    model_bytes: int
    memory: int
    gpu_memory: int


def profile(config: Config, corpus: Path, workers: int, threads: int, gpu: bool) -> Profile:
    """Trains and validates for some seconds, as one of a trial's `workers` would; `threads` are torch's."""
    torch.set_num_threads(threads)
    trainer = TimedTrainer(config, Corpus.open(corpus), torch.device("cuda", 0) if gpu else torch.device("cpu"))
    trainer.plans = {share: replace(plan, budget=plan.budget / workers) for share, plan in trainer.plans.items()}
    start, batch, validation = process_age(), trainer.batch_seconds(), trainer.validation_seconds()
    with tempfile.TemporaryDirectory() as folder:
        begin = trainer.now()
        trainer.save(Path(folder) / "checkpoint")
        checkpoint, sizes = trainer.now() - begin, {path: path.stat().st_size for path in Path(folder).rglob("*.*")}
    weights = sum(size for path, size in sizes.items() if path.name == WEIGHTS)
    reserved = torch.cuda.max_memory_reserved() if gpu else 0
    return Profile(start, batch, validation, checkpoint, sum(sizes.values()), weights, peak_memory(), reserved)


class TimedTrainer(Trainer):
    """A trainer that leaves an epoch after `SECONDS`."""

    def batch_seconds(self) -> float:
        """Mean seconds of a batch in the last epoch's phase, in which the whole model trains.

        The first update is left out: it allocates memory and chooses kernels.
        """
        self.marks = [(self.now(), 0)]  # before the first and after each update: time, batches so far
        epoch = self.config.training.epochs
        self.enter(self.phases[epoch - 1])
        with contextlib.suppress(DivergedError):  # it takes as long
            self.train_epoch(epoch)
        (start, before), *_, (end, after) = self.marks[1:] if len(self.marks) > 2 else self.marks
        return (end - start) / (after - before)

    def updates_of(self, epoch: int) -> Iterator[list[PassBatch]]:
        for update in super().updates_of(epoch):
            yield update
            self.marks.append((self.now(), self.marks[-1][1] + len(update)))
            seconds = self.marks[-1][0] - self.marks[0][0]
            if seconds > LONGEST or (seconds > SECONDS and len(self.marks) > 2):
                return

    def validation_seconds(self) -> float:
        """Seconds of a validation, scaled up from about one batch of utterances of all lengths."""
        task = self.task
        plan = task.validation_plan
        order = np.argsort(-plan.frames, kind="stable")
        task.validation_plan = part = replace(plan, members=order[:: len(plan.epoch())])
        if isinstance(task, RecognitionTask):
            data = task.validation_data
            task.search = replace(task.search, ends_repetition=False)
            task.trained.tokens_per_frame = float((data.token_counts / data.split.frames).mean())
            if isinstance(task.trained.model, SpeechTransformer):
                with torch.no_grad():  # EOS never has the highest logit, so hypotheses have their largest length
                    task.trained.model.decoder.output.weight[EOS] = 0
        start = self.now()
        with contextlib.suppress(DivergedError):
            self.validate()
        return (self.now() - start) * len(plan.epoch()) / len(part.epoch())

    def now(self) -> float:
        """Clock time in seconds, after the device has finished all of its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def process_age() -> float:
    """Seconds since the start of this process; on Linux up to 1 s too many, since psutil rounds the boot time down."""
    import psutil

    return time.time() - psutil.Process().create_time()
