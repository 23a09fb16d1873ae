"""Multi-head attention, and the feed-forward sublayer beside it.

Shapes: B batch, S or Q queries, K keys, D model width, H heads, E = D / H head width.
Every attention ends in `scaled_dot_product_attention`, so that one fused kernel serves all of them.
Attention weights have no dropout: it would cost that kernel, and the residual dropout regularises alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x_BSD: Tensor, heads: int) -> Tensor:
    """(B, S, D) -> (B, H, S, E)."""
    return x_BSD.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x_BHSE: Tensor) -> Tensor:
    """(B, H, S, E) -> (B, S, D)."""
    return x_BHSE.transpose(1, 2).flatten(-2)


@dataclass
class KeyValueCache:
    """Keys and values of the tokens decoded so far, in room made once: (B, H, U, E) each."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, like_BHSE: Tensor, length: int) -> KeyValueCache:
        """Room for `length` tokens, with the batch, heads, width, type and device of `like_BHSE`."""
        batch, heads, _, width = like_BHSE.shape
        room = like_BHSE.new_zeros(2, batch, heads, length, width)
        return cls(room[0], room[1])

    def append(self, key_BH1E: Tensor, value_BH1E: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Stores one token's key and value; returns all up to it, (B, H, position + 1, E)."""
        self.keys[:, :, position : position + 1] = key_BH1E
        self.values[:, :, position : position + 1] = value_BH1E
        return self.keys[:, :, : position + 1], self.values[:, :, : position + 1]


class FusedLinear(nn.Linear):
    """Several projections of one input, stacked into a single matrix product."""

    def __init__(self, d_model: int, parts: int) -> None:
        super().__init__(d_model, parts * d_model)
        self.parts = parts


class SelfAttention(nn.Module):
    """Self-attention with one fused projection for queries, keys and values."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = FusedLinear(d_model, 3)
        self.output = nn.Linear(d_model, d_model)

    def forward(self, x_BSD: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """`mask` is True where a key may be seen, broadcastable to (B, H, S, S)."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x_BSD).chunk(3, dim=-1))
        return self.output(join_heads(F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)))

    def step(
        self, x_B1D: Tensor, cache: KeyValueCache | None, position: int, length: int
    ) -> tuple[Tensor, KeyValueCache]:
        """One decoding step: the token at `position` attends to itself and all before it.

        `cache` is None at the first step; `length` is the number of steps there can be.
        """
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x_B1D).chunk(3, dim=-1))
        cache = cache or KeyValueCache.empty(key, length)
        keys, values = cache.append(key, value, position)
        return self.output(join_heads(F.scaled_dot_product_attention(query, keys, values))), cache


class CrossAttention(nn.Module):
    """Attention from the decoder's tokens to the encoder's states."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d_model, d_model)
        self.key_value = FusedLinear(d_model, 2)
        self.output = nn.Linear(d_model, d_model)

    def project(self, states_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's states, (B, H, K, E) each: the same for every decoding step."""
        key, value = self.key_value(states_BKD).chunk(2, dim=-1)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(self, x_BQD: Tensor, key_value: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """`mask` is True where a state may be seen, broadcastable to (B, H, Q, K)."""
        query = split_heads(self.query(x_BQD), self.heads)
        return self.output(join_heads(F.scaled_dot_product_attention(query, *key_value, mask)))


class FeedForward(nn.Sequential):
    """Linear, GELU, dropout, linear."""

    def __init__(self, d_model: int, width: int, dropout: float) -> None:
        super().__init__(nn.Linear(d_model, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, d_model))


class Residual(nn.Module):
    """How a pre-norm layer adds what its sublayers found: dropout, and for some utterances nothing.

    Layer drop (Fan et al., 2020, arXiv 1909.11556) is drawn per utterance and computed as a factor of 0 or 1.
    Every parameter then takes part in every step, which distributed training and compiled graphs both need.
    """

    def __init__(self, dropout: float, layer_drop: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer_drop = layer_drop

    def draw(self, x_BSD: Tensor) -> Tensor | None:
        """One 0 or 1 for each utterance, (B, 1, 1), for all sublayers of one layer; None: keep all."""
        if not self.training or self.layer_drop == 0:
            return None
        return (torch.rand(len(x_BSD), 1, 1, device=x_BSD.device) >= self.layer_drop).to(x_BSD.dtype)

    def forward(self, x_BSD: Tensor, found_BSD: Tensor, keep_B11: Tensor | None) -> Tensor:
        found_BSD = self.dropout(found_BSD)
        return x_BSD + (found_BSD if keep_B11 is None else found_BSD * keep_B11)


def sinusoids(length: int, d_model: int, device: torch.device, start: int = 0) -> Tensor:
    """Positions `start` to `start + length - 1`, (length, D): sines in the first half, cosines in the second.

    The wavelengths grow geometrically from 2 pi to 10000 x 2 pi (Vaswani et al., 2017, arXiv 1706.03762, section 3.5;
    both ends are met, as in their tensor2tensor and in Whisper).
    """
    half = d_model // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(start, start + length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
