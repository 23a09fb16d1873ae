"""The parts of training that depend on the kind of model: its data, its losses, its validation.

A recogniser learns from utterances and is ranked by CER; a language model learns from text and is ranked by perplexity.
Everything else (epochs, updates, schedules, stages, averages, checkpoints) is the same for both: see loop.py.

Shapes: N items of the training split, B batch, T frames, S encoder states (subsampled frames), U tokens, F mel bins,
D model width, V vocabulary.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from trainables.config import Config, Loss
from trainables.data.augmentation import stretched
from trainables.data.batching import BatchPlan, DeviceSplit
from trainables.data.corpus import Corpus, Split
from trainables.data.text.token_batches import DeviceTexts, read_texts
from trainables.data.text.tokenizer import corpus_tokenizer
from trainables.errors import InputError
from trainables.evaluation.examples import Examples, collect
from trainables.evaluation.metrics import character_error_rate, word_error_rate
from trainables.inference.language_model import TextModel, load_language_model, perplexities
from trainables.inference.model_directory import TrainedModel
from trainables.inference.recognizer import Recognizer
from trainables.models.losses import LossSums, cross_entropy_sums, loss_sums
from trainables.models.speech_transformer import LanguageModel, SpeechTransformer
from trainables.training.pretrained import KEY, check_pretrained, copy_weights

FAST_SPEECH = 0.999  # quantile of tokens a frame that bounds hypotheses: the fastest may be a mistake in the data
USUAL_LENGTH = 0.9  # quantile of durations up to which a model is said to be trained


class Task(ABC):
    """A kind of model in training.

    Attributes:
        trained: the model with its tokenizer and configuration.
        lengths: (N,) of the training items, in frames or tokens.
        budget: padded length that a batch of all workers may hold.
        target_tokens: (N,) with EOS, by which an update's loss is divided.
        amounts: (N,) of data in the items, in seconds of audio or tokens.
        validation_plan: the batches of the validation split.
        pretrained: names of the parameters that were initialised with another model.
        examples: examples of the latest validation, on the first worker; None if there are none.
    """

    trained: TrainedModel
    lengths: np.ndarray
    budget: float
    target_tokens: np.ndarray
    amounts: np.ndarray
    validation_plan: BatchPlan
    pretrained: Set[str] = frozenset()
    examples: Examples | None = None

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        self.config, self.device = config, device

    def start_epoch(self, epoch: int) -> None:  # noqa: B027 (a task may have none)
        """Draws the epoch's random augmentation."""

    @abstractmethod
    def losses(self, model: nn.Module, config: Loss, indices: np.ndarray, edge: int, weights: np.ndarray) -> LossSums:
        """The losses of a batch.

        Args:
            indices: indices of the items in the split.
            edge: padded length in frames or tokens.
            weights: weight of each item (B,); 0 for items that only fill the batch.
        """

    @abstractmethod
    def training_metrics(self, sums: LossSums) -> dict[str, Any]:
        """Metrics of an epoch's summed losses, among them `train_loss`."""

    @abstractmethod
    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        """Metrics of the data seen so far and of throughput.

        Args:
            amounts: the sum of `amounts` in each epoch so far.
            seconds: duration of the last epoch.
        """

    @abstractmethod
    def validate(self, epoch: int, rank: int, world: int) -> dict[str, Any]:
        """Metrics of the whole validation split, among them `val_loss`; the workers share its batches."""


class RecognitionTask(Task):
    """Training of an encoder-decoder recogniser on a corpus."""

    trained: Recognizer

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        super().__init__(config, corpus, device)
        train_split = corpus.training_split(config.data.train)
        validation_split = corpus.validation_split(config.data.validation)
        self.trained = build_recognizer(config, corpus, train_split, device)
        self.search = self.trained.search()
        normalizer, tokenizer = self.trained.normalizer(), self.trained.tokenizer
        self.train_data = DeviceSplit(train_split, tokenizer, normalizer, device)
        self.validation_data = DeviceSplit(validation_split, tokenizer, normalizer, device)
        self.amounts, self.target_tokens = train_split.seconds, self.train_data.token_counts + 1
        rates = self.train_data.token_counts / train_split.frames
        self.trained.tokens_per_frame = float(np.quantile(rates, FAST_SPEECH))
        self.trained.usual_seconds = float(np.quantile(self.amounts, USUAL_LENGTH))
        # At the slowest speed, so that a batch has one shape in every epoch.
        self.lengths = stretched(torch.from_numpy(train_split.frames), 1 - config.data.speed_perturbation).numpy()
        self.budget = config.training.batch_seconds * corpus.recipe.frames_per_second
        self.validation_plan = BatchPlan(validation_split.frames, self.budget)
        if config.pretrained.decoder is not None:
            language = load_language_model(config.pretrained.decoder, KEY)
            check_pretrained(language, config.pretrained.decoder, config.model, tokenizer)
            self.pretrained = copy_weights(language, self.trained.model)

    def start_epoch(self, epoch: int) -> None:
        config, seed = self.config, self.config.training.seed
        self.masks = self.train_data.masks(config.specaugment, seed, epoch)
        self.timing = self.train_data.timing(config.data.speed_perturbation, config.specaugment.time_warp, seed, epoch)

    def losses(self, model: nn.Module, config: Loss, indices: np.ndarray, edge: int, weights: np.ndarray) -> LossSums:
        batch = self.train_data.gather(indices, edge, weights, self.masks, self.timing)
        with self.trained.autocast():
            logits_BUV, ctc_logits_BSV, state_lengths_B = model(batch.features_BTF, batch.lengths_B, batch.inputs_BU)
        return loss_sums(config, logits_BUV, ctc_logits_BSV, state_lengths_B, batch)

    def training_metrics(self, sums: LossSums) -> dict[str, Any]:
        count = sums.tokens.item()
        return {
            "train_loss": (sums.cross_entropy.item() + self.config.loss.ctc_weight * sums.ctc.item()) / count,
            "train_cross_entropy": sums.cross_entropy.item() / count,
            "train_ctc": sums.ctc.item() / count,
            "infeasible_ctc": int(sums.infeasible),
        }

    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        return {"audio_hours": sum(amounts) / 3600, "audio_seconds_per_second": amounts[-1] / seconds}

    @torch.no_grad()
    def validate(self, epoch: int, rank: int, world: int) -> dict[str, Any]:
        """Loss, CER and WER and real-time factor of the configured decoding, and CER of greedy CTC."""
        totals = torch.zeros(4, device=self.device, dtype=torch.float64)
        found: list[tuple[int, str, str]] = []
        for indices, edge in self.validation_plan.epoch()[rank::world]:
            sums, seconds, searched, greedy_ctc = self._validate_batch(indices, edge)
            totals[:3] += torch.stack([sums.cross_entropy, sums.ctc, sums.tokens])
            totals[3] += seconds
            found += zip(indices.tolist(), searched, greedy_ctc, strict=True)
        found = gathered(totals, found, world)
        cross_entropy, ctc, count, seconds = totals.tolist()
        order, hypotheses, ctc_hypotheses = map(list, zip(*found, strict=True))
        texts = self.validation_data.split.texts or []
        references = [texts[index] for index in order]
        if rank == 0:
            self.examples = collect(self.trained, self.validation_data, epoch, order, hypotheses)
        return {
            "val_loss": (cross_entropy + self.config.loss.ctc_weight * ctc) / count,
            "val_cer": character_error_rate(references, hypotheses),
            "val_wer": word_error_rate(references, hypotheses),
            "val_ctc_cer": character_error_rate(references, ctc_hypotheses),
            "real_time_factor": seconds / float(self.validation_data.split.seconds.sum()),
        }

    def _validate_batch(self, indices: np.ndarray, edge: int) -> tuple[LossSums, float, list[str], list[str]]:
        """Losses, seconds of decoding, decoded texts, and texts of greedy CTC."""
        model = self.trained.model
        batch = self.validation_data.gather(indices, edge, np.ones(len(indices), dtype=np.float32))
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # earlier work is not the search's
        with self.trained.autocast():
            start = time.perf_counter()
            states_BSD, state_lengths_B = model.encoder(batch.features_BTF, batch.lengths_B)
            searched = self.trained.decode(self.search, states_BSD, state_lengths_B, batch.lengths_B)
            seconds = time.perf_counter() - start
            logits_BUV = model.decoder(batch.inputs_BU, states_BSD, state_lengths_B)
            ctc_logits_BSV = model.ctc_head(states_BSD)
        sums = loss_sums(self.config.loss, logits_BUV, ctc_logits_BSV, state_lengths_B, batch)
        return sums, seconds, searched, self.trained.decode_ctc(ctc_logits_BSV, state_lengths_B)


class LanguageTask(Task):
    """Training of a language model on a corpus' transcripts and, where there is some, more text (`data.text`).

    Its tokenizer is that of a recogniser with the same `tokenizer` section on the same corpus: it is not trained on the
    additional text.
    """

    trained: TextModel

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        super().__init__(config, corpus, device)
        split = corpus.training_split(config.data.train)
        tokenizer = corpus_tokenizer(corpus, split, config.tokenizer)
        torch.manual_seed(config.training.seed)
        model = LanguageModel(config.model, tokenizer.vocab_size).to(device)
        self.trained = TextModel(config, model, tokenizer, corpus.hash)
        more = read_texts(Path(config.data.text)) if config.data.text is not None else []
        self.train_data = DeviceTexts([*(split.texts or []), *more], tokenizer, device)
        texts = corpus.validation_split(config.data.validation).texts or []
        self.validation_data = DeviceTexts(texts, tokenizer, device)
        self.lengths = self.amounts = self.target_tokens = self.train_data.token_counts + 1  # with EOS
        self.budget = float(config.training.batch_tokens)
        self.validation_plan = BatchPlan(self.validation_data.token_counts + 1, self.budget)

    def losses(self, model: nn.Module, config: Loss, indices: np.ndarray, edge: int, weights: np.ndarray) -> LossSums:
        batch = self.train_data.gather(indices, edge, weights)
        with self.trained.autocast():
            logits_BUV = model(batch.inputs_BU)
        return cross_entropy_sums(config.label_smoothing, logits_BUV, batch.targets_BU, batch.weights_B)

    def training_metrics(self, sums: LossSums) -> dict[str, Any]:
        return {"train_loss": sums.cross_entropy.item() / sums.tokens.item()}

    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        return {"tokens": sum(amounts), "tokens_per_second": amounts[-1] / seconds}

    def validate(self, epoch: int, rank: int, world: int) -> dict[str, Any]:
        """Cross-entropy without smoothing, and perplexity per token and per character, ends of texts included."""
        totals = self.trained.log_losses(self.validation_data, self.validation_plan.epoch()[rank::world])
        gathered(totals, [], world)
        nats, tokens = totals.tolist()
        found = perplexities(nats, tokens, self.validation_data.texts)
        return {"val_loss": nats / tokens, **{f"val_{name}": value for name, value in found.items()}}


TASKS: Mapping[str, type[Task]] = {"encoder_decoder": RecognitionTask, "language_model": LanguageTask}


def gathered(totals: torch.Tensor, found: list[Any], world: int) -> list[Any]:
    """Sums `totals` over all workers in place, and returns the items `found` by all workers."""
    if world == 1:
        return found
    dist.all_reduce(totals)
    shares: list[Any] = [None] * world
    dist.all_gather_object(shares, found)
    return [item for share in shares for item in share]


def build_recognizer(config: Config, corpus: Corpus, split: Split, device: torch.device) -> Recognizer:
    """An untrained recogniser for a corpus; its tokenizer is trained on the text of `split`, unless it exists already.

    Raises:
        InputError: the corpus has no training statistics or too few bins, or the text cannot give the tokenizer.
    """
    if corpus.mean is None or corpus.std is None:
        raise InputError(f"{corpus.path}: no training statistics", "Prepare the corpus with a training split.")
    bins = corpus.kept_bins(config.features.num_feats)
    tokenizer = corpus_tokenizer(corpus, split, config.tokenizer)
    torch.manual_seed(config.training.seed)
    model = SpeechTransformer(config.model, tokenizer.vocab_size, bins).to(device)
    return Recognizer(config, model, tokenizer, corpus.hash, corpus.recipe, corpus.mean, corpus.std, 0.0)
