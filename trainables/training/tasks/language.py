"""Training of a language model, which is ranked by its perplexity per character.

Shapes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.config.tree import PASS_TOKENS, Config, Loss
from trainables.data.batch_plan import BatchPlan, PassBatch, batches_per_update
from trainables.data.corpus import Corpus
from trainables.data.text.token_batches import DeviceTexts, read_texts
from trainables.data.text.tokenizer import corpus_tokenizer
from trainables.inference.language_model import TextModel, perplexities
from trainables.models.losses import cross_entropy_sums
from trainables.models.speech_transformer import LanguageModel
from trainables.training.tasks.task import BatchLoss, Task, gathered, shared


class LanguageTask(Task):
    """Training of a language model on a corpus' transcripts and, where there is some, more text (`data.text`).

    Its tokenizer is that of a recogniser with the same `tokenizer` section on the same corpus: it is not trained on the
    additional text.
    """

    SUMS = ("cross_entropy", "tokens")

    trained: TextModel

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        super().__init__(config, corpus, device)
        split = corpus.training_split(config.data)
        tokenizer = corpus_tokenizer(corpus, split, config.tokenizer)
        torch.manual_seed(config.training.seed)
        model = LanguageModel(config.model, tokenizer.vocab_size).to(device)
        self.trained = TextModel(config, model, tokenizer, corpus.hash, text=corpus.preparation.text)
        more = read_texts(Path(config.data.text)) if config.data.text is not None else []
        self.train_data = DeviceTexts([*(split.texts or []), *more], tokenizer, device, corpus.path)
        texts = corpus.validation_split(config.data).texts or []
        self.validation_data = DeviceTexts(texts, tokenizer, device, corpus.path)
        self.lengths = self.amounts = self.target_tokens = self.train_data.token_counts + 1  # with EOS
        update = config.training.update_tokens
        self.batches_per_update = batches_per_update(self.lengths, update, PASS_TOKENS)
        self.budget = update / self.batches_per_update
        self.pass_budget = None if device.type == "cuda" else PASS_TOKENS
        self.validation_plan = BatchPlan(self.validation_data.token_counts + 1, min(update, PASS_TOKENS))

    def losses(self, model: nn.Module, config: Loss, planned: PassBatch) -> BatchLoss:
        batch = self.train_data.gather(planned.rows, planned.edge)
        with self.trained.autocast():
            logits_BUV = model(batch.inputs_BU)
        sums = cross_entropy_sums(config.label_smoothing, logits_BUV, batch.targets_BU, batch.weights_B)
        return BatchLoss(sums.cross_entropy, torch.stack([sums.cross_entropy, sums.tokens]).detach())

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, Any]:
        return {"train_loss": sums["cross_entropy"] / sums["tokens"]}

    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        return {"tokens": sum(amounts), "tokens_per_second": amounts[-1] / seconds}

    def validate(self, epoch: int, rank: int, world: int, heed: Callable[[], None]) -> dict[str, Any]:
        """Cross-entropy without smoothing, and perplexity per token and per character, ends of texts included."""
        totals = self.trained.log_losses(self.validation_data, shared(self.validation_plan.epoch(), rank, world, heed))
        gathered(totals, [], world)
        nats, tokens = totals.tolist()
        found = perplexities(nats, tokens, self.validation_data.texts)
        return {"val_loss": nats / tokens, **{f"val_{name}": value for name, value in found.items()}}
