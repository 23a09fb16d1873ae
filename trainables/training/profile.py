"""Profiling of a configuration: time of an update, a validation and a checkpoint, peak memory, size of a checkpoint.

The training loop itself is run, for seconds instead of epochs. Where an update would take longer than that, as those of
large models do on a CPU, a part of it is run, and its time and memory are scaled up. Each profile needs a process of
its own, since peak memory is counted from the start of the process.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from trainables.config.tree import Config
from trainables.data.batch_plan import PassBatch
from trainables.data.corpus import Corpus
from trainables.data.device.placement import limit_share
from trainables.data.text.tokenizer import EOS
from trainables.errors import DivergedError
from trainables.inference.model_files import WEIGHTS
from trainables.models.speech_transformer import SpeechTransformer
from trainables.training.loop import Trainer
from trainables.training.resource_usage import peak_memory
from trainables.training.tasks import RecognitionTask

SECONDS = 5.0  # of training; more changes the mean time of an update little
UPDATES = 2  # at least, for the first one is not timed
FORWARD = 1 / 3  # of the time of a pass: a backward pass takes twice as long


@dataclass(frozen=True)
class Profile:
    """Seconds and bytes measured in one worker.

    Args:
        start: seconds from the start of the process to the first update.
        update: seconds of an update.
        validation: seconds of the whole validation split, with hypotheses about as long as the references.
        checkpoint: seconds to write a checkpoint.
        checkpoint_bytes: size of a checkpoint.
        model_bytes: size of the weights in it.
        memory: peak resident memory of the process.
        gpu_memory: peak of the memory reserved by torch; 0 without a GPU.
    """

    start: float
    update: float
    validation: float
    checkpoint: float
    checkpoint_bytes: int
    model_bytes: int
    memory: int
    gpu_memory: int


def profile(
    config: Config, corpus: Path, workers: int, threads: int, gpus: float, seconds: float = SECONDS
) -> Profile:  # fmt: skip
    """Trains and validates for about `seconds` each, as one of a trial's `workers` would.

    Args:
        threads: torch's.
        gpus: GPUs of a worker; of one that has a fraction of a GPU, this process takes no more memory than that.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    limit_share(device, gpus)
    trainer = TimedTrainer(config, Corpus.open(corpus), device, seconds)
    trainer.plans = {share: replace(plan, budget=plan.budget / workers) for share, plan in trainer.plans.items()}
    start, update, validation = process_age(), trainer.update(), trainer.validation_seconds()
    with tempfile.TemporaryDirectory() as folder:
        begin = trainer.now()
        trainer.save(Path(folder) / "checkpoint")
        checkpoint, sizes = trainer.now() - begin, {path: path.stat().st_size for path in Path(folder).rglob("*.*")}
    weights = sum(size for path, size in sizes.items() if path.name == WEIGHTS)
    memory, gpu_memory = map(max, trainer.memory(), update[2:])
    return Profile(start, update.seconds, validation, checkpoint, sum(sizes.values()), weights, memory, gpu_memory)


class UpdateCost(NamedTuple):
    """An update, or one of a part of its utterances.

    Attributes:
        frames: padded lengths of its utterances together; for a language model, in tokens.
        seconds: time that it took.
        memory: peak resident bytes of the process until its end.
        gpu_memory: peak bytes reserved on the GPU until its end.
    """

    frames: float
    seconds: float
    memory: int
    gpu_memory: int

    def scaled(self, frames: float, smaller: UpdateCost, most: float) -> UpdateCost:
        """An update of more `frames`, given a `smaller` one than this, and the `most` frames in a pass.

        Seconds grow in proportion; memory grows on the line through the two, as far as passes do.
        """
        more = (min(frames, most) - min(self.frames, most)) / (self.frames - smaller.frames)
        memory = [there + int(more * (there - before)) for there, before in zip(self[2:], smaller[2:], strict=True)]
        return UpdateCost(frames, self.seconds * frames / self.frames, *memory)


class TimedTrainer(Trainer):
    """A trainer that leaves an epoch after about `seconds`, and runs a part of an update where updates take longer.

    Attributes:
        part: the part of an update that is run.
        marks: before the first and after each update: time, and frames so far.
    """

    def __init__(self, config: Config, corpus: Corpus, device: torch.device, seconds: float = SECONDS) -> None:
        super().__init__(config, corpus, device)
        self.seconds, self.part = seconds, 1.0
        self.marks: list[tuple[float, int]] = []

    def update(self) -> UpdateCost:
        """The mean update of the last epoch's phase, in which the whole model trains."""
        self.enter(self.phases[-1])
        shapes = self.plan_of(len(self.phases)).shapes
        frames = self.task.batches_per_update * sum(size * edge for size, edge in shapes) / len(shapes)
        state = 3 * sum(parameter.nbytes for parameter in self.model.parameters())  # gradients and AdamW's two averages
        memory, reserved = self.memory()
        tried = [UpdateCost(0.0, 0.0, memory, reserved + state) if reserved else UpdateCost(0, 0.0, memory + state, 0)]
        whole, per_update, began = self.plans, self.task.batches_per_update, self.now()
        self.task.batches_per_update = 1  # a part of an update is one batch
        for self.part in parts_of(frames, longest=shapes[0][1]):
            factor = per_update * self.part
            self.plans = {share: replace(plan, budget=plan.budget * factor) for share, plan in whole.items()}
            tried.append(self.timed_updates())
            short = UPDATES * tried[-1].seconds * frames / tried[-1].frames < self.seconds
            if short or 2 * tried[-1].seconds > self.seconds - (self.now() - began):
                break
        self.plans, self.task.batches_per_update = whole, per_update
        if short:
            self.part = 1.0
            return self.timed_updates()
        smaller = [one for one in tried if 2 * one.frames <= tried[-1].frames][-1]
        return tried[-1].scaled(frames, smaller, min(self.pass_budget, next(iter(whole.values())).budget))

    def timed_updates(self) -> UpdateCost:
        """Trains on one part of an update, or on updates until the time is over; of these, the first is left out, since
        it allocates memory and chooses kernels."""
        self.marks = [(self.now(), 0)]
        with contextlib.suppress(DivergedError):  # it takes as long
            self.train_epoch(len(self.phases))
        timed = self.marks[1:] if len(self.marks) > 2 else self.marks
        (start, before), *_, (end, after) = timed
        updates = len(timed) - 1
        return UpdateCost((after - before) / updates, (end - start) / updates, *self.memory())

    def updates_of(self, epoch: int) -> Iterator[list[PassBatch]]:
        for update in super().updates_of(epoch):
            yield update
            (start, _), (_, frames) = self.marks[0], self.marks[-1]
            frames += sum(len(batch.indices) * batch.edge for batch in update)
            self.marks.append((self.now(), frames))
            if self.part < 1 or (self.marks[-1][0] - start > self.seconds and len(self.marks) > UPDATES):
                return

    def validation_seconds(self) -> float:
        """Seconds of a validation, scaled up from about one batch of utterances of all lengths, or a part of it."""
        task, plan = self.task, self.task.validation_plan
        budget = next(iter(self.plans.values())).budget * self.task.batches_per_update
        passes = max(1.0, budget / self.pass_budget)
        share = min(1.0, self.part * passes / FORWARD)
        order = np.argsort(-plan.frames, kind="stable")
        members = order[:: math.ceil(len(plan.epoch()) / share)]
        task.validation_plan = part = replace(plan, members=members)
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
        scale = len(order) / len(members) if share < 1 else len(plan.epoch()) / len(part.epoch())
        return (self.now() - start) * scale

    def memory(self) -> tuple[int, int]:
        """Peak bytes until now: resident in this process, and reserved by torch on the GPU."""
        return peak_memory(), torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else 0

    def now(self) -> float:
        """Clock time in seconds, after the device has finished all of its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def parts_of(frames: float, longest: int) -> list[float]:
    """Parts of an update to try, each twice the one before: from that which holds the longest utterance to a half.

    The first one is there twice, since its first run allocates memory and chooses kernels.
    """
    powers = range(1, max(2, int(math.log2(frames / longest)) + 1))
    return [2.0 ** -powers[-1], *(2.0**-power for power in reversed(powers))]


def process_age() -> float:
    """Seconds since the start of this process; on Linux up to 1 s too many, since psutil rounds the boot time down."""
    import psutil

    return time.time() - psutil.Process().create_time()
