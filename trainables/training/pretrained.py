"""A recogniser's decoder that begins with the weights of a language model."""

from __future__ import annotations

import torch

from trainables.config_model import Blocks, Model
from trainables.data.text.tokenizer import Tokenizer
from trainables.errors import InputError
from trainables.inference.language_model import TextModel, check_tokenizers
from trainables.models.speech_transformer import SpeechTransformer

KEY = "pretrained.decoder"
# A decoder's output depends on these keys, even where the shapes would fit; two keys give the inner width.
DECODER_KEYS = [
    *(key for key in Blocks.model_fields if key not in ("feed_forward", "ff_expansion", "dropout", "layer_drop")),
    "inner_width", "decoder_layers", "decoder_positions", "first_position", "output_bias",
]  # fmt: skip


def check_pretrained(language: TextModel, folder: str, model: Model, tokenizer: Tokenizer) -> None:
    """Checks that a recogniser's decoder can be initialised with a language model.

    Args:
        folder: directory of the language model, for the message.
        model, tokenizer: configuration and tokenizer of the recogniser.

    Raises:
        InputError: tokenizer or configuration differ; the message names both values.
    """
    check_tokenizers(tokenizer, language.tokenizer, folder, KEY)
    pairs = [(key, getattr(language.config.model, key), getattr(model, key)) for key in DECODER_KEYS]
    differing = [f"model.{key} is {there} there and {here} here" for key, there, here in pairs if there != here]
    if differing:
        raise InputError(
            f"{KEY}: {folder} is of another shape: {'; '.join(differing)}", "Give both models equal values."
        )


@torch.no_grad()
def copy_weights(language: TextModel, model: SpeechTransformer) -> set[str]:
    """Copies a language model's weights into a recogniser's decoder; returns the names of the parameters it set."""
    own = dict(model.decoder.named_parameters())
    for name, weight in language.model.named_parameters():
        own[name].copy_(weight)
    return pretrained_names(language)


def pretrained_names(language: TextModel) -> set[str]:
    """Names of the recogniser's parameters that are initialised with this language model."""
    return {f"decoder.{name}" for name, _ in language.model.named_parameters()}
