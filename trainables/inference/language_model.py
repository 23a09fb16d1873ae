"""A language model: how likely a transcript's next token is.

Trained on text with the tokenizer of a recogniser, it gives that recogniser's decoder its first weights
(`pretrained.decoder`), or a say in its search (`decoding.language_model`).

Shapes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trainables.data.batching import BatchPlan
from trainables.data.text.token_batches import DeviceTexts
from trainables.data.text.tokenizer import Tokenizer
from trainables.errors import InputError
from trainables.inference.model_directory import TOKENIZER, TrainedModel, load_network, read_about
from trainables.models.losses import cross_entropy_sums
from trainables.models.speech_transformer import LanguageModel

LARGEST = 700.0  # nats a token whose exp is still a number


@dataclass
class TextModel(TrainedModel):
    """A language model with its tokenizer."""

    model: LanguageModel

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Reads a model directory.

        Raises:
            InputError: the directory is of another format or kind.
            DamagedError: a file is missing, is not what was saved, or does not fit the others.
        """
        about = read_about(folder, "language_model", cls.FILES)
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        model = load_network(
            lambda: LanguageModel(about.config.model, tokenizer.vocab_size), folder, about.active_layers
        )
        model.lay_out_for_steps()
        return cls(about.config, model.to(device).eval(), tokenizer, about.corpus_hash)

    @torch.no_grad()
    def log_losses(self, data: DeviceTexts, batches: Iterable[tuple[np.ndarray, int]]) -> Tensor:
        """Negative log-likelihood in nats and number of tokens, EOS included, of these batches: (2,) float64."""
        self.model.eval()
        totals = torch.zeros(2, device=self.device, dtype=torch.float64)
        for indices, edge in batches:
            batch = data.gather(indices, edge, np.ones(len(indices), dtype=np.float32))
            with self.autocast():
                logits_BUV = self.model(batch.inputs_BU)
            sums = cross_entropy_sums(0.0, logits_BUV, batch.targets_BU, batch.weights_B)
            totals += torch.stack([sums.cross_entropy, sums.tokens])
        return totals

    def perplexities(self, texts: Sequence[str]) -> dict[str, float]:
        """Of texts: see `perplexities`."""
        data = DeviceTexts(texts, self.tokenizer, self.device)
        plan = BatchPlan(data.token_counts + 1, self.config.training.batch_tokens)
        nats, tokens = self.log_losses(data, plan.epoch()).tolist()
        return perplexities(nats, tokens, texts)


def perplexities(nats: float, tokens: float, texts: Sequence[str]) -> dict[str, float]:
    """exp of the mean negative log-likelihood a token and a character; the end of a text counts as one of each."""
    characters = sum(len(text) + 1 for text in texts)
    return {
        "perplexity": math.exp(min(nats / tokens, LARGEST)),
        "character_perplexity": math.exp(min(nats / characters, LARGEST)),
    }


def load_language_model(folder: str, key: str, device: torch.device | str = "cpu") -> TextModel:
    """The language model in a folder, which the configuration's `key` gives.

    Raises:
        InputError: there is none; the message names the key.
    """
    try:
        return TextModel.load(Path(folder), device)
    except InputError as error:
        remedy = f"{error.remedy} {key} takes the directory of a trained language model."
        raise InputError(f"{key}: {error.problem}", remedy) from None


def check_tokenizers(ours: Tokenizer, theirs: Tokenizer, folder: str, key: str) -> None:
    """Refuses a language model whose token numbers mean something else.

    Args:
        folder: the language model's, given as the configuration's `key`.

    Raises:
        InputError: the two tokenizers differ.
    """
    if ours.content_hash != theirs.content_hash:
        one, other = (f"{item.kind} of {item.vocab_size} tokens" for item in (theirs, ours))
        raise InputError(
            f"{key}: {folder} has another tokenizer ({one}) than the recogniser ({other})",
            "Train the language model with the recogniser's tokenizer section and corpus.",
        )
