"""The pre-norm transformer encoder.

Shapes: B batch, T frames, S encoder states (subsampled frames), F mel bins, D model width, H heads.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from trainables.config import Model
from trainables.models.attention import Attend, SelfAttention, attend_to_valid
from trainables.models.layers import FeedForward, Residual, make_norm
from trainables.models.positions import make_bias, make_rotation, position_table
from trainables.models.subsampling import make_subsampling


class EncoderLayer(nn.Module):
    """An encoder layer, (B, S, D) -> (B, S, D): self-attention, feed-forward."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.attention_norm = make_norm(config.norm, config.d_model)
        self.attention = SelfAttention(config)
        self.feed_forward_norm = make_norm(config.norm, config.d_model)
        self.feed_forward = FeedForward(config)
        self.residual = Residual(config.dropout, config.layer_drop)

    def forward(self, x_BSD: Tensor, attend: Attend) -> Tensor:
        keep = self.residual.draw(x_BSD)
        x_BSD = self.residual(x_BSD, self.attention(self.attention_norm(x_BSD), attend), keep)
        return self.residual(x_BSD, self.feed_forward(self.feed_forward_norm(x_BSD)), keep)


class Encoder(nn.Module):
    """The encoder: subsampling, positions, N layers, final norm."""

    def __init__(self, config: Model, num_feats: int) -> None:
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.d_model) if config.scale_states else 1.0
        self.subsampling = make_subsampling(config, num_feats)
        self.embedding_norm = make_norm(config.norm if config.embedding_norm else "none", config.d_model)
        self.relative_bias = make_bias(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = make_norm(config.norm, config.d_model)
        self.active_layers: int | None = None  # number of active layers, from the first on; None: all

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features and frames per utterance -> states (B, S, D) and states per utterance (B,)."""
        x_BSD, lengths_B = self.subsampling(features_BTF, lengths_B)
        x_BSD = self.embedding_norm(x_BSD * self.scale)
        width, device = x_BSD.shape[1], x_BSD.device
        table_SD = position_table(self.config.encoder_positions, width, self.config, device)
        x_BSD = self.dropout(x_BSD if table_SD is None else x_BSD + table_SD.to(x_BSD.dtype))
        rotation = make_rotation(self.config, width, device)
        bias_1HSS = None if self.relative_bias is None else self.relative_bias(width)
        attend = attend_to_valid(self.config.attention, lengths_B, width, rotation, bias_1HSS)
        for layer in list(self.layers)[: self.active_layers]:
            x_BSD = layer(x_BSD, attend)
        return self.norm(x_BSD), lengths_B
