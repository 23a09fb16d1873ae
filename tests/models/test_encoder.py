"""The frame-stacking transformer encoder, its kinds of positions and its attention kernels."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.attention import Context, SelfAttention, _flex, attend_to_valid
from trainables.models.encoder import Encoder
from trainables.models.layers import FeedForward, make_norm
from trainables.models.positions import (
    BUCKETS,
    FARTHEST,
    RelativeBias,
    RelativeSinusoids,
    Rotation,
    distance_bucket,
    position_table,
    sinusoids,
)
from trainables.models.subsampling import StackSubsampling

FACTOR = 4
STACKING: dict[str, Any] = {
    "reduction": "stack",
    "reduction_factor": FACTOR,
    "embedding_norm": True,
    "qkv_bias": False,
    "encoder_positions": "none",
    "ff_expansion": 2.5,
}
POSITIONS = tiny.choices("encoder_positions")


def encoder(**fields: Any) -> Encoder:
    """A frame-stacking encoder with every bias, norm and table drawn at random."""
    torch.manual_seed(0)
    result = Encoder(tiny.shape(**{**STACKING, **fields}), tiny.BINS).eval()
    for parameter in result.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3)
    if result.relative_bias is not None:
        nn.init.normal_(result.relative_bias.table.weight)
    for module in result.modules():
        if isinstance(module, RelativeSinusoids):
            nn.init.normal_(module.content_bias)
            nn.init.normal_(module.position_bias)
    return result


@pytest.mark.parametrize("padded", [0, 1, 5, 30])
def test_lengths_are_those_of_the_utterances_whatever_the_padding(padded: int) -> None:
    lengths = [1, 4, 5, 8, 9]
    _, found = encoder()(torch.randn(5, 9 + padded, tiny.BINS), torch.tensor(lengths))
    assert found.tolist() == [1, 1, 2, 2, 3]


def test_without_positions_the_encoder_is_permutation_equivariant() -> None:
    """Permuted stacks give permuted states."""
    model = encoder()
    features_BTF = torch.randn(1, 6 * FACTOR, tiny.BINS)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled_BTF = features_BTF.unflatten(1, (6, FACTOR))[:, order].flatten(1, 2)
    lengths_B = torch.tensor([6 * FACTOR])
    with torch.no_grad():
        torch.testing.assert_close(model(shuffled_BTF, lengths_B)[0], model(features_BTF, lengths_B)[0][:, order])


@pytest.mark.parametrize("positions", [kind for kind in POSITIONS if kind != "none"])
def test_positions_tell_the_order(positions: str) -> None:
    model = encoder(encoder_positions=positions)
    features_BTF = torch.randn(1, 6 * FACTOR, tiny.BINS)
    swapped_BTF = features_BTF.unflatten(1, (6, FACTOR))[:, [1, 0, 2, 3, 4, 5]].flatten(1, 2)
    lengths_B = torch.tensor([6 * FACTOR])
    with torch.no_grad():
        found, other = model(features_BTF, lengths_B)[0], model(swapped_BTF, lengths_B)[0]
    assert not torch.allclose(found[:, [1, 0, 2, 3, 4, 5]], other, atol=1e-3)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_with_silent_sublayers_only_stacking_and_norms_are_left(norm: str) -> None:
    model = encoder(norm=norm)
    for layer in model.layers:
        for output in (layer.attention.output, layer.feed_forward.outer):
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)
    features_BTF, lengths_B = torch.randn(2, 10, tiny.BINS), torch.tensor([10, 7])
    stacks, state_lengths_B = model.subsampling(features_BTF, lengths_B)
    found, found_lengths_B = model(features_BTF, lengths_B)
    assert torch.equal(found, model.norm(model.embedding_norm(stacks)))
    assert torch.equal(found_lengths_B, state_lengths_B)


def test_a_layer_is_two_pre_norm_residuals() -> None:
    layer = encoder().layers[0]
    x_BSD = torch.randn(2, 5, 32)
    lengths_B = torch.tensor([5, 3])
    attend = attend_to_valid("sdpa", lengths_B, 5)
    middle = x_BSD + layer.attention(layer.attention_norm(x_BSD), attend)
    assert torch.equal(
        layer(x_BSD, Context(lengths_B, attend)), middle + layer.feed_forward(layer.feed_forward_norm(middle))
    )


def test_parameters_are_those_of_the_graph() -> None:
    """Frame stacking and fused QKV have no bias, output and feed-forward have one; each layer has two norms."""
    model = encoder()
    names = {name for name, _ in model.layers[0].named_parameters()}
    assert names == {
        "attention.qkv.weight",
        *(f"{part}.{kind}" for kind in ("weight", "bias") for part in (
            "attention_norm", "attention.output", "feed_forward_norm", "feed_forward.inner", "feed_forward.outer"
        )),
    }  # fmt: skip
    assert isinstance(model.subsampling, StackSubsampling)
    assert model.subsampling.output.weight.shape == (32, FACTOR * tiny.BINS) and model.subsampling.output.bias is None
    assert model.layers[0].feed_forward.inner.out_features == int(2.5 * 32)
    assert isinstance(model.norm, nn.LayerNorm) and model.norm.eps == 1e-5


@pytest.mark.parametrize(("kind", "parameters"), [("none", 0), ("rms", 2), ("layer", 4)])
def test_qk_norm_has_parameters_of_a_head_only_when_on(kind: str, parameters: int) -> None:
    norms = [value for name, value in encoder(qk_norm=kind).layers[0].attention.named_parameters() if "norm" in name]
    assert [tuple(value.shape) for value in norms] == [(32 // 2,)] * parameters


def test_qk_norm_normalises_each_head() -> None:
    attention = encoder(qk_norm="rms").layers[0].attention
    for norm in (attention.query_norm, attention.key_norm):
        nn.init.ones_(norm.norm.weight)
    query, key, value = attention.project(torch.randn(2, 5, 32))
    for heads in (query, key):
        torch.testing.assert_close(heads.square().mean(-1), torch.ones(2, 2, 5), atol=1e-3, rtol=0)
    assert not torch.allclose(value.square().mean(-1), torch.ones(2, 2, 5), atol=1e-2)


def test_evaluation_is_deterministic_and_training_is_not() -> None:
    model = encoder(dropout=0.3)
    features_BTF, lengths_B = torch.randn(2, 20, tiny.BINS), torch.tensor([20, 9])
    assert torch.equal(model(features_BTF, lengths_B)[0], model(features_BTF, lengths_B)[0])
    model.train()
    assert not torch.equal(model(features_BTF, lengths_B)[0], model(features_BTF, lengths_B)[0])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("fields", [{}, {"norm": "rms", "qk_norm": "layer", "gated": True, "stack_norm": "rms"}])
def test_every_gradient_is_finite_and_present(positions: str, fields: dict[str, Any]) -> None:
    model = encoder(encoder_positions=positions, **fields).train()
    states_BSD, _ = model(torch.randn(3, 30, tiny.BINS), torch.tensor([30, 1, 17]))
    states_BSD.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_freezing_and_unfreezing_restores_the_flags() -> None:
    model = encoder()
    model.layers[1].requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(before[name])
    assert {name: parameter.requires_grad for name, parameter in frozen.named_parameters()} == before
    assert not all(before.values())


def test_rotated_scores_depend_on_the_distance_alone() -> None:
    rotation = Rotation(torch.arange(20), 8, 10_000.0)
    query, key = torch.randn(8).expand(1, 1, 20, 8), torch.randn(8).expand(1, 1, 20, 8)
    scores_SS = (rotation(query) @ rotation(key).transpose(-1, -2))[0, 0]
    for distance in range(-19, 20):
        diagonal = scores_SS.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rotation(query).norm(dim=-1), query.norm(dim=-1))  # a rotation keeps norms


def test_relative_bias_depends_on_the_distance_alone_and_tells_directions_apart() -> None:
    bias = RelativeBias(heads=2)
    nn.init.normal_(bias.table.weight)
    found = bias(12)[0]
    assert found.shape == (2, 12, 12)
    assert torch.equal(found[:, :-1, :-1], found[:, 1:, 1:])
    assert not torch.allclose(found[:, 0, 1], found[:, 1, 0])


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("layout", tiny.choices("sinusoids"))
def test_scores_of_transformer_xl_are_those_of_the_paper(length: int, layout: str) -> None:
    """Dai et al., 2019, section 3.3: all four terms, key by key."""
    attention = encoder(encoder_positions="transformer_xl", sinusoids=layout).layers[0].attention
    query, key, _ = attention.project(torch.randn(1, length, 32))
    changed, bias = attention.distances(query)
    found = changed @ key.transpose(-1, -2) * 16**-0.5 + bias
    positions, u, v = attention.distances, attention.distances.content_bias, attention.distances.position_bias
    for head in range(2):
        for i in range(length):
            for j in range(length):
                q, k = query[0, head, i], key[0, head, j]
                r = positions.projection(sinusoids(torch.tensor([i - j]), 32, layout))[0].view(2, 16)[head]
                expected = (q @ k + q @ r + u[head] @ k + v[head] @ r) / 4
                torch.testing.assert_close(found[0, head, i, j], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("block", ["transformer", "conformer"])
def test_a_causal_encoder_sees_no_later_state(positions: str, block: str) -> None:
    model = encoder(encoder_positions=positions, encoder_causal=True, encoder_block=block, conv_kernel=1)
    features_BTF, lengths_B = torch.randn(1, 6 * FACTOR, tiny.BINS), torch.tensor([6 * FACTOR])
    changed_BTF = features_BTF.clone()
    changed_BTF[:, 3 * FACTOR :] += 1
    with torch.no_grad():
        found, other = model(features_BTF, lengths_B)[0], model(changed_BTF, lengths_B)[0]
    torch.testing.assert_close(found[:, :3], other[:, :3])
    assert not torch.allclose(found[:, 3], other[:, 3], atol=1e-2)


def test_the_embedding_norm_comes_before_or_after_the_positions() -> None:
    features_BTF, lengths_B = torch.randn(1, 12, tiny.BINS), torch.tensor([12])
    before, after = (encoder(encoder_positions="sinusoidal", norm_positions=key) for key in (False, True))
    after.load_state_dict(before.state_dict())
    stacks_BSD, _ = before.subsampling(features_BTF, lengths_B)
    table_SD, norm = sinusoids(torch.arange(3), 32, "interleaved"), before.embedding_norm
    torch.testing.assert_close(before.embed(features_BTF, lengths_B)[0], norm(stacks_BSD) + table_SD)
    torch.testing.assert_close(after.embed(features_BTF, lengths_B)[0], norm(stacks_BSD + table_SD))


def dropped(model: Encoder) -> float:
    """Share of zeros in the input of the first layer, in training."""
    x_BSD, _ = model.train().embed(torch.randn(8, 40 * FACTOR, tiny.BINS), torch.full((8,), 40 * FACTOR))
    return (x_BSD == 0).double().mean().item()


@pytest.mark.parametrize(("own", "expected"), [(None, 0.5), (0.0, 0.0), (0.2, 0.2)])
def test_the_input_has_its_own_dropout(own: float | None, expected: float) -> None:
    model = encoder(dropout=0.5, input_dropout=own)
    assert dropped(model) == pytest.approx(expected, abs=0.02)
    assert model.layers[0].residual.dropout.p == 0.5


@pytest.mark.parametrize("positions", ["sinusoidal", "transformer_xl"])
def test_position_embeddings_have_their_own_dropout(positions: str) -> None:
    """It makes training random where nothing else does, and evaluation not."""
    features_BTF, lengths_B = torch.randn(2, 20, tiny.BINS), torch.tensor([20, 9])
    for probability in (0.0, 0.3):
        model = encoder(encoder_positions=positions, position_dropout=probability)
        assert torch.equal(model(features_BTF, lengths_B)[0], model(features_BTF, lengths_B)[0])
        one, other = (model.train()(features_BTF, lengths_B)[0] for _ in range(2))
        assert torch.equal(one, other) == (probability == 0)


def test_states_are_projected_to_their_own_width() -> None:
    model, plain = encoder(encoder_output=24), encoder()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name[:7] != "output."})
    features_BTF, lengths_B = torch.randn(2, 20, tiny.BINS), torch.tensor([20, 9])
    found, states_B = model(features_BTF, lengths_B)
    assert found.shape == (2, 5, 24) and states_B.tolist() == [5, 3]
    torch.testing.assert_close(found, model.output(plain(features_BTF, lengths_B)[0]))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"reduction": "pool", "stack_bias": True}, "stack_bias=True has no meaning with reduction=pool"),
        ({"reduction": "conv", "frame_norm": "rms"}, "frame_norm=rms has no meaning with reduction=conv"),
        ({"embedding_norm": False, "norm_positions": True}, "norm_positions has no meaning without embedding_norm"),
        ({"encoder_positions": "transformer_xl", "attention": "flex"}, "encoder_positions=transformer_xl: use sdpa"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        tiny.shape(**{**STACKING, **fields})


def test_distance_buckets_grow_with_the_distance() -> None:
    buckets = distance_bucket(torch.arange(-2 * FARTHEST, 2 * FARTHEST + 1))
    left, right = buckets[: 2 * FARTHEST + 1].flip(0), buckets[2 * FARTHEST :]
    assert (left.diff() >= 0).all() and (right[1:].diff() >= 0).all()
    assert left[:8].tolist() == list(range(8))
    assert buckets.min() == 0 and buckets.max() == BUCKETS - 1
    assert left[0] == 0 and set(left.tolist()).isdisjoint(right[1:].tolist())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
def test_flex_attention_equals_sdpa(bias: bool, is_causal: bool) -> None:
    """The forward pass of the uncompiled kernel; test_gpu.py compares the compiled one."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 3, 2, 10, 16)
    lengths_B = torch.tensor([10, 3, 1])
    table = torch.randn(1, 2, 10, 10) if bias else None
    with torch.no_grad():
        expected = attend_to_valid("sdpa", lengths_B, 10, None, table, is_causal)(query, key, value)
        found = _flex(lengths_B, 10, table, is_causal, torch.float32)(query, key, value)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_flex_means_sdpa_where_there_is_no_gpu() -> None:
    """FlexAttention has no backward pass on a CPU."""
    model, other = encoder(d_model=32, heads=2, attention="flex"), encoder(d_model=32, heads=2)
    features_BTF, lengths_B = torch.randn(2, 20, tiny.BINS), torch.tensor([20, 9])
    found = model.train()(features_BTF, lengths_B)[0]
    assert torch.equal(found, other.train()(features_BTF, lengths_B)[0])
    found.sum().backward()


def test_unknown_kinds_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="attention 'flash': the kernels are sdpa, flex"):
        attend_to_valid("flash", torch.tensor([1]), 1)
    with pytest.raises(ValueError, match="norm 'batch': the norms are layer, rms, none"):
        make_norm("batch", 4)


@pytest.mark.parametrize("activation", tiny.choices("activation"))
@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward(activation: str, gated: bool) -> None:
    shape = tiny.shape(activation=activation, gated=gated, feed_forward=24)
    module = FeedForward(shape)
    x_BSD: Tensor = torch.randn(2, 3, 32)
    first, second = (*F.linear(x_BSD, module.inner.weight, module.inner.bias).split(24, -1), torch.ones(()))[:2]
    torch.testing.assert_close(module(x_BSD), module.outer(getattr(F, activation)(first) * second))
    assert module.inner.out_features == (48 if gated else 24)


@pytest.mark.parametrize("length", [1, 7])
def test_positions_may_begin_later(length: int) -> None:
    tables = [
        position_table("sinusoidal", length + 2 - first, tiny.shape(first_position=first), torch.device("cpu"))
        for first in (0, 2)
    ]
    assert torch.equal(tables[1], tables[0][2:])


@pytest.mark.parametrize("width", [2, 8, 10])
def test_interleaved_sinusoids_have_the_published_rates(width: int) -> None:
    """Vaswani et al., 2017, section 3.5, which the HW4P2 course and the frame-stacking encoder follow."""
    found = sinusoids(torch.arange(50), width, "interleaved")
    for position in range(50):
        for i in range(width // 2):
            angle = position / 10_000 ** (2 * i / width)
            expected = torch.tensor([math.sin(angle), math.cos(angle)])
            torch.testing.assert_close(found[position, 2 * i : 2 * i + 2], expected, atol=1e-5, rtol=0)


def test_concatenated_sinusoids_are_those_of_speech2text() -> None:
    embeddings = pytest.importorskip("transformers.models.speech_to_text.modeling_speech_to_text")
    expected = embeddings.Speech2TextSinusoidalPositionalEmbedding.get_embedding(20, 8, padding_idx=None)
    torch.testing.assert_close(sinusoids(torch.arange(20), 8, "concatenated"), expected)


@pytest.mark.parametrize("layout", tiny.choices("sinusoids"))
def test_the_layout_of_sinusoids_reaches_encoder_and_decoder(layout: str) -> None:
    model = tiny.model(sinusoids=layout)
    expected = sinusoids(torch.arange(6), 32, layout)
    assert torch.equal(model.decoder.positions(6), expected)
    features_BTF, lengths_B = torch.randn(1, 12, tiny.BINS), torch.tensor([12])
    states_BSD, _ = model.encoder.subsampling(features_BTF, lengths_B)
    assert torch.equal(model.encoder.embed(features_BTF, lengths_B)[0], states_BSD + expected)


def test_projections_without_bias_have_none() -> None:
    assert SelfAttention(tiny.shape(qkv_bias=False)).qkv.bias is None
