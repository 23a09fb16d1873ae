"""A recogniser's decoder or editor that begins with the weights of a language model."""

from __future__ import annotations

import torch

from trainables.config_model import Blocks, Editor, Model
from trainables.data.text.tokenizer import Tokenizer
from trainables.errors import InputError
from trainables.inference.language_model import TextModel, check_tokenizers
from trainables.models.speech_transformer import SpeechModel

KEY = "pretrained.decoder"
# A decoder's output depends on these keys, even where the shapes would fit; two keys give the inner width.
DECODER_KEYS = [
    *(key for key in Blocks.model_fields if key not in ("feed_forward", "ff_expansion", "dropout", "layer_drop")),
    "inner_width", "decoder_layers", "decoder_positions", "first_position", "output_bias",
]  # fmt: skip


def check_pretrained(language: TextModel, folder: str, model: Model, tokenizer: Tokenizer) -> None:
    """Checks that a recogniser's decoder or editor can be initialised with a language model.

    Args:
        folder: directory of the language model, for the message.
        model, tokenizer: configuration and tokenizer of the recogniser.

    Raises:
        InputError: tokenizer or configuration differ; the message names both values.
    """
    check_tokenizers(tokenizer, language.tokenizer, folder, KEY)
    begun = model.editor.language_model() if model.kind == "transcript_editor" else model
    pairs = [(key, getattr(language.config.model, key), getattr(begun, key)) for key in DECODER_KEYS]
    named = [(_key(key, model), key, there, here) for key, there, here in pairs if there != here]
    if not named:
        return
    differing = "; ".join(
        f"{name or f'model.{key}'} is {there} there and {here} here" for name, key, there, here in named
    )
    remedy = "Give both models equal values."
    if fixed := [f"model.{key}: {str(here).lower()}" for name, key, _, here in named if name is None]:
        remedy = f"Train the language model with {' and '.join(fixed)}: an editor has no key for it."
        remedy += " Of the rest, give both equal values." if len(fixed) < len(named) else ""
    raise InputError(f"{KEY}: {folder} is of another shape: {differing}", remedy)


def _key(key: str, model: Model) -> str | None:
    """Name of a key of a language model in the configuration of a recogniser; None if an editor has no such key."""
    if key == "inner_width":
        key = "feed_forward"  # or ff_expansion
    if model.kind != "transcript_editor":
        return f"model.{key}"
    name = key.removeprefix("decoder_")
    return f"model.editor.{name}" if name in Editor.model_fields else None


@torch.no_grad()
def copy_weights(language: TextModel, network: SpeechModel, model: Model) -> set[str]:
    """Copies a language model's weights into a recogniser's decoder or editor; returns the parameters' names.

    Args:
        model: configuration of the recogniser.
    """
    own = dict(network.named_parameters())
    weights = language.model.parameters()
    names = pretrained_names(language, model)
    for name, weight in zip(names, weights, strict=True):
        own[name].copy_(weight)
    return set(names)


def pretrained_names(language: TextModel, model: Model) -> list[str]:
    """Names of the recogniser's parameters that are initialised with this language model."""
    stack = "editor" if model.kind == "transcript_editor" else "decoder"
    return [f"{stack}.{name}" for name, _ in language.model.named_parameters()]
