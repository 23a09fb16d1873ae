"""The encoder.

Shapes: B batch, T frames, S encoder states (subsampled frames), F mel bins, D model width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainables.config.model import Model
from trainables.masking import matmul_dtype
from trainables.models.attention import Context, SelfAttention, attend_to_valid
from trainables.models.conformer import ConformerLayer
from trainables.models.kernels.dropout import NOTHING, Draws, draw_dropout
from trainables.models.layers import FeedForward, OwnDropout, Residual, make_norm
from trainables.models.positions import PositionTable, make_bias, make_distances, make_rotation
from trainables.models.subsampling import make_subsampling


class EncoderLayer(nn.Module):
    """An encoder layer, (B, S, D) -> (B, S, D): self-attention, feed-forward."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.attention_norm = make_norm(config.norm, config.d_model, config.norm_epsilon)
        self.attention = SelfAttention(config, make_distances(config))
        self.feed_forward_norm = make_norm(config.norm, config.d_model, config.norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.residual = Residual(config)

    def forward(self, x_BSD: Tensor, context: Context, draws: Draws = NOTHING) -> Tensor:
        keep = self.residual.draw(x_BSD)
        x_BSD = self.residual(x_BSD, context.attention(self.attention, self.attention_norm(x_BSD)), keep, draws.kept[0])
        return self.residual(
            x_BSD, self.feed_forward(self.feed_forward_norm(x_BSD), draws.dropped[0]), keep, draws.kept[1]
        )


class Encoder(nn.Module):
    """The encoder: subsampling, positions, N layers, final norm, and an output projection if it has its own width.

    A conformer's layers end with a norm, so it has no final one.
    """

    def __init__(self, config: Model, num_feats: int) -> None:
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.d_model) if config.scale_states else 1.0
        self.subsampling = make_subsampling(config, num_feats)
        norm, width, epsilon = config.norm, config.d_model, config.norm_epsilon
        self.embedding_norm = make_norm(norm if config.embedding_norm else "none", width, epsilon)
        self.positions = PositionTable(config.encoder_positions, config)
        self.relative_bias = make_bias(config)
        self.position_dropout = OwnDropout(config.position_dropout)
        own = config.input_dropout
        self.dropout = nn.Dropout(config.dropout) if own is None else OwnDropout(own)
        conformer = config.encoder_block == "conformer"
        layer = ConformerLayer if conformer else EncoderLayer
        self.layers = nn.ModuleList(layer(config) for _ in range(config.encoder_layers))
        self.norm = make_norm("none" if conformer else norm, width, epsilon)
        states_width = config.states_width
        self.output = nn.Linear(width, states_width) if states_width != width else nn.Identity()
        self.active_layers: int | None = None  # number of active layers, from the first on; None: all

    @property
    def stack(self) -> list[nn.Module]:
        """The active layers."""
        return list(self.layers)[: self.active_layers]

    def forward(
        self, features_BTF: Tensor, lengths_B: Tensor, weights_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Normalised features and frames per utterance -> states (B, S, D) and states per utterance (B,).

        Args:
            weights_B: weight of each utterance; those of weight 0, which only fill the batch, change no statistics.
        """
        x_BSD, context = self.embed(features_BTF, lengths_B, weights_B)
        stack = self.stack
        for layer, draws in zip(stack, draw_dropout(stack, x_BSD), strict=True):
            x_BSD = layer(x_BSD, context, draws)
        x_BSD = self.norm(x_BSD)
        return self.output(x_BSD).to(x_BSD.dtype), context.lengths_B

    def embed(self, features_BTF: Tensor, lengths_B: Tensor, weights_B: Tensor | None = None) -> tuple[Tensor, Context]:
        """The input of the first layer, (B, S, D), and what every layer needs beside its input."""
        x_BSD, lengths_B = self.subsampling(features_BTF, lengths_B)
        x_BSD = x_BSD * self.scale
        if not self.config.norm_positions:
            x_BSD = self.embedding_norm(x_BSD)
        width, device = x_BSD.shape[1], x_BSD.device
        table_SD = self.positions(width, device, kept=self.training)
        if table_SD is not None:
            x_BSD = x_BSD + self.position_dropout(table_SD.to(x_BSD.dtype))
        x_BSD = self.dropout(x_BSD)
        if self.config.norm_positions:
            x_BSD = self.embedding_norm(x_BSD)
        return x_BSD, self.context(lengths_B, width, matmul_dtype(x_BSD), weights_B)

    def context(
        self, lengths_B: Tensor, width: int, dtype: torch.dtype = torch.float32, weights_B: Tensor | None = None
    ) -> Context:
        """Masks, positions and kernel of the attention of utterances with `lengths_B` states, padded to `width`.

        Args:
            dtype: type of the queries.
        """
        block, attended_B = self.config.context_size, lengths_B
        if block is not None:
            if not torch.compiler.is_exporting():  # where the width is a symbol
                block = min(block, width)
            width_in_blocks = math.ceil(width / block)
            start_M = torch.arange(width_in_blocks, device=lengths_B.device) * block
            # A block of padding alone attends to its first state, so that no row of scores is empty.
            attended_B, width = (lengths_B[:, None] - start_M).clamp(1, block).flatten(), block
        rotation = make_rotation(self.config.encoder_positions, width, self.config, lengths_B.device)
        bias_1HSS = None if self.relative_bias is None else self.relative_bias(width)
        attend = attend_to_valid(
            self.config.attention, attended_B, width, rotation, bias_1HSS, self.config.encoder_causal, dtype
        )
        return Context(lengths_B, attend, block, weights_B)
