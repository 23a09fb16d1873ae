"""The training loop: epochs, updates, validation, checkpoints. Knows torch, and nothing of who started it.

`train` is called in a notebook, in a benchmark or in each Ray Train worker alike. Where torch.distributed is up, it
trains with all workers on the same global batches; else alone. What it finds it hands to `report` after each epoch.

Shapes: B batch, T frames, S subsampled frames, U tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from trainables.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from trainables.config import Config
from trainables.data.augmentation import generator
from trainables.data.batching import BatchPlan, DeviceSplit, worker_share
from trainables.data.corpus import Corpus, Split
from trainables.data.tokenizer import corpus_tokenizer
from trainables.errors import DivergedError, InputError
from trainables.examples import Examples, collect
from trainables.losses import loss_sums
from trainables.metrics import character_error_rate, word_error_rate
from trainables.models.speech_transformer import SpeechTransformer
from trainables.optimizer import build_optimizer, learning_rate
from trainables.recognizer import Recognizer

Metrics = dict[str, Any]
Save = Callable[[Path], None]
Report = Callable[[Metrics, Save | None], None]

FAST_SPEECH = 0.999  # the quantile that bounds hypotheses: the very fastest may be a mistake in the data
UPDATES_BETWEEN_CHECKS = 100  # asking whether the loss is finite makes a GPU wait


def train(
    config: Config,
    corpus: Corpus,
    report: Report,
    *,
    checkpoint: Path | None = None,
    reported_epochs: int | None = None,
    device: torch.device | None = None,
) -> Recognizer:
    """Trains to the configuration's last epoch.

    Args:
        report: called on every worker after each epoch with the metrics and, on the first worker, a function that
            writes a checkpoint into a folder.
        checkpoint: go on from there.
        reported_epochs: how many of the checkpoint's epochs the caller has on record; later ones are reported again.
            None: all of them.

    Raises:
        InputError: data, configuration and checkpoint do not fit together.
        DivergedError: the loss is no longer a finite number.
    """
    trainer = Trainer(config, corpus, device or default_device())
    if checkpoint is not None:
        checkpoint = find_checkpoint(checkpoint) or checkpoint
        trainer.history = load_checkpoint(checkpoint, trainer.recognizer, trainer.optimizer)
        trainer.examples = Examples.load(checkpoint)
        known = len(trainer.history) if reported_epochs is None else reported_epochs
        for row in trainer.history[known:]:
            report(row, trainer.saver() if row is trainer.history[-1] else None)
    while len(trainer.history) < config.training.epochs:
        metrics = trainer.epoch(len(trainer.history) + 1)
        trainer.history.append(metrics)
        report(metrics, trainer.saver())
    return trainer.recognizer


def default_device() -> torch.device:
    """This worker's GPU, by the rank that launchers put into `LOCAL_RANK`, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")


class Trainer:
    """The state of one training run, and its steps: an epoch of updates, a validation."""

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        self.config, self.device = config, device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL puts what it exchanges
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        train_split = corpus.training_split(config.data.train)
        validation_split = corpus.validation_split(config.data.validation)
        self.recognizer = build_recognizer(config, corpus, train_split, device)
        normalizer, tokenizer = self.recognizer.normalizer(), self.recognizer.tokenizer
        self.train_data = DeviceSplit(train_split, tokenizer, normalizer, device)
        self.validation_data = DeviceSplit(validation_split, tokenizer, normalizer, device)
        self.recognizer.tokens_per_frame = float(
            np.quantile(self.train_data.token_counts / train_split.frames, FAST_SPEECH)
        )
        budget = config.training.batch_seconds * corpus.recipe.frames_per_second
        self.plan = BatchPlan(train_split.frames, budget, config.training.seed)
        self.validation_plan = BatchPlan(validation_split.frames, budget)
        self.updates = math.ceil(len(self.plan.epoch()) / config.training.accumulation)
        self.hours = float(train_split.seconds.sum()) / 3600
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.parallel = DistributedDataParallel(self.model) if self.world > 1 else self.model
        self.history: list[Metrics] = []
        self.examples: Examples | None = None  # of the latest validation, on the first worker

    @property
    def model(self) -> SpeechTransformer:
        return self.recognizer.model

    def saver(self) -> Save | None:
        """A function that writes this moment's checkpoint; None on all workers but the first."""
        if self.rank != 0:
            return None
        return lambda folder: save_checkpoint(folder, self.recognizer, self.optimizer, self.history, self.examples)

    def epoch(self, epoch: int) -> Metrics:
        """Trains through the split once (epochs count from 1), validates, and returns the metrics of both."""
        torch.manual_seed(generator(self.config.training.seed, epoch, self.rank).initial_seed())
        start = time.perf_counter()
        metrics = self.train_epoch(epoch)
        trained = time.perf_counter()
        metrics |= self.validate()
        return {
            "epoch": epoch,
            **metrics,
            "audio_hours": self.hours * epoch,
            "padding_share": self.plan.padding_share(),
            "train_seconds": trained - start,
            "validation_seconds": time.perf_counter() - trained,
            "audio_seconds_per_second": self.hours * 3600 / (trained - start),
        }

    def train_epoch(self, epoch: int) -> Metrics:
        """One pass of updates; losses are means over the epoch's tokens."""
        self.parallel.train()
        config = self.config
        masks = self.train_data.masks(config.specaugment, config.training.seed, epoch)
        totals = torch.zeros(4, device=self.device, dtype=torch.float64)
        norm = torch.zeros((), device=self.device)
        for number, update in enumerate(self.updates_of(epoch)):
            rate = learning_rate(
                config.optimizer, (epoch - 1) * self.updates + number, self.updates * config.training.epochs
            )
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            tokens = sum(int(self.train_data.token_counts[indices].sum()) + len(indices) for indices, _ in update)
            for place, (indices, edge) in enumerate(update):
                share, weights = worker_share(indices, self.rank, self.world)
                batch = self.train_data.gather(share, edge, weights, masks)
                with self.synchronize(place == len(update) - 1):
                    with self.recognizer.autocast():
                        logits_BUV, ctc_logits_BSV, state_lengths_B = self.parallel(
                            batch.features_BTF, batch.lengths_B, batch.inputs_BU
                        )
                    sums = loss_sums(config.loss, logits_BUV, ctc_logits_BSV, state_lengths_B, batch)
                    loss = sums.cross_entropy + config.loss.ctc_weight * sums.ctc
                    # DDP takes the mean over workers of what has to be a sum over them.
                    (loss * (self.world / tokens)).backward()
                totals += torch.stack([sums.cross_entropy, sums.ctc, sums.tokens, sums.infeasible]).detach()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.training.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if (number + 1) % UPDATES_BETWEEN_CHECKS == 0:
                _check_finite("gradient norm", norm.item(), epoch)
        if self.world > 1:
            dist.all_reduce(totals)
        cross_entropy, ctc, count, infeasible = totals.tolist()
        metrics = {
            "train_loss": (cross_entropy + config.loss.ctc_weight * ctc) / count,
            "train_cross_entropy": cross_entropy / count,
            "train_ctc": ctc / count,
            "gradient_norm": norm.item(),
            "learning_rate": rate,
            "infeasible_ctc": int(infeasible),
        }
        for name in ("train_loss", "gradient_norm"):
            _check_finite(name, metrics[name], epoch)
        return metrics

    def updates_of(self, epoch: int) -> Iterator[list[tuple[np.ndarray, int]]]:
        """The epoch's batches, in groups of as many as one update accumulates."""
        batches, size = self.plan.epoch(epoch), self.config.training.accumulation
        for start in range(0, len(batches), size):
            yield batches[start : start + size]

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Loss, CER and WER of greedy attention decoding, and CER of greedy CTC, over the whole validation split."""
        self.model.eval()
        totals = torch.zeros(3, device=self.device, dtype=torch.float64)
        found: list[tuple[int, str, str]] = []
        for indices, edge in self.validation_plan.epoch()[self.rank :: self.world]:
            batch = self.validation_data.gather(indices, edge, np.ones(len(indices), dtype=np.float32))
            with self.recognizer.autocast():
                states_BSD, state_lengths_B = self.model.encoder(batch.features_BTF, batch.lengths_B)
                logits_BUV = self.model.decoder(batch.inputs_BU, states_BSD, state_lengths_B)
                ctc_logits_BSV = self.model.ctc_head(states_BSD)
                attention = self.recognizer.decode_attention(states_BSD, state_lengths_B, batch.lengths_B)
            sums = loss_sums(self.config.loss, logits_BUV, ctc_logits_BSV, state_lengths_B, batch)
            totals += torch.stack([sums.cross_entropy, sums.ctc, sums.tokens])
            ctc = self.recognizer.decode_ctc(ctc_logits_BSV, state_lengths_B)
            found += zip(indices.tolist(), attention, ctc, strict=True)
        if self.world > 1:
            dist.all_reduce(totals)
            shares: list[Any] = [None] * self.world
            dist.all_gather_object(shares, found)
            found = [item for share in shares for item in share]
        cross_entropy, ctc_sum, count = totals.tolist()
        loss = (cross_entropy + self.config.loss.ctc_weight * ctc_sum) / count
        _check_finite("validation loss", loss, len(self.history) + 1)
        texts = self.validation_data.split.texts or []
        references = [texts[index] for index, _, _ in found]
        attention, ctc = [item[1] for item in found], [item[2] for item in found]
        if self.rank == 0:
            order = [index for index, _, _ in found]
            self.examples = collect(self.recognizer, self.validation_data, len(self.history) + 1, order, attention)
        return {
            "val_loss": loss,
            "val_cer": character_error_rate(references, attention),
            "val_wer": word_error_rate(references, attention),
            "val_ctc_cer": character_error_rate(references, ctc),
        }

    def synchronize(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Workers exchange gradients at an update's last batch alone."""
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.parallel.no_sync()


def build_recognizer(config: Config, corpus: Corpus, split: Split, device: torch.device) -> Recognizer:
    """An untrained recogniser for a corpus, its tokenizer trained on (or found for) the training split's text."""
    if corpus.mean is None or corpus.std is None:
        raise InputError(f"{corpus.path}: no training statistics", "Prepare the corpus with a training split.")
    bins = len(corpus.mean)
    if config.features.num_feats and config.features.num_feats > bins:
        raise InputError(
            f"features.num_feats: {config.features.num_feats}, but {corpus.path} has {bins} bins",
            f"Say at most {bins}.",
        )
    tokenizer = corpus_tokenizer(corpus, split, config.tokenizer)
    torch.manual_seed(config.training.seed)
    model = SpeechTransformer(config.model, tokenizer.vocab_size, config.features.num_feats or bins).to(device)
    return Recognizer(config, model, tokenizer, corpus.recipe, corpus.mean, corpus.std, 0.0, corpus.hash)


def _check_finite(name: str, value: float, epoch: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"the {name} became {value} in epoch {epoch}: try a lower optimizer.lr, a longer optimizer.warmup "
            "or a smaller training.clip_norm"
        )
