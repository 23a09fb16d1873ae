"""Exact parameter counts without allocating a weight.

A model of shapes alone takes no memory, but building it takes time: tens of milliseconds for twenty layers.
So only five small models of each architecture are ever built; the counts of all others follow from theirs, exactly:
the layers of a stack are alike, and what one layer and all the rest count is, for width D and another size X (a layer's
inner width; for the rest the vocabulary), a + b D + c D^2 + (d + e D) X.
"""

from __future__ import annotations

import math
from functools import lru_cache

from trainables.config import Config, Model
from trainables.models.encoder import Encoder
from trainables.models.shapes import shapes_only
from trainables.models.speech_transformer import make_model, stacks

UNCOUNTED = (  # no parameter depends on these
    "activation", "attention", "decoder_positions", "dropout", "first_position", "layer_drop", "scale_embeddings",
    "scale_states",
)  # fmt: skip
PLAIN = {key: Model.model_fields[key].default for key in UNCOUNTED}
ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}
NODES = ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2))  # D in units of the least possible, and X, of the models built

Parts = tuple[int, int, int]
"""Parameters of an encoder layer (0 where there is none), of a decoder layer, and of all the rest."""


def count_parameters(config: Config, vocab_size: int, num_feats: int) -> int:
    """Every parameter of the model, shared ones once.

    Args:
        config: the run; of it the model section and `features.num_feats` matter.
        vocab_size: tokens, special ones included.
        num_feats: mel bins of the corpus, of which the configuration may keep fewer.
    """
    model, unit = config.model, _unit(config.model)
    kind = model.model_copy(update={**PLAIN, **ONE_LAYER, "d_model": unit, "feed_forward": 1, "ff_expansion": None})
    nodes = _built(kind, min(num_feats, config.features.num_feats or num_feats))
    encoder, decoder, rest = zip(*nodes, strict=True)
    units, inner = model.d_model // unit, model.inner_width
    layers = model.encoder_layers * _value(encoder, units, inner) + model.decoder_layers * _value(decoder, units, inner)
    return layers + _value(rest, units, vocab_size)


def _unit(model: Model) -> int:
    """Every possible width is a multiple of this, the least."""
    return math.lcm(2, model.heads)


@lru_cache(maxsize=4096)
def _built(kind: Model, num_feats: int) -> tuple[Parts, ...]:
    """What the models at the nodes count; `kind` is the first of them."""
    return tuple(_parts(kind.model_copy(update={"d_model": kind.d_model * n}), x, num_feats) for n, x in NODES)


def _parts(model: Model, size: int, num_feats: int) -> Parts:
    """Those of a model with layers of this inner width and a vocabulary of the same size."""
    with shapes_only():
        built = make_model(model.model_copy(update={"feed_forward": size}), size, num_feats)
    total, encoder, decoder = sum(parameter.numel() for parameter in built.parameters()), 0, 0
    for stack in stacks(built).values():
        layer = sum(parameter.numel() for parameter in stack.layers.parameters())
        if isinstance(stack, Encoder):
            encoder = layer
        else:
            decoder = layer
    return encoder, decoder, total - encoder - decoder


def _value(at: tuple[int, ...], units: int, size: int) -> int:
    """The polynomial through the nodes, at D = `units` and X = `size`: Newton's forward differences, in integers."""
    steps, slope = units - 1, at[3] - at[0]
    square = at[0] + steps * (at[1] - at[0]) + math.comb(steps, 2) * (at[2] - 2 * at[1] + at[0])
    return square + (size - 1) * (slope + steps * (at[4] - at[1] - slope))
