"""A recogniser's decoder that begins with the weights of a language model."""

from __future__ import annotations

import torch

from trainables.config import Model
from trainables.data.text.tokenizer import Tokenizer
from trainables.errors import InputError
from trainables.inference.language_model import TextModel, check_tokenizers
from trainables.models.speech_transformer import SpeechTransformer

KEY = "pretrained.decoder"
# What the decoder computes depends on these, even where the shapes would fit.
SHARED_KEYS = (
    "d_model",
    "heads",
    "decoder_layers",
    "inner_width",
    "activation",
    "gated",
    "norm",
    "qk_norm",
    "qkv_bias",
    "decoder_positions",
    "first_position",
    "scale_embeddings",
    "tied_embeddings",
)


def check_pretrained(language: TextModel, folder: str, model: Model, tokenizer: Tokenizer) -> None:
    """Refuses a language model that a decoder of this configuration cannot begin with.

    Raises:
        InputError: tokenizer or configuration differ; the message names both values.
    """
    check_tokenizers(tokenizer, language.tokenizer, folder, KEY)
    pairs = [(key, getattr(language.config.model, key), getattr(model, key)) for key in SHARED_KEYS]
    differing = [f"model.{key} is {there} there and {here} here" for key, there, here in pairs if there != here]
    if differing:
        raise InputError(f"{KEY}: {folder} is of another shape: {'; '.join(differing)}", "Give both the same values.")


@torch.no_grad()
def move_weights(language: TextModel, model: SpeechTransformer) -> set[str]:
    """Copies a language model's weights into the decoder; returns the names of the parameters that it set."""
    own = dict(model.decoder.named_parameters())
    for name, weight in language.model.named_parameters():
        own[name].copy_(weight)
    return moved_names(language)


def moved_names(language: TextModel) -> set[str]:
    """The recogniser's parameters that begin with a language model's weights."""
    return {f"decoder.{name}" for name, _ in language.model.named_parameters()}
