"""The assembled model: padding, incremental decoding, gradients, initial values and size."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainables.config.model import STRIDES
from trainables.config.tree import Model
from trainables.data.text.tokenizer import SOS
from trainables.models.attention import SelfAttention
from trainables.models.speech_transformer import SpeechTransformer

FACTORS = sorted(STRIDES)
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "tied": {"tied_embeddings": True},
    "no_positions": {"encoder_positions": "none", "decoder_positions": "none"},
    "frame_stacking": {
        "reduction": "stack", "stack_norm": "layer", "embedding_norm": True, "qkv_bias": False,
        "encoder_positions": "rotary", "norm": "rms", "qk_norm": "rms",
    },
    "relative": {"reduction": "conv2d", "conv_channels": 8, "encoder_positions": "relative", "qk_norm": "layer"},
    "gated": {"reduction": "lstm", "gated": True, "activation": "silu", "ff_expansion": 1.5},
    "speech2text": {"activation": "relu", "first_position": 2, "scale_states": True, "tied_embeddings": True},
    "plain": {"reduction": "pool", "scale_embeddings": False, "attention": "flex"},
    "both": {"reduction": "both"},
    "stack_rms": {"reduction": "stack", "stack_norm": "rms", "frame_norm": "rms"},
    "transformer_xl": {
        "reduction": "stack", "stack_bias": True, "frame_norm": "layer", "encoder_positions": "transformer_xl",
        "position_dropout": 0.2, "input_dropout": 0.3, "encoder_output": 24, "output_bias": True,
    },
    "causal": {
        "encoder_positions": "transformer_xl", "encoder_causal": True, "context_size": 4,
        "encoder_block": "conformer", "conv_norm": "layer", "conv_kernel": 1,
    },
    "normed_positions": {"embedding_norm": True, "norm_positions": True, "encoder_causal": True},
}  # fmt: skip
for key, field in Model.model_fields.items():
    for value in tiny.choices(key) if key != "kind" else ():
        if not any(fields.get(key, field.default) == value for fields in VARIANTS.values()):
            VARIANTS[f"{key}={value}"] = {key: value}  # a choice that no variant above makes
ODD_WIDTH = {"d_model": 15, "heads": 3, "encoder_positions": "relative", "decoder_positions": "none"}
OUTPUT_BIAS = "decoder.output.bias"
variants = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)

models = cache(lambda factor, variant: tiny.model(reduction_factor=factor, **VARIANTS[variant]))


decoders = cache(lambda positions, fields: tiny.model(decoder_positions=positions, **dict(fields)))


def tokens(lengths: list[int]) -> Tensor:
    """Random tokens (B, U) that begin with SOS; the padding is random as well."""
    tokens_BU = torch.randint(0, tiny.VOCABULARY, (len(lengths), max(lengths)))
    tokens_BU[:, 0] = SOS
    return tokens_BU


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=4),
    st.sampled_from(FACTORS),
    st.sampled_from(sorted(VARIANTS)),
    st.integers(0, 25),
    st.sampled_from([1.0, 100.0]),
)
def test_padding_never_changes_an_output(
    sizes: list[tuple[int, int]], factor: int, variant: str, extra: int, loudness: float
) -> None:
    """An utterance on its own gives the outputs that it has in a batch with any padding."""
    model = models(factor, variant)
    frames, counts = [size[0] for size in sizes], [size[1] for size in sizes]
    features_BTF = torch.randn(len(sizes), max(frames) + extra, tiny.BINS) * loudness
    for row, length in zip(features_BTF, frames, strict=True):
        row[:length] /= loudness
    tokens_BU = tokens(counts)
    with torch.no_grad():
        logits_BUV, ctc_BSV, states_B, _ = model(features_BTF, torch.tensor(frames), tokens_BU)
        for place, (length, count) in enumerate(sizes):
            alone = model(features_BTF[place : place + 1, :length], torch.tensor([length]), tokens_BU[[place], :count])
            assert alone[2].item() == states_B[place] == alone[1].shape[1] == -(-length // factor)
            torch.testing.assert_close(logits_BUV[place, :count], alone[0][0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ctc_BSV[place, : alone[2].item()], alone[1][0], atol=1e-4, rtol=1e-4)


def test_no_token_sees_a_later_one() -> None:
    model, tokens_BU = tiny.model(), tokens([9])
    features_BTF, lengths_B = torch.randn(1, 30, tiny.BINS), torch.tensor([30])
    changed_BU = tokens_BU.clone()
    changed_BU[0, 5] = (tokens_BU[0, 5] + 1) % tiny.VOCABULARY
    with torch.no_grad():
        one, other = model(features_BTF, lengths_B, tokens_BU)[0], model(features_BTF, lengths_B, changed_BU)[0]
    assert torch.equal(one[:, :5], other[:, :5])
    assert (one[:, 5:] != other[:, 5:]).any(-1).all()


@pytest.mark.parametrize("fields", [*VARIANTS.values(), ODD_WIDTH], ids=[*VARIANTS, "odd_width"])
def test_decoding_step_by_step_equals_teacher_forcing(fields: dict[str, Any]) -> None:
    model, tokens_BU = tiny.model(**fields), tokens([10, 10, 10])
    with torch.no_grad():
        states_BSD, lengths_B = model.encoder(torch.randn(3, 50, tiny.BINS), torch.tensor([50, 7, 31]))
        expected = model.decoder(tokens_BU, states_BSD, lengths_B)
        state = model.decoder.start(states_BSD, lengths_B, length=10)
        found = torch.stack([model.decoder.step(tokens_B, state) for tokens_B in tokens_BU.T], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=25)
@given(
    st.sampled_from(tiny.choices("decoder_positions")),
    st.sampled_from(
        [{}, {"kv_heads": 1, "attention_multiplier": 0.3}, {"embedding_multiplier": 3.0, "qk_norm": "rms"}]
    ),
    st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=7),
)
def test_a_hypothesis_of_a_search_has_the_logits_of_its_history(
    positions: str, fields: dict[str, Any], parents: list[list[int]]
) -> None:
    """Whichever hypothesis of the step before each one continues."""
    model = decoders(positions, tuple(fields.items()))
    states_BSD, lengths_B = torch.randn(2, 5, 32), torch.tensor([5, 3])
    histories = [[[SOS] for _ in range(3)] for _ in range(2)]
    with torch.no_grad():
        cache = model.decoder.start(states_BSD, lengths_B, length=len(parents) + 1)
        logits_BKV = model.decoder.step(torch.full((2, 3), SOS), cache, torch.zeros(2, 3).long())
        for row in parents:
            tokens_BK = torch.randint(0, tiny.VOCABULARY, (2, 3))
            histories = [
                [[*rows[parent], tokens_BK[number, place].item()] for place, parent in enumerate(row)]
                for number, rows in enumerate(histories)
            ]
            logits_BKV = model.decoder.step(tokens_BK, cache, torch.tensor([row, row]))
        tokens = torch.tensor(histories).flatten(0, 1)
        repeated = states_BSD.repeat_interleave(3, 0), lengths_B.repeat_interleave(3)
        expected = model.decoder(tokens, *repeated)[:, -1].unflatten(0, (2, 3))
    torch.testing.assert_close(logits_BKV, expected, atol=1e-4, rtol=1e-4)


def test_multipliers_of_embeddings_and_logits() -> None:
    """Without positions: the embedding's multiplier equals a larger embedding, and logits are divided last."""
    tokens_BU = tokens([9, 9])
    states = torch.randn(2, 5, 32), torch.tensor([5, 3])
    scaled = tiny.model(embedding_multiplier=5.0, logits_scaling=8.0, decoder_positions="none")
    plain = tiny.model(decoder_positions="none")
    plain.load_state_dict(scaled.state_dict())
    plain.decoder.embedding.weight.data *= 5
    torch.testing.assert_close(8 * scaled.decoder(tokens_BU, *states), plain.decoder(tokens_BU, *states))


def test_a_layout_for_steps_changes_no_value() -> None:
    model, tokens_BU = tiny.model(tied_embeddings=True), tokens([10, 10, 10])
    features_BTF, lengths_B = torch.randn(3, 50, tiny.BINS), torch.tensor([50, 7, 31])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(features_BTF, lengths_B, tokens_BU)[0]
        model.decoder.lay_out_for_steps()
        torch.testing.assert_close(model(features_BTF, lengths_B, tokens_BU)[0], expected, atol=1e-5, rtol=1e-5)
    assert not model.decoder.output.weight.is_contiguous()
    assert model.decoder.output.weight is model.decoder.embedding.weight
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@variants
def test_only_positions_tell_the_order_of_tokens(fields: dict[str, Any]) -> None:
    """Without positions, one layer sees earlier tokens as a bag."""
    model = tiny.model(**fields, decoder_layers=1)
    states_BSD, lengths_B = torch.randn(1, 5, tiny.shape(**fields).states_width), torch.tensor([5])
    tokens_BU = torch.tensor([[SOS, 7, 8, 9]])
    swapped_BU = tokens_BU[:, [0, 2, 1, 3]]
    with torch.no_grad():
        last = model.decoder(tokens_BU, states_BSD, lengths_B)[0, -1]
        other = model.decoder(swapped_BU, states_BSD, lengths_B)[0, -1]
    assert torch.allclose(last, other, atol=1e-5) == (fields.get("decoder_positions") == "none")


def test_tied_embeddings_are_one_parameter() -> None:
    tied, separate = tiny.model(tied_embeddings=True), tiny.model()
    assert tied.decoder.output.weight is tied.decoder.embedding.weight
    assert separate.decoder.output.weight is not separate.decoder.embedding.weight
    saved = tiny.VOCABULARY * tiny.shape().d_model
    assert count(separate) - count(tied) == saved


@variants
def test_every_parameter_has_a_finite_gradient(fields: dict[str, Any]) -> None:
    model = tiny.model(**fields, dropout=0.1, layer_drop=0.1).train()
    logits_BUV, ctc_BSV, *_ = model(torch.randn(4, 40, tiny.BINS), torch.tensor([40, 3, 20, 11]), tokens([8, 2, 5, 8]))
    (logits_BUV.square().mean() + ctc_BSV.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@variants
def test_initial_values(fields: dict[str, Any]) -> None:
    """Embeddings have variance 1/D, tied or not; each part of a fused matrix has its own Glorot bound."""
    torch.manual_seed(0)
    width = 64
    model = SpeechTransformer(tiny.shape(d_model=width, **fields), 500, tiny.BINS)
    assert model.decoder.embedding.weight.std().item() == pytest.approx(width**-0.5, rel=0.05)
    attention = next(module for module in model.modules() if isinstance(module, SelfAttention))
    for matrix in (*attention.qkv.weight.chunk(3), attention.output.weight):
        bound = (6 / (2 * width)) ** 0.5
        assert 0.95 * bound < matrix.abs().max() <= bound
    assert attention.qkv.bias is None or not attention.qkv.bias.any()


def count(model: SpeechTransformer) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def by_hand(config: Model, vocabulary: int, num_feats: int) -> int:
    """Number of parameters, computed from the shapes."""
    width, inner, channels, kernel = config.d_model, config.feed_forward, config.conv_channels, 5
    convolutions = 2 * channels * (num_feats * kernel + 1) + 2 * width * (channels * kernel + 1)
    attention = 4 * width * (width + 1)
    feed_forward = inner * (width + 1) + width * (inner + 1)
    norm = 2 * width
    encoder = config.encoder_layers * (attention + feed_forward + 2 * norm) + norm
    decoder = config.decoder_layers * (2 * attention + feed_forward + 3 * norm) + norm
    embeddings = vocabulary * width * (1 if config.tied_embeddings else 2)
    return convolutions + encoder + decoder + embeddings + vocabulary * (width + 1)


@pytest.mark.parametrize(
    ("config", "vocabulary", "expected"),
    [
        (Model(), 5000, 8_393_608),  # the course's starter
        (
            Model(encoder_layers=12, decoder_layers=6, feed_forward=2048, reduction_factor=4),
            1000,
            26_884_584,
        ),  # the known-good start of public recipes
        (Model(encoder_layers=12, decoder_layers=6, feed_forward=2048, tied_embeddings=True), 1000, 26_628_584),
    ],
    ids=["starter", "large", "large_tied"],
)
def test_size_equals_a_count_by_hand(config: Model, vocabulary: int, expected: int) -> None:
    with torch.device("meta"):
        model = SpeechTransformer(config, vocabulary, 80)
    assert count(model) == by_hand(config, vocabulary, 80)
    assert count(model) == expected


def test_the_output_projection_may_have_a_bias() -> None:
    """Of the recogniser's decoder and of a language model, also with shared embeddings."""
    for fields in ({}, {"tied_embeddings": True}):
        model, plain = tiny.model(output_bias=True, **fields), tiny.model(**fields)
        plain.load_state_dict({name: value for name, value in model.state_dict().items() if name != OUTPUT_BIAS})
        features_BTF, lengths_B, tokens_BU = torch.randn(1, 20, tiny.BINS), torch.tensor([20]), tokens([5])
        found, without = (one(features_BTF, lengths_B, tokens_BU)[0] for one in (model, plain))
        assert model.decoder.output.bias.any()
        torch.testing.assert_close(found, without + model.decoder.output.bias)
