"""Language models: the probability of the next token of a text.

A language model trained on text with the tokenizer of a recogniser can initialise its decoder (`pretrained.decoder`) or
take part in its search (`decoding.language_model`).

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

from trainables.config.tree import PASS_TOKENS
from trainables.data.batch_plan import BatchPlan, Rows
from trainables.data.text.token_batches import DeviceTexts
from trainables.data.text.tokenizer import Tokenizer
from trainables.errors import InputError
from trainables.inference.model_directory import TrainedModel, load_network, read_checked_info
from trainables.inference.model_files import TOKENIZER
from trainables.models.losses import cross_entropy_sums
from trainables.models.speech_transformer import LanguageModel

MAX_NATS = 700.0  # exp of more overflows


@dataclass
class TextModel(TrainedModel):
    """A language model with its tokenizer."""

    model: LanguageModel

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Loads a model directory.

        Raises:
            InputError: the directory is of another format or kind.
            DamagedError: a file is missing, or differs from its checksum, or the files do not fit together.
        """
        info = read_checked_info(folder, ("language_model",), cls.FILES)
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        model = load_network(lambda: LanguageModel(info.config.model, tokenizer.vocab_size), folder, info.active_layers)
        model.lay_out_for_steps()
        return cls(info.config, model.to(device).eval(), tokenizer, info.corpus_hash, text=info.text)

    @torch.no_grad()
    def log_losses(self, data: DeviceTexts, batches: Iterable[tuple[np.ndarray, int]]) -> Tensor:
        """Negative log-likelihood in nats and number of tokens, EOS included, over all batches: (2,) float64.

        Args:
            batches: for each batch the indices of texts in `data`, and the length to pad to (see `BatchPlan.epoch`).
        """
        self.model.eval()
        totals = torch.zeros(2, device=self.device, dtype=torch.float64)
        for indices, edge in batches:
            batch = data.gather(Rows.of(indices, self.device), edge)
            with self.autocast():
                logits_BUV = self.model(batch.inputs_BU)
            sums = cross_entropy_sums(0.0, logits_BUV, batch.targets_BU, batch.weights_B)
            totals += torch.stack([sums.cross_entropy, sums.tokens])
        return totals

    def perplexities(self, texts: Sequence[str]) -> dict[str, float]:
        """Perplexity per token and per character of texts (see `perplexities`)."""
        data = DeviceTexts(texts, self.tokenizer, self.device)
        plan = BatchPlan(data.token_counts + 1, min(self.config.training.update_tokens, PASS_TOKENS))
        nats, tokens = self.log_losses(data, plan.epoch()).tolist()
        return perplexities(nats, tokens, texts)


def perplexities(nats: float, tokens: float, texts: Sequence[str]) -> dict[str, float]:
    """Perplexity per token and per character: exp of the mean negative log-likelihood.

    The end of a text counts as one token and one character.

    Args:
        nats: negative log-likelihood of all texts.
        tokens: number of tokens of all texts, one EOS per text included.
    """
    characters = sum(len(text) + 1 for text in texts)
    return {
        "perplexity": math.exp(min(nats / tokens, MAX_NATS)),
        "character_perplexity": math.exp(min(nats / characters, MAX_NATS)),
    }


def load_language_model(folder: str, key: str, device: torch.device | str = "cpu") -> TextModel:
    """Loads the language model whose folder is the value of the configuration's `key`.

    Raises:
        InputError: the folder has no language model; the message names the key.
    """
    try:
        return TextModel.load(Path(folder), device)
    except InputError as error:
        remedy = f"{error.remedy} {key} takes the directory of a trained language model."
        raise InputError(f"{key}: {error.problem}", remedy) from None


def check_tokenizers(ours: Tokenizer, theirs: Tokenizer, folder: str, key: str) -> None:
    """Checks that a recogniser and a language model have equal tokenizers.

    Args:
        ours: tokenizer of the recogniser.
        theirs: tokenizer of the language model.
        folder: folder of the language model, which is the value of the configuration's `key`.

    Raises:
        InputError: the tokenizers differ.
    """
    if ours.content_hash != theirs.content_hash:
        one, other = (f"{item.kind} of {item.vocab_size} tokens" for item in (theirs, ours))
        raise InputError(
            f"{key}: {folder} has another tokenizer ({one}) than the recogniser ({other})",
            "Train the language model with the recogniser's tokenizer section and corpus.",
        )
