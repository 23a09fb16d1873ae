"""A recogniser's decoder that begins with the weights of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainables.config import Model, parse_config
from trainables.data.tokenizer import Tokenizer
from trainables.errors import InputError
from trainables.recognizer import CONFIG, TOKENIZER, WEIGHTS, Recognizer, read_json

KEY = "pretrained.decoder"
OWN = "cross_attention"  # in the names of what a language model does not have
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


@dataclass(frozen=True)
class Pretrained:
    """A language model; its parameters have the names of a recogniser's `decoder`, without cross-attention."""

    source: str
    model: Model
    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]


def read_pretrained(folder: Path) -> Pretrained:
    """Reads a language model's directory.

    Raises:
        InputError: it is not one, or not whole.
    """
    missing = [name for name in (CONFIG, TOKENIZER, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{KEY}: {folder} is not a whole model directory: {', '.join(missing)} missing",
            "Give the folder of a trained language model.",
        )
    config = parse_config(read_json(folder / CONFIG, "config")["config"], str(folder / CONFIG))
    if config.model.kind != "language_model":
        raise InputError(
            f"{KEY}: {folder} holds a model of kind {config.model.kind}, not language_model",
            "Train a language model with this tokenizer first.",
        )
    try:
        weights = load_file(str(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS}: {error}", "The file is damaged; use another copy.") from None
    return Pretrained(str(folder), config.model, Tokenizer.load(folder / TOKENIZER), weights)


@torch.no_grad()
def move_weights(pretrained: Pretrained, recognizer: Recognizer) -> set[str]:
    """Copies a language model's weights into the decoder; returns the names of the recogniser's parameters it set.

    Raises:
        InputError: tokenizer or model differ (the message names both values), or the weights are of another model.
    """
    source, here = pretrained.source, recognizer.config.model
    if pretrained.tokenizer.content_hash != recognizer.tokenizer.content_hash:
        raise InputError(
            f"{KEY}: {source} has another tokenizer: {_name(pretrained.tokenizer)} there, "
            f"{_name(recognizer.tokenizer)} here",
            "Train the language model with this run's tokenizer: the same corpus, kind and vocab_size.",
        )
    differing = [
        f"model.{key} is {getattr(pretrained.model, key)} there and {getattr(here, key)} here"
        for key in SHARED_KEYS
        if getattr(pretrained.model, key) != getattr(here, key)
    ]
    if differing:
        raise InputError(f"{KEY}: {source} has another shape: {'; '.join(differing)}", "Give both the same values.")
    weights = dict(pretrained.weights)
    if here.tied_embeddings and "output.weight" in weights:  # a file holds shared weights under one of their names
        weights.setdefault("embedding.weight", weights.pop("output.weight"))
    shared = {name: value for name, value in recognizer.model.decoder.named_parameters() if OWN not in name}
    wrong = sorted(name for name in shared if name not in weights or weights[name].shape != shared[name].shape)
    if wrong:
        raise InputError(
            f"{KEY}: {source} has no weights of this decoder's shape for {', '.join(wrong[:8])}",
            "Give a language model that was trained with the same model section.",
        )
    for name, parameter in shared.items():
        parameter.copy_(weights[name])
    return {f"decoder.{name}" for name in shared}


def _name(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.kind} with {tokenizer.vocab_size} tokens ({tokenizer.content_hash[:12]})"
