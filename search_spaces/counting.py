"""Exact parameter counts without allocating a weight.

A model on torch's meta device takes no memory, but a millisecond for each layer. The layers of a stack are alike, so a
model with one layer in each stack is built, and each layer's count is multiplied by the number of layers.
"""

from __future__ import annotations

from functools import lru_cache

from trainables.config.model import Model
from trainables.config.tree import Config
from trainables.data.text.tokenizer import Vocabulary
from trainables.models.encoder import Encoder
from trainables.models.speech_transformer import make_model, stacks
from trainables.shapes import shapes_only


def count_parameters(config: Config, vocabulary: Vocabulary, num_feats: int) -> int:
    """Number of parameters of a model; shared parameters count once.

    Args:
        config: configuration; only `model` and `features.num_feats` matter.
        vocabulary: sizes of the tokenizer's vocabulary.
        num_feats: mel bins of the corpus; the configuration may use fewer.
    """
    model, bins = config.model, min(num_feats, config.features.num_feats or num_feats)
    editor = model.editor.model_copy(update={"layers": 1})
    shallow = model.model_copy(update={"encoder_layers": 1, "decoder_layers": 1, "editor": editor})
    encoder_layer, token_layer, rest = _shallow_counts(shallow, vocabulary, bins)
    return model.encoder_layers * encoder_layer + model.token_layers * token_layer + rest


@lru_cache(maxsize=4096)
def _shallow_counts(model: Model, vocabulary: Vocabulary, num_feats: int) -> tuple[int, int, int]:
    """Parameters of one layer of the encoder (0 without one), of one of decoder or editor, and of the rest."""
    with shapes_only():
        built = make_model(model, vocabulary, num_feats)
    total, encoder, decoder = sum(parameter.numel() for parameter in built.parameters()), 0, 0
    for stack in stacks(built).values():
        layer = sum(parameter.numel() for parameter in stack.layers.parameters())
        if isinstance(stack, Encoder):
            encoder = layer
        else:
            decoder = layer
    return encoder, decoder, total - encoder - decoder
