"""The editor: a bidirectional transformer over the audio and text positions of all items of a batch, without padding.

The batch is one flat sequence: the positions of an item follow those of the item before, and restart from 0. Attention
stays within an item.

Shapes: B items, A audio positions, P text positions, N positions of all items together, L positions of the longest
item, H heads, E head width, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from trainables.config.model import Model
from trainables.masking import length_mask, score_mask
from trainables.models.attention import Attend, compiled_flex, rotated
from trainables.models.decoder import Decoder
from trainables.models.editing.slots import TokenRows
from trainables.models.positions import Rotation, sinusoids


class Layout(NamedTuple):
    """Which position of a flat batch belongs to what.

    Attributes:
        item_N: number of the item.
        position_N: position within the item.
        text_N: True at text positions, which come after the item's audio positions.
        lengths_B: positions of each item.
    """

    item_N: Tensor
    position_N: Tensor
    text_N: Tensor
    lengths_B: Tensor


class Editor(Decoder):
    """The editor: the language model of its shape (`Editor.language_model`) without the causal mask."""

    def __init__(self, config: Model, vocab_size: int) -> None:
        super().__init__(config.editor.language_model(), vocab_size, cross_attention=False)
        self.kernel = config.editor.attention

    def embed(self, ids_BP: Tensor) -> Tensor:
        """Embeddings of text positions, (B, P, D)."""
        text_BPD = self.embedding(ids_BP)
        return text_BPD * self.config.d_model**0.5 if self.config.scale_embeddings else text_BPD

    def join(self, audio_BAD: Tensor, audio_lengths_B: Tensor, text: TokenRows) -> tuple[Tensor, Layout]:
        """Audio positions and text positions (B, P) of each item -> the flat batch (1, N, D), and its layout."""
        ids_BP, text_lengths_B = text
        text_BPD = self.embed(ids_BP)
        audio_BA = length_mask(audio_lengths_B, audio_BAD.shape[1])
        valid_BL = torch.cat([audio_BA, length_mask(text_lengths_B, ids_BP.shape[1])], dim=1)
        x_ND = torch.cat([audio_BAD, text_BPD.to(audio_BAD.dtype)], dim=1)[valid_BL]
        item_BL = torch.arange(len(valid_BL), device=x_ND.device)[:, None].expand_as(valid_BL)
        is_text_BL = (torch.arange(valid_BL.shape[1], device=x_ND.device) >= audio_BA.shape[1]).expand_as(valid_BL)
        layout = Layout(
            item_BL[valid_BL],
            (valid_BL.cumsum(1) - 1)[valid_BL],
            is_text_BL[valid_BL],
            audio_lengths_B + text_lengths_B,
        )
        return x_ND[None], layout

    def forward(self, x_1ND: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        """The flat batch -> logits (N', V) at its N' text positions."""
        y_1ND = self.run(x_1ND, layout.position_N, within_items(self.kernel, layout), layout.item_N)
        return self.logits(y_1ND[0, layout.text_N])

    def run(self, x_1ND: Tensor, position_N: Tensor, attend: Attend, item_N: Tensor | None = None) -> Tensor:
        """Output of the last layer, (1, N, D).

        Args:
            position_N: position of each element within its item.
            attend: kernel of the self-attention.
            item_N: number of the item of each element; None: there is one.
        """
        config = self.config
        x_1ND = x_1ND * config.embedding_multiplier
        if config.decoder_positions == "sinusoidal":
            x_1ND = x_1ND + sinusoids(position_N, config.d_model, config.sinusoids).to(x_1ND.dtype)
        if config.decoder_positions == "rotary":
            attend = rotated(attend, Rotation(position_N, config.head_width, config.rotary_base))
        x_1ND = self.dropout(x_1ND)
        for layer in self.stack:
            x_1ND = layer(x_1ND, attend, item_Q=item_N)
        return x_1ND


def attend_to_all(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of every position to every other, for a batch of one item."""
    return F.scaled_dot_product_attention(query, key, value)


def within_items(kernel: str, layout: Layout) -> Attend:
    """Self-attention of a flat batch, (1, H, N, E) -> (1, H, N, E), in which items do not see each other.

    Args:
        kernel: `flex`: FlexAttention on a GPU, whose block mask skips what lies between items. `sdpa`, and on a CPU:
            rows of items, padded for this step alone, which is faster there than a mask of N x N.
    """
    item_N, position_N, _, lengths_B = layout
    if len(lengths_B) == 1:
        return attend_to_all
    if kernel == "flex" and item_N.is_cuda:
        total = len(item_N)
        blocks = create_block_mask(
            lambda b, h, q, k: item_N[q] == item_N[k],
            None,
            None,
            total,
            total,
            device=str(item_N.device),
            _compile=True,  # without it, the mask of total x total is made in memory first
        )
        return lambda query, key, value: compiled_flex()(query, key, value, block_mask=blocks)
    longest = int(lengths_B.max())
    place_N = item_N * longest + position_N
    mask_B11L: Tensor | None = None

    def padded(x_1HNE: Tensor) -> Tensor:
        rows = x_1HNE.new_zeros(len(lengths_B) * longest, x_1HNE.shape[1], x_1HNE.shape[3])
        return rows.index_copy(0, place_N, x_1HNE[0].transpose(0, 1)).unflatten(0, (-1, longest)).transpose(1, 2)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        nonlocal mask_B11L
        if mask_B11L is None:  # the same for all layers
            mask_B11L = score_mask(lengths_B, longest, query.dtype)
        y_BHLE = F.scaled_dot_product_attention(padded(query), padded(key), padded(value), mask_B11L)
        return y_BHLE.transpose(1, 2).flatten(0, 1)[place_N].transpose(0, 1)[None]

    return attend


def unflattened(x_N: Tensor, text: TokenRows) -> Tensor:
    """Rows of items, padded with zeros, of what was computed at their text positions: (N', ...) -> (B, P, ...)."""
    valid_BP = length_mask(text.lengths_B, text.ids_BU.shape[1])
    rows = x_N.new_zeros(*valid_BP.shape, *x_N.shape[1:])
    return rows.masked_scatter(valid_BP.view(*valid_BP.shape, *[1] * (x_N.dim() - 1)), x_N)
