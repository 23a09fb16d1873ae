"""Multi-head attention, and the norms and the feed-forward sublayer beside it.

Shapes: B batch, S or Q queries, K keys, D model width, H heads, E = D / H head width.
Attention weights have no dropout: it would cost the fused kernel, and the residual dropout regularises alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from trainables.config import Model
from trainables.masking import length_mask
from trainables.models.positions import Rotation

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries (B, H, Q, E), keys and values (B, H, K, E) -> (B, H, Q, E): a kernel with all it needs to know of a pass."""

causal: Attend = partial(F.scaled_dot_product_attention, is_causal=True)

NORM_EPSILON = 1e-5


def make_norm(kind: str, width: int) -> nn.Module:
    """LayerNorm (Ba et al., 2016, arXiv 1607.06450) or RMSNorm (Zhang and Sennrich, 2019, arXiv 1910.07467)."""
    kinds = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "none": None}
    if kind not in kinds:
        raise ValueError(f"norm {kind!r}: the norms are {', '.join(kinds)}")
    maker = kinds[kind]
    return nn.Identity() if maker is None else maker(width, eps=NORM_EPSILON)


def attend_to_valid(
    kernel: str, lengths_B: Tensor, width: int, rotation: Rotation | None = None, bias_1HSS: Tensor | None = None
) -> Attend:
    """Self-attention of a padded batch: every query sees the first `length` keys of its utterance.

    Args:
        kernel: `sdpa`, or `flex`, which is FlexAttention on a GPU and SDPA elsewhere: it has no backward pass there.
        width: S, the padded length.
        rotation: turns queries and keys.
        bias_1HSS: is added to the scores.

    Raises:
        ValueError: there is no such kernel.
    """
    kernels = {"sdpa": _sdpa, "flex": _flex if lengths_B.is_cuda else _sdpa}
    if kernel not in kernels:
        raise ValueError(f"attention {kernel!r}: the kernels are {', '.join(kernels)}")
    attend = kernels[kernel](lengths_B, width, bias_1HSS)
    if rotation is None:
        return attend
    return lambda query, key, value: attend(rotation(query), rotation(key), value)


def _sdpa(lengths_B: Tensor, width: int, bias_1HSS: Tensor | None) -> Attend:
    mask = length_mask(lengths_B, width)[:, None, None]
    if bias_1HSS is not None:
        mask = torch.where(mask, bias_1HSS, -torch.inf)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        fitting = mask if mask.dtype == torch.bool else mask.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, fitting)

    return attend


def _flex(lengths_B: Tensor, width: int, bias_1HSS: Tensor | None) -> Attend:
    """FlexAttention (Dong et al., 2024, arXiv 2412.05496): skips blocks of padding."""
    blocks = create_block_mask(
        lambda b, h, q, k: k < lengths_B[b], len(lengths_B), None, width, width, device=str(lengths_B.device)
    )
    kernel = _compiled_flex() if lengths_B.is_cuda else flex_attention
    if bias_1HSS is None:
        return lambda query, key, value: kernel(query, key, value, block_mask=blocks)
    bias_HSS = bias_1HSS[0]

    def add_bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + bias_HSS[h, q, k]

    return lambda query, key, value: kernel(query, key, value, score_mod=add_bias, block_mask=blocks)


@cache
def _compiled_flex() -> Any:
    # Dynamic: a kernel for each padded length would soon exceed what dynamo compiles before it gives up.
    return torch.compile(flex_attention, dynamic=True)


def split_heads(x_BSD: Tensor, heads: int) -> Tensor:
    """(B, S, D) -> (B, H, S, E)."""
    return x_BSD.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x_BHSE: Tensor) -> Tensor:
    """(B, H, S, E) -> (B, S, D)."""
    return x_BHSE.transpose(1, 2).flatten(-2)


@dataclass
class KeyValueCache:
    """Keys and values of the tokens decoded so far, in room made once: (B, H, U * K, E) each.

    The K hypotheses of an utterance lie side by side, position after position. They are never moved: which slots a
    hypothesis descends from is the mask's matter.
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, like_BHKE: Tensor, length: int) -> KeyValueCache:
        """Room for `length` tokens of each hypothesis, with the shape, type and device of `like_BHKE`."""
        batch, heads, beams, width = like_BHKE.shape
        room = like_BHKE.new_zeros(2, batch, heads, length * beams, width)
        return cls(room[0], room[1])

    def append(self, key_BHKE: Tensor, value_BHKE: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Stores one token of each hypothesis; returns all up to it, (B, H, (position + 1) * K, E)."""
        beams = key_BHKE.shape[2]
        start, end = position * beams, (position + 1) * beams
        self.keys[:, :, start:end] = key_BHKE
        self.values[:, :, start:end] = value_BHKE
        return self.keys[:, :, :end], self.values[:, :, :end]


class FusedLinear(nn.Linear):
    """Several projections of one input, stacked into a single matrix product."""

    def __init__(self, n_in: int, n_out: int, parts: int, bias: bool = True) -> None:
        super().__init__(n_in, parts * n_out, bias)
        self.parts = parts


class HeadNorm(nn.Module):
    """QK norm (Henry et al., 2020, arXiv 2010.04245): a norm over each head's width, shared by the heads, or none."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        kind = config.qk_norm
        self.norm = make_norm(kind, config.d_model // config.heads) if kind != "none" else None

    def forward(self, x_BHSE: Tensor) -> Tensor:
        """In float32, whatever the precision; returned in the type that it came in, which the kernel wants."""
        return x_BHSE if self.norm is None else self.norm(x_BHSE.float()).to(x_BHSE.dtype)


class SelfAttention(nn.Module):
    """Self-attention with one fused projection for queries, keys and values."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = FusedLinear(config.d_model, config.d_model, 3, config.qkv_bias)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.output = nn.Linear(config.d_model, config.d_model)

    def project(self, x_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, S, E) each."""
        query, key, value = self.qkv(x_BSD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.query_norm(query), self.key_norm(key), value

    def forward(self, x_BSD: Tensor, attend: Attend) -> Tensor:
        return self.output(join_heads(attend(*self.project(x_BSD))))

    def step(
        self, x_BKD: Tensor, cache: KeyValueCache | None, position: int, length: int, mask: Tensor | None
    ) -> tuple[Tensor, KeyValueCache]:
        """One decoding step: the token at `position` of K hypotheses attends to itself and its ancestors.

        `cache` is None at the first step; `length` is the number of steps there can be. `mask` tells the ancestors,
        broadcastable to (B, H, K, (position + 1) * K); None: all slots are.
        """
        query, key, value = self.project(x_BKD)
        cache = cache or KeyValueCache.empty(key, length)
        keys, values = cache.append(key, value, position)
        return self.output(join_heads(F.scaled_dot_product_attention(query, keys, values, mask))), cache


class CrossAttention(nn.Module):
    """Attention from the decoder's tokens to the encoder's states."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.d_model, config.d_model, config.qkv_bias)
        self.key_value = FusedLinear(config.d_model, config.d_model, 2, config.qkv_bias)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.output = nn.Linear(config.d_model, config.d_model)

    def project(self, states_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's states, (B, H, K, E) each: the same for every decoding step."""
        key, value = (split_heads(part, self.heads) for part in self.key_value(states_BKD).chunk(2, dim=-1))
        return self.key_norm(key), value

    def project_query(self, x_BQD: Tensor) -> Tensor:
        """(B, H, Q, E)."""
        return self.query_norm(split_heads(self.query(x_BQD), self.heads))

    def forward(self, x_BQD: Tensor, key_value: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """`mask` is True where a state may be seen, broadcastable to (B, H, Q, K)."""
        query = self.project_query(x_BQD)
        return self.output(join_heads(F.scaled_dot_product_attention(query, *key_value, mask)))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear; gated (Shazeer, 2020, arXiv 2002.05202): act(W x) * (V x) in the middle."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        width = config.inner_width
        self.gated = config.gated
        self.inner = FusedLinear(config.d_model, width, 2 if config.gated else 1)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)
        self.outer = nn.Linear(width, config.d_model)

    def forward(self, x_BSD: Tensor) -> Tensor:
        inner = self.inner(x_BSD)
        if self.gated:
            gate, inner = inner.chunk(2, dim=-1)
            inner = self.activation(gate) * inner
        else:
            inner = self.activation(inner)
        return self.outer(self.dropout(inner))


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
