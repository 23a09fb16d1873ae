"""The projector: from windows of encoder states to the editor's audio positions.

Shapes: B batch, S encoder states, M windows of W states, Q queries (audio positions) of a window, A audio positions,
K encoder layers read, D width of the encoder, J width of the projector, H heads, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config.model import Model
from trainables.config.model import Projector as ProjectorConfig
from trainables.masking import length_mask
from trainables.models.attention import join_heads, split_heads
from trainables.models.layers import FusedLinear


class WindowLayer(nn.Module):
    """A pre-norm layer of cross-attention from a window's queries to its states, and a feed-forward sublayer."""

    def __init__(self, shape: ProjectorConfig, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, inner = heads, max(1, int(shape.ff_expansion * width))
        self.attention_norm = nn.LayerNorm(width, eps=shape.norm_epsilon)
        self.query = nn.Linear(width, width, shape.qkv_bias)
        self.key_value = FusedLinear(width, width, width, bias=shape.qkv_bias)
        self.output = nn.Linear(width, width, shape.qkv_bias)
        self.feed_forward_norm = nn.LayerNorm(width, eps=shape.norm_epsilon)
        self.inner, self.outer = nn.Linear(width, inner, shape.bias), nn.Linear(inner, width, shape.bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_MQJ: Tensor, states_MWJ: Tensor, seen_M11W: Tensor | None) -> Tensor:
        """Queries (M, Q, J) -> (M, Q, J); `seen_M11W` is False at padding, None: no state is padding."""
        query = split_heads(self.query(self.attention_norm(x_MQJ)), self.heads)
        key, value = (split_heads(part, self.heads) for part in self.key_value(states_MWJ).chunk(2, dim=-1))
        found_MHQE = F.scaled_dot_product_attention(query, key, value, seen_M11W)
        x_MQJ = x_MQJ + self.dropout(self.output(join_heads(found_MHQE)))
        return x_MQJ + self.dropout(self.outer(F.silu(self.inner(self.feed_forward_norm(x_MQJ)))))


class Projector(nn.Module):
    """Encoder states of several layers -> audio positions of the editor, one for `reduction_factor` states.

    The states are normalised, concatenated and projected. Then each window of them is read by a few queries: each is a
    learned vector plus the mean of its segment of the window. Windows do not see each other.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        shape, editor = config.projector, config.editor
        width, heads = shape.d_model or editor.d_model, shape.heads or editor.heads
        self.window, self.factor = shape.window, shape.reduction_factor
        self.drop_remainder = shape.last_window == "drop"
        self.divisor = editor.embedding_multiplier if shape.undo_multiplier else 1.0
        count = len(shape.states or QUARTERS)
        self.norms = nn.ModuleList(nn.LayerNorm(config.d_model, eps=shape.norm_epsilon) for _ in range(count))
        self.input = nn.Linear(count * config.d_model, width)
        self.queries = nn.Parameter(torch.empty(self.window // self.factor, width).normal_(std=width**-0.5))
        self.positions = nn.Parameter(torch.empty(self.window, width).normal_(std=width**-0.5))
        self.layers = nn.ModuleList(WindowLayer(shape, width, heads, config.dropout) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width, eps=shape.norm_epsilon)
        self.output = nn.Linear(width, editor.d_model)

    def forward(self, states: list[Tensor], lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, D) of each layer read, and their lengths -> audio positions (B, A, D), and their number (B,).

        A is that of whole windows; positions behind an utterance's number are padding.
        """
        normed = [norm(x_BSD) for norm, x_BSD in zip(self.norms, states, strict=True)]
        batch, states_count = normed[0].shape[:2]
        x_BSJ = F.gelu(self.input(torch.cat(normed, dim=-1)))
        valid_BS = F.pad(length_mask(lengths_B, states_count), (0, -states_count % self.window))
        x_BSJ = F.pad(x_BSJ, (0, 0, 0, -states_count % self.window)) * valid_BS[..., None]
        x_MWJ = x_BSJ.reshape(-1, self.window, x_BSJ.shape[-1])
        valid_MW = valid_BS.reshape(-1, self.window)
        if self.drop_remainder:  # zeros take part in means and attention
            valid_MW = torch.ones_like(valid_MW)
        y_MQJ = self.queries.to(x_MWJ.dtype) + self.segment_means(x_MWJ, valid_MW)
        # A window of padding alone sees its first state, so that no row of scores is empty.
        seen_MW = valid_MW | (torch.arange(self.window, device=valid_MW.device) == 0)
        x_MWJ = x_MWJ + self.positions.to(x_MWJ.dtype)
        for layer in self.layers:
            y_MQJ = layer(y_MQJ, x_MWJ, seen_MW[:, None, None])
        y_BAD = self.output(self.norm(y_MQJ)).reshape(batch, -1, self.output.out_features) / self.divisor
        rounding = 0 if self.drop_remainder else self.factor - 1
        positions_B = (lengths_B + rounding) // self.factor
        return y_BAD, positions_B

    def segment_means(self, x_MWJ: Tensor, valid_MW: Tensor) -> Tensor:
        """Mean of the valid states of each query's segment of the window, (M, Q, J); 0 without any."""
        weights_MQF = valid_MW.unflatten(1, (-1, self.factor)).to(x_MWJ.dtype)
        sums_MQJ = (x_MWJ.unflatten(1, (-1, self.factor)) * weights_MQF[..., None]).sum(2)
        return sums_MQJ / weights_MQF.sum(2).clamp(min=1)[..., None]


QUARTERS = (0.25, 0.5, 0.75, 1.0)
"""Default layers whose states are read, as shares of all layers."""


def layers_read(config: Model, layers: int) -> list[int]:
    """Numbers, counted from 1, of the encoder layers whose states the projector reads, of `layers` active ones."""
    if config.projector.states is not None:
        return [min(number, layers) for number in config.projector.states]
    return [max(1, round(share * layers)) for share in QUARTERS]
