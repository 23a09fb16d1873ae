"""Training of recognisers, which are ranked by their CER on the validation split.

Shapes: B batch, S encoder states (subsampled frames), U tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from trainables.config.tree import PASS_SECONDS, Config, Loss
from trainables.data.augmentation import drawn_lengths
from trainables.data.batch_plan import BatchPlan, PassBatch, Rows, batches_per_update
from trainables.data.batching import Batch, DeviceSplit
from trainables.data.corpus import Corpus, Split
from trainables.data.device.placement import DeviceMemory
from trainables.data.text.tokenizer import corpus_tokenizer
from trainables.errors import InputError
from trainables.evaluation.examples import Attention, collect, decoder_attention, median_utterance
from trainables.evaluation.metrics import character_error_rate
from trainables.inference.language_model import load_language_model
from trainables.inference.recognizer import Recognizer
from trainables.models.losses import CTCLengths, LossSums, loss_sums
from trainables.models.speech_transformer import Predictions, SpeechTransformer, make_speech_model
from trainables.training.pretrained import KEY, check_pretrained, copy_weights, fitting_weights, load_initial_model
from trainables.training.tasks.task import BatchLoss, Task, gathered, shared

FAST_SPEECH = 0.999  # quantile of tokens a frame that bounds hypotheses: the fastest may be a mistake in the data
VALIDATION_SECONDS = {False: 240.0, True: 6000.0}  # of audio in a batch of validation, at least; True: on a whole GPU
USUAL_LENGTH = 0.9  # quantile of durations up to which a model is said to be trained


class RecognitionTask(Task):
    """Training of an encoder-decoder recogniser on a corpus."""

    SUMS: ClassVar[tuple[str, ...]] = ("cross_entropy", "ctc", "tokens", "infeasible", "stray")
    CERS: ClassVar[tuple[str, ...]] = ("val_cer", "val_ctc_cer")  # metrics of the texts from `_validate_batch`
    DRAFTS: ClassVar[bool] = False  # whether the texts of `val_ctc_cer` are drafts that the model edits

    trained: Recognizer

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        super().__init__(config, corpus, device)
        train_split = corpus.training_split(config.data)
        validation_split = corpus.validation_split(config.data)
        self.trained = build_recognizer(config, corpus, train_split, device)
        self.search = self.trained.search()
        normalizer, tokenizer = self.trained.normalizer(), self.trained.tokenizer
        self.train_data = DeviceSplit(train_split, tokenizer, normalizer, device, None, corpus.path)
        self.noise = self.train_data.noise(config.augmentation, corpus.recipe)
        shared = self.train_data.features if config.data.folds else None  # folds are parts of one split
        self.validation_data = DeviceSplit(validation_split, tokenizer, normalizer, device, shared, corpus.path)
        self.amounts, self.target_tokens = train_split.seconds, self.train_data.token_counts + 1
        rates = self.train_data.token_counts / train_split.frames
        self.trained.tokens_per_frame = float(np.quantile(rates, FAST_SPEECH))
        self.trained.usual_seconds = float(np.quantile(self.amounts, USUAL_LENGTH))
        self.lengths, self.speed = train_split.frames, config.data.speed_perturbation
        rate, gpu, seconds = corpus.recipe.frames_per_second, device.type == "cuda", config.training.pass_seconds
        if seconds == "auto" and not gpu:
            seconds = PASS_SECONDS
        update = config.training.update_seconds * rate
        self.batches_per_update = batches_per_update(self.lengths, update, PASS_SECONDS * rate)
        self.budget = update / self.batches_per_update
        self.pass_budget = None if seconds == "auto" else seconds * rate
        # Without a backward pass there is room for more, and a batch takes as many decoding steps as its longest text.
        memory = DeviceMemory.of(device)
        least = VALIDATION_SECONDS[gpu] * rate * (memory.share if memory else 1.0)
        self.validation_plan = BatchPlan(validation_split.frames, max(self.pass_budget or 0.0, least))
        if config.pretrained.model is not None:
            source, bins = load_initial_model(config.pretrained.model), corpus.kept_bins(config.features.num_feats)
            fitting = fitting_weights(source, config.pretrained.model, config.model, tokenizer, bins)
            fitting.copy_to(self.trained.model)
            self.pretrained, self.pretrained_share = fitting.names, fitting.share
        if config.pretrained.decoder is not None:
            language = load_language_model(config.pretrained.decoder, KEY)
            check_pretrained(language, config.pretrained.decoder, config.model, tokenizer)
            self.pretrained |= copy_weights(language, self.trained.model, config.model)

    def start_epoch(self, epoch: int, history: Sequence[Mapping[str, Any]]) -> None:
        config, seed = self.config, self.config.training.seed
        self.epoch_frames = drawn_lengths(self.lengths, self.speed, (seed, epoch))
        states_N = -(-self.epoch_frames // self.config.model.reduction_factor)
        infeasible_N = self.train_data.texts.ctc_frames > states_N
        self.infeasible_N = torch.from_numpy(infeasible_N.astype(np.float32)).to(self.device)
        self.timing = self.train_data.timing(config.data.speed_perturbation, config.specaugment.time_warp, seed, epoch)
        self.masks = self.train_data.masks(config.specaugment, seed, epoch, self.timing)
        self.acoustics = self.train_data.acoustics(config.augmentation, self.trained.recipe, self.noise, seed, epoch)

    def training_batch(self, planned: PassBatch) -> Batch:
        """This worker's share of a batch of the training split, augmented."""
        parts = planned.rows, planned.edge, planned.tokens
        return self.train_data.gather(*parts, self.masks, self.timing, self.acoustics, planned.following)

    def losses(self, model: nn.Module, config: Loss, planned: PassBatch) -> BatchLoss:
        batch = self.training_batch(planned)
        with self.trained.autocast():
            inputs = batch.features_BTF, batch.lengths_B, batch.inputs_BU, batch.weights_B
            found: Predictions = model(*inputs, with_attention=config.attention_weight > 0)
        known = self.ctc_lengths(planned.rows)
        logits_BUV, ctc_logits_BSV, state_lengths_B, attention_BHUS = found
        sums = loss_sums(config, logits_BUV, ctc_logits_BSV, state_lengths_B, batch, known, attention_BHUS)
        loss = sums.cross_entropy + config.ctc_weight * sums.ctc
        if attention_BHUS is not None:
            loss = loss + config.attention_weight * sums.stray
        return BatchLoss(loss, in_order(sums))

    def ctc_lengths(self, rows: Rows) -> CTCLengths:
        """Lengths of the states and of the transcripts of utterances in this epoch, known before the pass."""
        states = -(-self.epoch_frames[rows.indices] // self.config.model.reduction_factor)
        tokens = self.train_data.token_counts[rows.indices]
        return CTCLengths(states.tolist(), tokens.tolist(), self.infeasible_N[rows.index_B])

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, Any]:
        count = sums["tokens"]
        return {
            "train_loss": self.mean_loss(sums),
            "train_cross_entropy": sums["cross_entropy"] / count,
            "train_ctc": sums["ctc"] / count,
            "infeasible_ctc": int(sums["infeasible"]),
            **({"stray_attention": sums["stray"] / count} if self.config.loss.attention_weight else {}),
        }

    def mean_loss(self, sums: Mapping[str, float]) -> float:
        """Loss per token of sums over any number of batches, without guided attention."""
        return (sums["cross_entropy"] + self.config.loss.ctc_weight * sums["ctc"]) / sums["tokens"]

    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        return {"audio_hours": sum(amounts) / 3600, "audio_seconds_per_second": amounts[-1] / seconds}

    @torch.no_grad()
    def validate(self, epoch: int, rank: int, world: int, heed: Callable[[], None]) -> dict[str, Any]:
        """Loss, CER and WER and real-time factor of the configured decoding, and CER of greedy CTC."""
        totals = torch.zeros(len(self.SUMS) + 1, device=self.device, dtype=torch.float64)
        found: list[tuple[int, list[str]]] = []
        for indices, edge in shared(self.validation_plan.epoch(), rank, world, heed):
            sums, seconds, texts = self._validate_batch(indices, edge)
            totals[:-1] += sums
            totals[-1] += seconds
            found += zip(indices.tolist(), map(list, zip(*texts, strict=True)), strict=True)
        found = gathered(totals, found, world)
        *sums_of_all, total_seconds = totals.tolist()
        order, (hypotheses, *others) = [index for index, _ in found], zip(*(texts for _, texts in found), strict=True)
        references = [(self.validation_data.split.texts or [])[index] for index in order]
        attention = self.attention(median_utterance(self.validation_data))
        drafts = others[0] if self.DRAFTS else None
        examples = collect(self.validation_data, epoch, order, hypotheses, attention, drafts)
        if rank == 0:
            self.examples = examples
        rates = {
            name: character_error_rate(references, texts) for name, texts in zip(self.CERS[1:], others, strict=True)
        }
        return {
            "val_loss": self.mean_loss(dict(zip(self.SUMS, sums_of_all, strict=True))),
            self.CERS[0]: examples.errors.cer,
            **rates,
            "val_wer": examples.errors.wer,
            "real_time_factor": total_seconds / float(self.validation_data.split.seconds.sum()),
        }

    def validation_batch(self, indices: np.ndarray, edge: int) -> Batch:
        """Batch of the validation split, with all earlier work of the device done, so that a clock can start."""
        batch = self.validation_data.gather(Rows.of(indices, self.device), edge)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return batch

    def _validate_batch(self, indices: np.ndarray, edge: int) -> tuple[Tensor, float, list[list[str]]]:
        """Sums in the order of `SUMS`, seconds of decoding, and texts for each of `CERS`."""
        model = cast(SpeechTransformer, self.trained.model)
        batch = self.validation_batch(indices, edge)
        with self.trained.autocast():
            start = time.perf_counter()
            encoded = model.encode(batch.features_BTF, batch.lengths_B)
            searched = self.trained.decode(self.search, encoded, batch.lengths_B)
            seconds = time.perf_counter() - start
            logits_BUV = model.decoder(batch.inputs_BU, *encoded)
            ctc_logits_BSV, state_lengths_B = model.ctc_logits(encoded)
            greedy_ctc = self.trained.decode_ctc(encoded)
        sums = loss_sums(self.config.loss, logits_BUV, ctc_logits_BSV, state_lengths_B, batch)
        return in_order(sums), seconds, [searched, greedy_ctc]

    def attention(self, index: int) -> Attention:
        """Attention weights for an utterance of the validation split."""
        return decoder_attention(self.trained, self.validation_data, index)


def in_order(sums: LossSums) -> Tensor:
    """The sums of an encoder-decoder in the order of `RecognitionTask.SUMS`, detached."""
    return torch.stack([sums.cross_entropy, sums.ctc, sums.tokens, sums.infeasible, sums.stray]).detach()


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
    model = make_speech_model(config.model, tokenizer.vocabulary, bins).to(device)
    about = corpus.hash, corpus.recipe, corpus.mean, corpus.std
    return Recognizer(config, model, tokenizer, *about, 0.0, text=corpus.preparation.text)
