"""Parameter counts are exact, though few models are built."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.counting import count_parameters
from search_spaces.reader import load_space, shipped
from trainables.config.model import ANY_FACTOR, STRIDES, Editor, MidHead, Pooling, Projector, Slots
from trainables.config.tree import Config, Model
from trainables.data.text.tokenizer import Vocabulary
from trainables.models.speech_transformer import make_model

VOCABULARY = Vocabulary(1000, 28)
SIZES = {  # of keys whose type does not tell what is possible
    "encoder_layers": st.integers(1, 3),
    "decoder_layers": st.integers(1, 3),
    "heads": st.integers(1, 4),
    "feed_forward": st.integers(8, 64),
    "ff_expansion": st.none() | st.floats(0.5, 4),
    "conv_channels": st.integers(8, 32),
    "first_position": st.integers(0, 2),
    "dropout": st.sampled_from([0.0, 0.1]),
    "layer_drop": st.sampled_from([0.0, 0.1]),
    "head_size": st.sampled_from([None, 8, 16]),
    "kv_heads": st.sampled_from([None, 1]),
    "norm_epsilon": st.just(1e-6),
    "embedding_multiplier": st.just(1.5),
    "attention_multiplier": st.sampled_from([None, 0.5]),
    "residual_multiplier": st.just(0.5),
    "logits_scaling": st.just(2.0),
    "rotary_base": st.just(100.0),
    "conv_kernel": st.integers(1, 5),
    "conv_expansion": st.integers(1, 3),
    "context_size": st.none() | st.integers(1, 10),
    "max_distance": st.integers(1, 10),
    "reduction_factor": st.integers(1, 10),
    "bin_reduction": st.integers(1, 4),
    "input_dropout": st.sampled_from([None, 0.2]),
    "position_dropout": st.sampled_from([0.0, 0.2]),
    "encoder_output": st.none() | st.integers(8, 32),
    "mid_head": st.just(MidHead()),
    "pooling": st.just(Pooling(window=2)),
    "slots": st.just(Slots()),
    "projector": st.builds(
        Projector,
        d_model=st.sampled_from([None, 24]),
        heads=st.sampled_from([1, 2]),
        layers=st.integers(1, 3),
        window=st.just(6),
        reduction_factor=st.sampled_from([1, 2, 3]),
        states=st.sampled_from([None, (1,), (1, 1)]),
        qkv_bias=st.booleans(),
        bias=st.booleans(),
    ),
    "editor": st.builds(
        Editor,
        d_model=st.sampled_from([64, 128]),
        heads=st.sampled_from([2, 4]),
        kv_heads=st.sampled_from([None, 1, 2]),
        layers=st.integers(1, 3),
        gated=st.booleans(),
        bias=st.booleans(),
        qkv_bias=st.booleans(),
        tied_embeddings=st.booleans(),
        positions=st.sampled_from(["none", "sinusoidal", "rotary"]),
    ),
}


@st.composite
def shapes(draw: st.DrawFn) -> Model:
    """Models in which every key takes every kind of value; a new key joins by its type, or is missed in `SIZES`."""
    leaves: dict[str, Any] = {}
    for name, field in Model.model_fields.items():
        if name == "d_model":
            continue
        if get_origin(field.annotation) is Literal:
            leaves[name] = draw(st.sampled_from(get_args(field.annotation)))
        else:
            leaves[name] = draw(st.booleans() if field.annotation is bool else SIZES[name])
    if leaves["encoder_causal"] and leaves["encoder_block"] == "conformer":
        leaves["conv_kernel"] = 1
    if leaves["reduction"] != "stack":
        leaves |= {"stack_norm": "none", "frame_norm": "none", "stack_bias": False}
    if leaves["encoder_causal"] and leaves["encoder_block"] == "conformer":
        leaves["conv_kernel"] = 1
    if leaves["reduction"] not in ANY_FACTOR:
        leaves["reduction_factor"] = draw(st.sampled_from(sorted(STRIDES)))
    leaves["norm_positions"] &= leaves["embedding_norm"]
    if leaves["attention"] == "flex":
        leaves["head_size"] = None
    if leaves["encoder_positions"] in ("relative_keys", "transformer_xl"):
        leaves["attention"] = "sdpa"
    head = draw(st.sampled_from([16, 18] if leaves["attention"] == "flex" else [2, 3, 4, 8, 10]))
    if head % 2 and ("rotary" in (leaves["encoder_positions"], leaves["decoder_positions"]) or leaves["heads"] % 2):
        head += 1
    return Model(d_model=max(8, head) * leaves["heads"], **leaves)


def counted(model: Model, vocabulary: Vocabulary, num_feats: int, device: str = "meta") -> int:
    """The parameters of the model itself."""
    with torch.device(device):
        return sum(tensor.numel() for tensor in make_model(model, vocabulary, num_feats).parameters())


@settings(max_examples=50)
@given(
    model=shapes(),
    vocabulary=st.builds(Vocabulary, st.integers(8, 100), st.integers(1, 50)),
    num_feats=st.integers(1, 80),
)
def test_the_count_is_that_of_the_model_itself(model: Model, vocabulary: Vocabulary, num_feats: int) -> None:
    assert count_parameters(Config(model=model), vocabulary, num_feats) == counted(model, vocabulary, num_feats)


def test_a_model_in_memory_has_as_many() -> None:
    model = Model(d_model=16, heads=2, feed_forward=40, conv_channels=8, tied_embeddings=True)
    assert count_parameters(Config(model=model), Vocabulary(30, 25), 20) == counted(
        model, Vocabulary(30, 25), 20, "cpu"
    )


@pytest.mark.parametrize("name", shipped())
def test_deep_models_too(name: str) -> None:
    config = load_space(name).config({})
    assert count_parameters(config, VOCABULARY, 80) == counted(config.model, VOCABULARY, 80)


def test_every_key_of_a_model_takes_part_in_these_tests() -> None:
    """All keys reach the model that is counted, so none can be forgotten; a new number needs a range in `SIZES`."""
    assert set(SIZES) <= set(Model.model_fields)


def test_sharing_the_embedding_saves_one_matrix() -> None:
    shared, separate = (Config(model=Model(tied_embeddings=tied)) for tied in (True, False))
    assert count_parameters(separate, VOCABULARY, 80) - count_parameters(shared, VOCABULARY, 80) == 1000 * 256


def test_fewer_bins_make_a_smaller_model() -> None:
    fewer = Config.model_validate({"features": {"num_feats": 40}})
    assert count_parameters(fewer, Vocabulary(100, 28), 80) == count_parameters(Config(), Vocabulary(100, 28), 40)
    assert count_parameters(fewer, Vocabulary(100, 28), 20) == count_parameters(Config(), Vocabulary(100, 28), 20)


def test_no_weight_is_allocated() -> None:
    model = Model(d_model=32768, heads=4, feed_forward=131072, encoder_layers=50)
    assert count_parameters(Config(model=model), VOCABULARY, 80) > 10**11
