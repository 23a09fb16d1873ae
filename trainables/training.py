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
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainables.averaging import WeightAverages, single
from trainables.checkpoint import find_checkpoint, load_averages, load_checkpoint, save_checkpoint
from trainables.config import Config
from trainables.data.augmentation import generator, stretched
from trainables.data.batching import BatchPlan, DeviceSplit, worker_share
from trainables.data.corpus import Corpus, Split
from trainables.data.tokenizer import corpus_tokenizer
from trainables.errors import DivergedError, InputError
from trainables.losses import loss_sums
from trainables.metrics import character_error_rate, objective, word_error_rate
from trainables.models.speech_transformer import SpeechTransformer
from trainables.optimizer import build_optimizer
from trainables.pretrained import load_pretrained, move_weights
from trainables.recognizer import Recognizer
from trainables.schedules import learning_rate
from trainables.stages import Phase, enter, members, phase_of, trained_names

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
        trainer.resume(find_checkpoint(checkpoint) or checkpoint)
        known = len(trainer.history) if reported_epochs is None else reported_epochs
        for row in trainer.history[known:]:
            report(row, trainer.saver() if row is trainer.history[-1] else None)
    while len(trainer.history) < config.training.epochs:
        metrics = trainer.epoch(len(trainer.history) + 1)
        trainer.history.append(metrics)
        report(metrics, trainer.saver())
    trainer.averages.settle(len(trainer.history))
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
        self.validation_plan = BatchPlan(validation_split.frames, budget)
        self.phases = [phase_of(config, epoch) for epoch in range(1, config.training.epochs + 1)]
        seed, utterances = config.training.seed, len(train_split.ids)
        # Room for the slowest speed: so a batch has one shape in every epoch.
        frames = stretched(torch.from_numpy(train_split.frames), 1 - config.data.speed_perturbation).numpy()
        self.plans = {
            share: BatchPlan(frames, budget, seed, members(share, utterances, seed))
            for share in {phase.data for phase in self.phases}
        }
        self.seconds = {share: float(train_split.seconds[plan.members].sum()) for share, plan in self.plans.items()}
        moved: set[str] = set()
        if config.pretrained.decoder is not None:
            language = load_pretrained(Path(config.pretrained.decoder), config.model, self.recognizer.tokenizer)
            moved = move_weights(language, self.model)
        names = [name for name, _ in self.model.named_parameters()]
        self.trained = {phase: trained_names(config, phase, names, moved) for phase in set(self.phases)}
        scales = dict.fromkeys(moved, config.pretrained.lr_scale)
        self.optimizer = build_optimizer(config.optimizer, self.model, scales)
        self.averages = WeightAverages(config.training, self.model)
        self.parallel: nn.Module = self.model
        self.history: list[Metrics] = []

    @property
    def model(self) -> SpeechTransformer:
        return self.recognizer.model

    def saver(self) -> Save | None:
        """A function that writes this moment's checkpoint; None on all workers but the first."""
        if self.rank != 0:
            return None
        return self.save

    def save(self, folder: Path) -> None:
        """Writes a checkpoint, whose model directory holds the weights that were validated last."""
        with self.averages.applied(self.averages.averages_epochs(len(self.history))) as trained:
            averages = self.averages.tensors(trained)
            save_checkpoint(folder, self.recognizer, self.optimizer, self.history, averages)

    def resume(self, folder: Path) -> None:
        """Goes back to where a checkpoint was written."""
        self.history = load_checkpoint(folder, self.recognizer, self.optimizer)
        self.averages.restore(load_averages(folder), self.history)

    def enter(self, phase: Phase) -> None:
        """Puts the model into a phase; DDP has to know which parameters take part."""
        changed = enter(phase, self.model, self.trained[phase])
        if self.world > 1 and (changed or self.parallel is self.model):
            self.parallel = self.model  # the former's hooks on the parameters end with it
            self.parallel = DistributedDataParallel(self.model)

    def epoch(self, epoch: int) -> Metrics:
        """Trains through the split once (epochs count from 1), validates, and returns the metrics of both."""
        torch.manual_seed(generator(self.config.training.seed, epoch, self.rank).initial_seed())
        phase = self.phases[epoch - 1]
        self.enter(phase)
        start = time.perf_counter()
        metrics = self.train_epoch(epoch)
        trained = time.perf_counter()
        with self.averages.applied():
            metrics |= self.validate()
        name = objective(metrics)
        if phase.stage is None:  # in a stage, layers may be missing
            self.averages.consider(epoch, metrics[name])
        if self.averages.averages_epochs(epoch):
            own = metrics[name]
            with self.averages.applied(mean=True):
                metrics |= self.validate() | {single(name): own}
        return {
            "epoch": epoch,
            **metrics,
            "audio_hours": sum(self.seconds[phase.data] for phase in self.phases[:epoch]) / 3600,
            "padding_share": self.plans[phase.data].padding_share(),
            "train_seconds": trained - start,
            "validation_seconds": time.perf_counter() - trained,
            "audio_seconds_per_second": self.seconds[phase.data] / (trained - start),
        }

    def train_epoch(self, epoch: int) -> Metrics:
        """One pass of updates; losses are means over the epoch's tokens."""
        self.parallel.train()
        config, phase = self.config, self.phases[epoch - 1]
        loss_config = config.loss.model_copy(update={"label_smoothing": phase.label_smoothing})
        before, total = (sum(map(self.updates_in, phases)) for phases in (self.phases[: epoch - 1], self.phases))
        losses = [row["val_loss"] for row in self.history]
        seed, warp = config.training.seed, config.specaugment.time_warp
        masks = self.train_data.masks(config.specaugment, seed, epoch)
        timing = self.train_data.timing(config.data.speed_perturbation, warp, seed, epoch)
        totals = torch.zeros(4, device=self.device, dtype=torch.float64)
        norm = torch.zeros((), device=self.device)
        for number, update in enumerate(self.updates_of(epoch)):
            rate = learning_rate(config.optimizer, before + number, total, losses)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            tokens = sum(int(self.train_data.token_counts[indices].sum()) + len(indices) for indices, _ in update)
            for place, (indices, edge) in enumerate(update):
                share, weights = worker_share(indices, self.rank, self.world)
                batch = self.train_data.gather(share, edge, weights, masks, timing)
                with self.synchronize(place == len(update) - 1):
                    with self.recognizer.autocast():
                        logits_BUV, ctc_logits_BSV, state_lengths_B = self.parallel(
                            batch.features_BTF, batch.lengths_B, batch.inputs_BU
                        )
                    sums = loss_sums(loss_config, logits_BUV, ctc_logits_BSV, state_lengths_B, batch)
                    loss = sums.cross_entropy + config.loss.ctc_weight * sums.ctc
                    # DDP takes the mean over workers of what has to be a sum over them.
                    (loss * (self.world / tokens)).backward()
                totals += torch.stack([sums.cross_entropy, sums.ctc, sums.tokens, sums.infeasible]).detach()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.training.clip_norm)
            self.optimizer.step()
            self.averages.update(before + number)
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
        batches = self.plans[self.phases[epoch - 1].data].epoch(epoch)
        size = self.config.training.accumulation
        for start in range(0, len(batches), size):
            yield batches[start : start + size]

    def updates_in(self, phase: Phase) -> int:
        """Updates of one epoch of a phase."""
        return math.ceil(self.plans[phase.data].batches / self.config.training.accumulation)

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
    return Recognizer(config, model, tokenizer, corpus.hash, corpus.recipe, corpus.mean, corpus.std, 0.0)


def _check_finite(name: str, value: float, epoch: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"the {name} became {value} in epoch {epoch}: try a lower optimizer.lr, a longer optimizer.warmup "
            "or a smaller training.clip_norm"
        )
