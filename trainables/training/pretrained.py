"""Weights with which a training begins: those of another recogniser, and of a language model in decoder or editor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainables.config.model import Blocks, Editor, Model
from trainables.data.text.tokenizer import SPECIAL_IDS, Tokenizer, Vocabulary
from trainables.errors import InputError
from trainables.inference.language_model import TextModel, check_tokenizers
from trainables.inference.recognizer import Recognizer
from trainables.models.speech_transformer import SpeechModel, make_speech_model
from trainables.shapes import shapes_only

KEY = "pretrained.decoder"
MODEL_KEY = "pretrained.model"
LEAST_SHARE = 0.2  # of the parameters; with less, the weights of another architecture say nothing
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


@dataclass(frozen=True)
class FittingWeights:
    """The weights of another recogniser that fit into one, by name and shape.

    Args:
        weights: weights and statistics of equal name and shape, by name.
        rows: weights with one row for each token, by name, which are copied token by token.
        tokens: (ids here, ids there) of the tokens that both tokenizers have.
        names: the recogniser's parameters that are taken whole.
        share: taken share of the recogniser's parameters, a fraction.
    """

    weights: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    tokens: tuple[list[int], list[int]]
    names: frozenset[str]
    share: float

    @torch.no_grad()
    def copy_to(self, network: SpeechModel) -> None:
        """Copies the weights into a network of the model and tokenizer for which they were found."""
        own = network.state_dict()
        for name, weight in self.weights.items():
            own[name].copy_(weight)
        here, there = self.tokens
        for name, weight in self.rows.items():
            own[name][here] = weight[there].to(own[name])


def load_initial_model(folder: str) -> Recognizer:
    """Loads the recogniser whose folder is the value of `pretrained.model`.

    Raises:
        InputError: the folder has no recogniser; the message names the key.
    """
    try:
        return Recognizer.load(Path(folder))
    except InputError as error:
        remedy = f"{error.remedy} {MODEL_KEY} takes the directory of a trained recogniser."
        raise InputError(f"{MODEL_KEY}: {error.problem}", remedy) from None


def fitting_weights(
    source: Recognizer, folder: str, model: Model, tokenizer: Tokenizer, num_feats: int
) -> FittingWeights:
    """The weights of `source` that fit into a recogniser, without building that.

    Weights with a row for each token (embeddings, output, CTC head) are taken for the tokens that both have.

    Args:
        folder: directory of `source`, for the message.
        model, tokenizer, num_feats: configuration, tokenizer and mel bins of the recogniser.

    Raises:
        InputError: less than `LEAST_SHARE` of the recogniser's parameters fit.
    """
    theirs = source.model.state_dict()
    with shapes_only():
        network = make_speech_model(model, tokenizer.vocabulary, num_feats)
        larger = Vocabulary(*(size + 1 for size in tokenizer.vocabulary))
        other = make_speech_model(model, larger, num_feats).state_dict()
    own = network.state_dict()
    by_token = {name for name, weight in own.items() if other[name].shape != weight.shape}
    fitting = {name for name in own if name in theirs and theirs[name].shape[1:] == own[name].shape[1:]}
    here, there = shared_tokens(tokenizer, source.tokenizer)
    same = here == there == list(range(tokenizer.vocab_size)) and tokenizer.vocab_size == source.tokenizer.vocab_size
    whole = {name for name in fitting if theirs[name].shape == own[name].shape and (same or name not in by_token)}
    sizes = (tokenizer.vocab_size, source.tokenizer.vocab_size)
    rows = {name for name in (fitting & by_token) - whole if (len(own[name]), len(theirs[name])) == sizes}
    parameters = dict(network.named_parameters())
    taken = sum(parameters[name].numel() for name in whole & parameters.keys())
    taken += sum(len(here) * parameters[name][0].numel() for name in rows & parameters.keys())
    share = taken / sum(parameter.numel() for parameter in parameters.values())
    if share < LEAST_SHARE:
        differing = [
            f"model.{key} is {getattr(source.config.model, key)} there and {getattr(model, key)} here"
            for key in Model.model_fields
            if getattr(source.config.model, key) != getattr(model, key)
        ]
        reason = f"{MODEL_KEY}: {share:.0%} of the parameters fit the weights of {folder}: {'; '.join(differing)}"
        raise InputError(reason, f"Give both models equal values, as in {folder}/config.json.")
    return FittingWeights(
        weights={name: theirs[name] for name in sorted(whole)},
        rows={name: theirs[name] for name in sorted(rows)},
        tokens=(here, there),
        names=frozenset(whole & parameters.keys()),
        share=share,
    )


def shared_tokens(ours: Tokenizer, theirs: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids of the tokens that two tokenizers share, in the first and in the second; special tokens are always shared."""
    special = len(SPECIAL_IDS)
    known = {text: number for number, text in enumerate(theirs.texts[special:], start=special)}
    found = [(number, known[text]) for number, text in enumerate(ours.texts[special:], start=special) if text in known]
    return [*SPECIAL_IDS, *(here for here, _ in found)], [*SPECIAL_IDS, *(there for _, there in found)]
