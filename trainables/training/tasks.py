"""What the training loop asks of a kind of model: its data, its losses, its validation.

A recogniser learns from utterances and is ranked by CER; a language model learns from text and is ranked by perplexity.
All else about training (epochs, updates, schedules, stages, averages, checkpoints) is the loop's, and one for both.

Shapes: N items of the training split, B batch, T frames, S subsampled frames, U tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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
from trainables.training.pretrained import KEY, check_pretrained, move_weights

FAST_SPEECH = 0.999  # the quantile that bounds hypotheses: the very fastest may be a mistake in the data
USUAL = 0.9  # the quantile that stands for how long utterances are: of the few longest a model learns little


class Task(Protocol):
    """A kind of model in training.

    Attributes:
        moved: names of the parameters that began with another model's weights.
        lengths: (N,) of the training items.
        budget: what a batch of all workers may hold of them, padding included.
        examples: what the latest validation saw, on the first worker.
    """

    moved: set[str]
    lengths: np.ndarray
    budget: float
    examples: Examples | None

    @property
    def trained(self) -> TrainedModel:
        """The model with what belongs to it."""
        ...

    def begin(self, epoch: int) -> None:
        """Draws what is random about an epoch's data."""

    def tokens(self, indices: np.ndarray) -> int:
        """Target tokens of these items, by which an update's loss is divided."""

    def losses(self, model: nn.Module, config: Loss, indices: np.ndarray, edge: int, weights: np.ndarray) -> LossSums:
        """The losses of a batch: items, the length to pad to, and their weights (B,)."""

    def training_metrics(self, sums: LossSums) -> dict[str, Any]:
        """What is told of an epoch's summed losses; `train_loss` among them."""

    def amount(self, indices: np.ndarray) -> float:
        """How much data these items are: seconds of audio, or tokens."""

    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        """What is told of the amounts of the epochs so far, the last of which took so many seconds."""

    def validate(self, epoch: int, rank: int, world: int) -> dict[str, Any]:
        """Figures over the whole validation split, whose batches the workers share; `val_loss` among them."""


class RecognitionTask:
    """An encoder-decoder recogniser learns from a corpus."""

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        self.config, self.device = config, device
        train_split = corpus.training_split(config.data.train)
        validation_split = corpus.validation_split(config.data.validation)
        self.trained = build_recognizer(config, corpus, train_split, device)
        self.search = self.trained.search()
        normalizer, tokenizer = self.trained.normalizer(), self.trained.tokenizer
        self.train_data = DeviceSplit(train_split, tokenizer, normalizer, device)
        self.validation_data = DeviceSplit(validation_split, tokenizer, normalizer, device)
        self.trained.tokens_per_frame = float(
            np.quantile(self.train_data.token_counts / train_split.frames, FAST_SPEECH)
        )
        self.seconds = train_split.seconds
        self.trained.usual_seconds = float(np.quantile(self.seconds, USUAL))
        # Room for the slowest speed: so a batch has one shape in every epoch.
        self.lengths = stretched(torch.from_numpy(train_split.frames), 1 - config.data.speed_perturbation).numpy()
        self.budget = config.training.batch_seconds * corpus.recipe.frames_per_second
        self.validation_plan = BatchPlan(validation_split.frames, self.budget)
        self.moved: set[str] = set()
        self.examples: Examples | None = None
        if config.pretrained.decoder is not None:
            language = load_language_model(config.pretrained.decoder, KEY)
            check_pretrained(language, config.pretrained.decoder, config.model, tokenizer)
            self.moved = move_weights(language, self.trained.model)

    def begin(self, epoch: int) -> None:
        config, seed = self.config, self.config.training.seed
        self.masks = self.train_data.masks(config.specaugment, seed, epoch)
        speed, warp = config.data.speed_perturbation, config.specaugment.time_warp
        self.timing = self.train_data.timing(speed, warp, seed, epoch)

    def tokens(self, indices: np.ndarray) -> int:
        return int(self.train_data.token_counts[indices].sum()) + len(indices)

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

    def amount(self, indices: np.ndarray) -> float:
        return float(self.seconds[indices].sum())

    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        return {"audio_hours": sum(amounts) / 3600, "audio_seconds_per_second": amounts[-1] / seconds}

    @torch.no_grad()
    def validate(self, epoch: int, rank: int, world: int) -> dict[str, Any]:
        """Loss, CER and WER of the configured search, its seconds for a second of audio, and CER of greedy CTC."""
        model, config = self.trained.model, self.config
        totals, seconds = torch.zeros(4, device=self.device, dtype=torch.float64), 0.0
        found: list[tuple[int, str, str]] = []
        for indices, edge in self.validation_plan.epoch()[rank::world]:
            batch = self.validation_data.gather(indices, edge, np.ones(len(indices), dtype=np.float32))
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # what was asked of the device before is not the search's time
            with self.trained.autocast():
                start = time.perf_counter()
                states_BSD, state_lengths_B = model.encoder(batch.features_BTF, batch.lengths_B)
                searched = self.trained.decode(self.search, states_BSD, state_lengths_B, batch.lengths_B)
                seconds += time.perf_counter() - start
                logits_BUV = model.decoder(batch.inputs_BU, states_BSD, state_lengths_B)
                ctc_logits_BSV = model.ctc_head(states_BSD)
            sums = loss_sums(config.loss, logits_BUV, ctc_logits_BSV, state_lengths_B, batch)
            totals[:3] += torch.stack([sums.cross_entropy, sums.ctc, sums.tokens])
            ctc = self.trained.decode_ctc(ctc_logits_BSV, state_lengths_B)
            found += zip(indices.tolist(), searched, ctc, strict=True)
        totals[3] = seconds
        found = gathered(totals, found, world)
        cross_entropy, ctc_sum, count, seconds = totals.tolist()
        texts = self.validation_data.split.texts or []
        references = [texts[index] for index, _, _ in found]
        searched, ctc = [item[1] for item in found], [item[2] for item in found]
        if rank == 0:
            order = [index for index, _, _ in found]
            self.examples = collect(self.trained, self.validation_data, epoch, order, searched)
        return {
            "val_loss": (cross_entropy + config.loss.ctc_weight * ctc_sum) / count,
            "val_cer": character_error_rate(references, searched),
            "val_wer": word_error_rate(references, searched),
            "val_ctc_cer": character_error_rate(references, ctc),
            "real_time_factor": seconds / float(self.validation_data.split.seconds.sum()),
        }


class LanguageTask:
    """A language model learns from a corpus' transcripts, and more text where there is some (`data.text`).

    Its tokenizer is that of a recogniser with the same `tokenizer` section on the same corpus: it learns nothing from
    the additional text.
    """

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        self.config, self.device = config, device
        split = corpus.training_split(config.data.train)
        tokenizer = corpus_tokenizer(corpus, split, config.tokenizer)
        torch.manual_seed(config.training.seed)
        model = LanguageModel(config.model, tokenizer.vocab_size).to(device)
        self.trained = TextModel(config, model, tokenizer, corpus.hash)
        more = read_texts(Path(config.data.text)) if config.data.text is not None else []
        self.train_data = DeviceTexts([*(split.texts or []), *more], tokenizer, device)
        texts = corpus.validation_split(config.data.validation).texts or []
        self.validation_data = DeviceTexts(texts, tokenizer, device)
        self.lengths = self.train_data.token_counts + 1  # EOS
        self.budget = float(config.training.batch_tokens)
        self.validation_plan = BatchPlan(self.validation_data.token_counts + 1, self.budget)
        self.moved: set[str] = set()
        self.examples: Examples | None = None

    def begin(self, epoch: int) -> None:
        """Nothing about text is random."""

    def tokens(self, indices: np.ndarray) -> int:
        return int(self.lengths[indices].sum())

    def losses(self, model: nn.Module, config: Loss, indices: np.ndarray, edge: int, weights: np.ndarray) -> LossSums:
        batch = self.train_data.gather(indices, edge, weights)
        with self.trained.autocast():
            logits_BUV = model(batch.inputs_BU)
        return cross_entropy_sums(config.label_smoothing, logits_BUV, batch.targets_BU, batch.weights_B)

    def training_metrics(self, sums: LossSums) -> dict[str, Any]:
        return {"train_loss": sums.cross_entropy.item() / sums.tokens.item()}

    def amount(self, indices: np.ndarray) -> float:
        return float(self.lengths[indices].sum())

    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        return {"tokens": sum(amounts), "tokens_per_second": amounts[-1] / seconds}

    def validate(self, epoch: int, rank: int, world: int) -> dict[str, Any]:
        """Cross-entropy without smoothing, and perplexity a token and a character, ends of texts included."""
        totals = self.trained.log_losses(self.validation_data, self.validation_plan.epoch()[rank::world])
        gathered(totals, [], world)
        nats, tokens = totals.tolist()
        found = perplexities(nats, tokens, self.validation_data.texts)
        return {"val_loss": nats / tokens, **{f"val_{name}": value for name, value in found.items()}}


TASKS: Mapping[str, type[RecognitionTask] | type[LanguageTask]] = {
    "encoder_decoder": RecognitionTask,
    "language_model": LanguageTask,
}


def gathered(totals: torch.Tensor, found: list[Any], world: int) -> list[Any]:
    """Sums `totals` over the workers, in place, and joins what each of them found."""
    if world == 1:
        return found
    dist.all_reduce(totals)
    shares: list[Any] = [None] * world
    dist.all_gather_object(shares, found)
    return [item for share in shares for item in share]


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
