"""Attention and layers equal torch's with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import pytest
import tiny
import torch
from torch import Tensor, nn

from trainables.masking import length_mask
from trainables.models.attention import (
    Context,
    CrossAttention,
    KeyValueCache,
    SelfAttention,
    attend_to_valid,
    causal,
    join_heads,
    split_heads,
)
from trainables.models.decoder import DecoderLayer
from trainables.models.encoder import EncoderLayer
from trainables.models.layers import Residual
from trainables.models.positions import make_distances

BATCH, QUERIES, KEYS, WIDTH, HEADS = 3, 7, 11, 32, 4
LENGTHS = torch.tensor([7, 4, 1])
FULL = torch.full((BATCH,), QUERIES)
SHAPE = tiny.shape(d_model=WIDTH, heads=HEADS)
KEY_LENGTHS = torch.tensor([11, 1, 6])

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@pytest.fixture(autouse=True)
def _seeded_doubles() -> Iterator[None]:
    """Uses float64, in which a difference is a mistake and not rounding."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def randomized(module: AnyModule) -> AnyModule:
    """Draws biases and norms at random: at their initial values a mistake would not show."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3)
    return module.eval()


def copy_self_attention(theirs: nn.MultiheadAttention, ours: SelfAttention) -> None:
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )


def copy_cross_attention(theirs: nn.MultiheadAttention, ours: CrossAttention) -> None:
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([ours.query.weight, ours.key_value.weight]),
            "in_proj_bias": torch.cat([ours.query.bias, ours.key_value.bias]),
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )


def copy(theirs: nn.Module, ours: nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())


def multihead() -> nn.MultiheadAttention:
    return nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()


def causal_mask(size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu(1)


def test_splitting_heads_is_undone_by_joining() -> None:
    x_BSD = torch.randn(2, 5, 12)
    assert split_heads(x_BSD, 3).shape == (2, 3, 5, 4)
    assert torch.equal(join_heads(split_heads(x_BSD, 3)), x_BSD)


@pytest.mark.parametrize("kind", ["full", "masked", "causal"])
def test_self_attention_equals_torch(kind: str) -> None:
    ours, theirs = randomized(SelfAttention(SHAPE)), multihead()
    copy_self_attention(theirs, ours)
    x_BSD = torch.randn(BATCH, QUERIES, WIDTH)
    valid_BS = length_mask(LENGTHS, QUERIES)
    if kind == "full":
        found, expected = ours(x_BSD, attend_to_valid("sdpa", FULL, QUERIES)), theirs(x_BSD, x_BSD, x_BSD)[0]
    elif kind == "masked":
        found = ours(x_BSD, attend_to_valid("sdpa", LENGTHS, QUERIES))
        expected = theirs(x_BSD, x_BSD, x_BSD, key_padding_mask=~valid_BS)[0]
    else:
        found = ours(x_BSD, causal)
        expected = theirs(x_BSD, x_BSD, x_BSD, attn_mask=causal_mask(QUERIES))[0]
    assert_equal(found, expected)


def test_cross_attention_equals_torch() -> None:
    ours, theirs = randomized(CrossAttention(SHAPE)), multihead()
    copy_cross_attention(theirs, ours)
    x_BQD, states_BKD = torch.randn(BATCH, QUERIES, WIDTH), torch.randn(BATCH, KEYS, WIDTH)
    valid_BK = length_mask(KEY_LENGTHS, KEYS)
    found = ours(x_BQD, ours.project(states_BKD), valid_BK[:, None, None])
    expected = theirs(x_BQD, states_BKD, states_BKD, key_padding_mask=~valid_BK)[0]
    assert_equal(found, expected)


def test_steps_with_a_cache_equal_causal_attention() -> None:
    attention = randomized(SelfAttention(SHAPE))
    x_BUD = torch.randn(BATCH, QUERIES, WIDTH)
    cache = KeyValueCache(QUERIES)
    found = [attention(x_B1D, cache.attend(None)) for x_B1D in x_BUD.split(1, dim=1)]
    assert_equal(torch.cat(found, 1), attention(x_BUD, causal))


def test_an_encoder_layer_equals_torch() -> None:
    ours = randomized(EncoderLayer(SHAPE))
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, SHAPE.feed_forward, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    copy_self_attention(theirs.self_attn, ours.attention)
    copy(theirs.norm1, ours.attention_norm)
    copy(theirs.norm2, ours.feed_forward_norm)
    copy(theirs.linear1, ours.feed_forward.inner)
    copy(theirs.linear2, ours.feed_forward.outer)
    x_BSD = torch.randn(BATCH, QUERIES, WIDTH)
    valid_BS = length_mask(LENGTHS, QUERIES)
    found, expected = (
        ours(x_BSD, Context(LENGTHS, attend_to_valid("sdpa", LENGTHS, QUERIES))),
        theirs(x_BSD, src_key_padding_mask=~valid_BS),
    )
    assert_equal(found, expected)


def test_a_decoder_layer_equals_torch() -> None:
    ours = randomized(DecoderLayer(SHAPE, cross_attention=True))
    theirs = nn.TransformerDecoderLayer(
        WIDTH, HEADS, SHAPE.feed_forward, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    copy_self_attention(theirs.self_attn, ours.self_attention)
    copy_cross_attention(theirs.multihead_attn, ours.cross_attention)
    copy(theirs.norm1, ours.self_attention_norm)
    copy(theirs.norm2, ours.cross_attention_norm)
    copy(theirs.norm3, ours.feed_forward_norm)
    copy(theirs.linear1, ours.feed_forward.inner)
    copy(theirs.linear2, ours.feed_forward.outer)
    x_BUD, states_BSD = torch.randn(BATCH, QUERIES, WIDTH), torch.randn(BATCH, KEYS, WIDTH)
    valid_BS = length_mask(KEY_LENGTHS, KEYS)
    found = ours(x_BUD, causal, ours.cross_attention.project(states_BSD), valid_BS[:, None, None])
    expected = theirs(x_BUD, states_BSD, tgt_mask=causal_mask(QUERIES), memory_key_padding_mask=~valid_BS)
    assert_equal(found, expected)


@pytest.mark.parametrize("training", [True, False])
def test_layer_drop_0_keeps_every_layer(training: bool) -> None:
    x_BSD, found_BSD = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    residual = Residual(tiny.shape()).train(training)
    assert torch.equal(residual(x_BSD, found_BSD, residual.draw(x_BSD)), x_BSD + found_BSD)


def test_layer_drop_1_skips_every_layer_in_training_alone() -> None:
    x_BSD, found_BSD = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    residual = Residual(tiny.shape().model_copy(update={"layer_drop": 1.0}))
    assert torch.equal(residual.train()(x_BSD, found_BSD, residual.draw(x_BSD)), x_BSD)
    assert torch.equal(residual.eval()(x_BSD, found_BSD, residual.draw(x_BSD)), x_BSD + found_BSD)


def test_layer_drop_skips_whole_layers_of_some_utterances() -> None:
    config = tiny.shape(layer_drop=0.5)
    layer = randomized(DecoderLayer(config, cross_attention=True))
    x_BUD, states_BSD = torch.randn(64, 5, config.d_model), torch.randn(64, 6, config.d_model)
    key_value = layer.cross_attention.project(states_BSD)
    whole = layer(x_BUD, causal, key_value, None)
    found = layer.train()(x_BUD, causal, key_value, None)
    skipped = [torch.equal(row, same) for row, same in zip(found, x_BUD, strict=True)]
    assert 16 < sum(skipped) < 48
    kept = ~torch.tensor(skipped)
    assert_equal(found[kept], whole[kept])


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_queries_equal_repeated_heads(kv_heads: int) -> None:
    """Each head of keys and values serves as many neighbouring heads of queries (Ainslie et al., 2023)."""
    grouped = randomized(SelfAttention(tiny.shape(d_model=WIDTH, heads=HEADS, kv_heads=kv_heads)))
    full = SelfAttention(SHAPE).eval()
    state = grouped.state_dict()
    for name in ("qkv.weight", "qkv.bias"):
        query, key, value = state[name].split(grouped.qkv.widths)
        repeated = [
            part.unflatten(0, (kv_heads, -1)).repeat_interleave(HEADS // kv_heads, 0).flatten(0, 1)
            for part in (key, value)
        ]
        state[name] = torch.cat([query, *repeated])
    full.load_state_dict(state)
    x_BSD = torch.randn(BATCH, QUERIES, WIDTH)
    attend = attend_to_valid("sdpa", LENGTHS, QUERIES)
    assert_equal(grouped(x_BSD, attend), full(x_BSD, attend))
    assert grouped.qkv.weight.shape == (WIDTH + 2 * kv_heads * WIDTH // HEADS, WIDTH)


@pytest.mark.parametrize("multiplier", [0.015625, 1.0])
def test_the_attention_multiplier_replaces_the_root_of_the_head_size(multiplier: float) -> None:
    """Scores are multiplier x q . k; those of relative keys are multiplied too."""
    fields = {"encoder_positions": "relative_keys", "max_distance": 3, "head_size": 6}
    shape = tiny.shape(d_model=WIDTH, heads=HEADS, attention_multiplier=multiplier, **fields)
    attention = randomized(SelfAttention(shape, make_distances(shape)))
    x_BSD = torch.randn(1, QUERIES, WIDTH)
    query, key, value = (
        part.unflatten(-1, (HEADS, 6)).transpose(1, 2) for part in attention.qkv(x_BSD).split(attention.qkv.widths, -1)
    )
    place_S = torch.arange(QUERIES)
    distance_SS = (place_S[:, None] - place_S).clamp(-3, 3) + 3
    keys_SSE = attention.distances.table.weight[distance_SS]
    scores = multiplier * (query @ key.transpose(-1, -2) + torch.einsum("bhqe,qke->bhqk", query, keys_SSE))
    expected = attention.output(join_heads(scores.softmax(-1) @ value))
    assert_equal(attention(x_BSD, attend_to_valid("sdpa", FULL[:1], QUERIES)), expected)


def test_the_residual_multiplier_scales_every_sublayer() -> None:
    layer = randomized(DecoderLayer(tiny.shape(residual_multiplier=0.22), cross_attention=False))
    x_BUD = torch.randn(BATCH, QUERIES, WIDTH)
    middle = x_BUD + 0.22 * layer.self_attention(layer.self_attention_norm(x_BUD), causal)
    expected = middle + 0.22 * layer.feed_forward(layer.feed_forward_norm(middle))
    assert_equal(layer(x_BUD, causal, None, None), expected)
