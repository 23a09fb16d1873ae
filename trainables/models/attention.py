"""Multi-head self-attention and cross-attention, their kernels, and the cache of a step-by-step search.

Shapes: B batch, S encoder states, Q queries, K keys (in a search: hypotheses of an utterance), U tokens, D model width,
H heads, E = D / H head width.
Attention weights have no dropout: it would rule out the fused kernel, and the residual dropout regularises alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from trainables.config.model import Blocks
from trainables.masking import autocasts, score_mask
from trainables.models.layers import FusedLinear, make_norm
from trainables.models.positions import Rotation

Attend = Callable[..., Tensor]
"""Queries (B, H, Q, E), keys and values (B, H, K, E) -> (B, H, Q, E): a kernel with its mask and its positions.

A fourth argument is a bias (B, H, Q, K) that is added to the scores."""

causal: Attend = partial(F.scaled_dot_product_attention, is_causal=True)


def attention_weights(query_BHQE: Tensor, key_BHKE: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(E)), (B, H, Q, K) in float32 (Vaswani et al., 2017, arXiv 1706.03762, equation 1).

    Args:
        mask: added to the scores, broadcastable to (B, H, Q, K).
    """
    device = query_BHQE.device
    # Autocast would multiply in bf16 all the same.
    with torch.autocast(device.type, enabled=False) if autocasts(device) else contextlib.nullcontext():
        scores_BHQK = query_BHQE.float() @ key_BHKE.float().transpose(-1, -2) / query_BHQE.shape[-1] ** 0.5
        return (scores_BHQK if mask is None else scores_BHQK + mask).softmax(-1)


def attend_to_valid(
    kernel: str, lengths_B: Tensor, width: int, rotation: Rotation | None = None, bias_1HSS: Tensor | None = None,
    is_causal: bool = False, dtype: torch.dtype = torch.float32,
) -> Attend:  # fmt: skip
    """Self-attention of a padded batch: every query sees the first `length` keys of its utterance.

    Args:
        kernel: `sdpa`, or `flex`: FlexAttention on a GPU, SDPA elsewhere (FlexAttention has no backward pass there).
        width: S, the padded length.
        rotation: rotary embedding of queries and keys.
        bias_1HSS: bias that is added to the scores.
        is_causal: whether a query sees no key after its own position.
        dtype: type of the queries.

    Raises:
        ValueError: `kernel` is unknown.
    """
    kernels = {"sdpa": _sdpa, "flex": _flex if lengths_B.is_cuda else _sdpa}
    if kernel not in kernels:
        raise ValueError(f"attention {kernel!r}: the kernels are {', '.join(kernels)}")
    attend = kernels[kernel](lengths_B, width, bias_1HSS, is_causal, dtype)
    return rotated(attend, rotation)


def rotated(attend: Attend, rotation: Rotation | None) -> Attend:
    """`attend`, with queries and keys turned by rotary positions first; None: no rotation."""
    if rotation is None:
        return attend
    return lambda query, key, value, *bias: attend(rotation(query), rotation(key), value, *bias)


def _sdpa(
    lengths_B: Tensor, width: int, bias_1HSS: Tensor | None, is_causal: bool, dtype: torch.dtype
) -> Attend:  # fmt: skip
    mask = score_mask(lengths_B, width, dtype)
    if is_causal:
        later_SS = torch.ones(width, width, dtype=torch.bool, device=mask.device).triu(1)
        mask = mask.masked_fill(later_SS, -torch.inf)
    if bias_1HSS is not None:
        mask = mask + bias_1HSS.to(dtype)

    def attend(query: Tensor, key: Tensor, value: Tensor, bias_BHSS: Tensor | None = None) -> Tensor:
        fitting = mask if bias_BHSS is None else mask + bias_BHSS
        return F.scaled_dot_product_attention(query, key, value, fitting)

    return attend


def _flex(
    lengths_B: Tensor, width: int, bias_1HSS: Tensor | None, is_causal: bool, dtype: torch.dtype
) -> Attend:  # fmt: skip
    """FlexAttention (Dong et al., 2024, arXiv 2412.05496), which skips blocks of padding."""

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k < lengths_B[b]) & (k <= q) if is_causal else k < lengths_B[b]

    blocks = create_block_mask(visible, len(lengths_B), None, width, width, device=str(lengths_B.device))
    kernel = compiled_flex() if lengths_B.is_cuda else flex_attention
    if bias_1HSS is None:
        return lambda query, key, value: kernel(query, key, value, block_mask=blocks)
    bias_HSS = bias_1HSS[0]

    def add_bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + bias_HSS[h, q, k]

    return lambda query, key, value: kernel(query, key, value, score_mod=add_bias, block_mask=blocks)


@cache
def compiled_flex() -> Any:
    # Dynamic: a kernel for each padded length would soon exceed dynamo's limit on recompilations.
    return torch.compile(flex_attention, dynamic=True)


class KeyValueCache:
    """Keys and values of the tokens decoded so far in one layer, in memory allocated once.

    Slots are ordered by position, then by hypothesis, and are never moved: a mask tells which slots belong to the
    history of a hypothesis.

    Args:
        length: U, the largest number of steps.
    """

    def __init__(self, length: int) -> None:
        self.length, self.position = length, 0
        self.slots: tuple[Tensor, Tensor] | None = None  # keys and values, (B, H, U * K, E) each

    def append(self, key_BHKE: Tensor, value_BHKE: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the next token of each hypothesis; returns all keys and values so far, (B, H, position * K, E)."""
        batch, heads, beams, width = key_BHKE.shape
        if self.slots is None:
            zeros = key_BHKE.new_zeros(2, batch, heads, self.length * beams, width)
            self.slots = zeros[0], zeros[1]
        keys, values = self.slots
        start, end = self.position * beams, (self.position + 1) * beams
        keys[:, :, start:end], values[:, :, start:end] = key_BHKE, value_BHKE
        self.position += 1
        return keys[:, :, :end], values[:, :, :end]

    def attend(self, mask: Tensor | None, rotation: Rotation | None = None) -> Attend:
        """Attention function for one step: stores each hypothesis' new token, and attends to its history.

        Args:
            mask: True at slots of the history, broadcastable to (B, H, K, position * K); None: all slots.
            rotation: rotary embedding of queries and keys at all positions; None: there is none.
        """

        def step(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if rotation is not None:
                query, key = rotation(query, self.position), rotation(key, self.position)
            return F.scaled_dot_product_attention(query, *self.append(key, value), mask)

        return step


class HeadNorm(nn.Module):
    """QK norm (Henry et al., 2020, arXiv 2010.04245): a norm over each head's width, shared by the heads, or none."""

    def __init__(self, config: Blocks) -> None:
        super().__init__()
        kind = config.qk_norm
        self.norm = make_norm(kind, config.head_width, config.norm_epsilon) if kind != "none" else None

    def forward(self, x_BHSE: Tensor) -> Tensor:
        """Normalises (B, H, S, E) in float32; returns the input's dtype."""
        return x_BHSE if self.norm is None else self.norm(x_BHSE.float()).to(x_BHSE.dtype)


def split_heads(x_BSD: Tensor, heads: int) -> Tensor:
    """Splits states into heads, (B, S, D) -> (B, H, S, E)."""
    return x_BSD.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x_BHSE: Tensor) -> Tensor:
    """Joins heads, (B, H, S, E) -> (B, S, D)."""
    return x_BHSE.transpose(1, 2).flatten(-2)


class SelfAttention(nn.Module):
    """Self-attention, (B, S, D) -> (B, S, D), with one fused projection for queries, keys and values.

    With fewer heads of keys and values than of queries, groups of queries share one (Ainslie et al., 2023, arXiv
    2305.13245).

    Args:
        distances: positions of this layer that act on the scores (`positions.make_distances`); None: there are none.
    """

    def __init__(self, config: Blocks, distances: nn.Module | None = None) -> None:
        super().__init__()
        self.size, kv_heads = config.head_width, config.kv_heads or config.heads
        self.group = config.heads // kv_heads
        width, kv_width = config.heads * self.size, kv_heads * self.size
        self.scale = None  # of the query, beside the kernel's 1 / sqrt(E)
        if config.attention_multiplier is not None:
            self.scale = config.attention_multiplier * self.size**0.5
        self.qkv = FusedLinear(config.d_model, width, kv_width, kv_width, bias=config.qkv_bias)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.distances = distances
        self.output = nn.Linear(width, config.d_model, bias=config.bias)

    def project(self, x_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, S, E) each."""
        parts = self.qkv(x_BSD).split(self.qkv.widths, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.size)).transpose(1, 2) for part in parts)
        query, key = self.query_norm(query), self.key_norm(key)
        if self.group > 1:
            key, value = key.repeat_interleave(self.group, 1), value.repeat_interleave(self.group, 1)
        return query if self.scale is None else query * self.scale, key, value

    def forward(self, x_BSD: Tensor, attend: Attend) -> Tensor:
        query, key, value = self.project(x_BSD)
        if self.distances is None:
            return self.output(join_heads(attend(query, key, value)))
        query, bias_BHSS = self.distances(query)
        return self.output(join_heads(attend(query, key, value, bias_BHSS)))


@dataclass(frozen=True)
class Context:
    """Lengths, attention kernel and weights of a batch, which every layer of an encoder takes beside its input.

    Args:
        lengths_B: states per utterance.
        attend: kernel of the self-attention, with its mask and positions.
        block: number of states that attend to each other, block by block; None: all of an utterance.
        weights_B: weight of each utterance, 0 for those that only fill the batch; None: there are none of these.
    """

    lengths_B: Tensor
    attend: Attend
    block: int | None = None
    weights_B: Tensor | None = None

    def attention(self, attention: SelfAttention, x_BSD: Tensor) -> Tensor:
        """Self-attention (B, S, D) -> (B, S, D) within the utterances or their blocks."""
        if self.block is None:
            return attention(x_BSD, self.attend)
        batch, width, _ = x_BSD.shape
        x_BSD = F.pad(x_BSD, (0, 0, 0, -width % self.block))
        blocks_MCD = x_BSD.reshape(-1, self.block, x_BSD.shape[-1])
        return attention(blocks_MCD, self.attend).view(batch, -1, x_BSD.shape[-1])[:, :width]


class CrossAttention(nn.Module):
    """Attention from the decoder's tokens to the encoder's states, (B, Q, D) -> (B, Q, D).

    Args:
        states_width: width of the states; None: D.
    """

    def __init__(self, config: Blocks, states_width: int | None = None) -> None:
        super().__init__()
        self.heads, width = config.heads, config.heads * config.head_width
        self.query = nn.Linear(config.d_model, width, config.qkv_bias)
        self.key_value = FusedLinear(states_width or config.d_model, width, width, bias=config.qkv_bias)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.output = nn.Linear(width, config.d_model, bias=config.bias)

    def project(self, states_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's states, (B, H, S, E) each; computed once for all decoding steps."""
        return self.split(*self.key_value(states_BSD).chunk(2, dim=-1))

    def split(self, key_BSD: Tensor, value_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values of the encoder's states (B, S, H * E) by heads, (B, H, S, E) each."""
        return self.key_norm(split_heads(key_BSD, self.heads)), split_heads(value_BSD, self.heads)

    def project_query(self, x_BQD: Tensor) -> Tensor:
        """Queries, (B, H, Q, E)."""
        return self.query_norm(split_heads(self.query(x_BQD), self.heads))

    def forward(
        self,
        x_BQD: Tensor,
        key_value: tuple[Tensor, Tensor],
        mask: Tensor | None,
        collected: list[Tensor] | None = None,
    ) -> Tensor:
        """Attends to the keys and values of `project`.

        Args:
            mask: added to the scores, broadcastable to (B, H, Q, S), such as `score_mask`; None: all are visible.
            collected: list to which the attention weights (B, H, Q, S) are added; None: they are not computed. The
                fused kernels return none.
        """
        query = self.project_query(x_BQD)
        if collected is not None:
            collected.append(attention_weights(query, key_value[0], mask))
        return self.output(join_heads(F.scaled_dot_product_attention(query, *key_value, mask)))
