"""The pre-norm transformer encoder.

Shapes: B batch, T frames, S subsampled frames, F mel bins, D model width.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainables.config import Model
from trainables.masking import length_mask
from trainables.models.attention import FeedForward, Residual, SelfAttention, sinusoids
from trainables.models.subsampling import ConvSubsampling


class EncoderLayer(nn.Module):
    def __init__(self, config: Model) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = SelfAttention(config.d_model, config.heads)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config.d_model, config.feed_forward, config.dropout)
        self.residual = Residual(config.dropout, config.layer_drop)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor) -> Tensor:
        keep = self.residual.draw(x_BSD)
        x_BSD = self.residual(x_BSD, self.attention(self.attention_norm(x_BSD), mask_B11S), keep)
        return self.residual(x_BSD, self.feed_forward(self.feed_forward_norm(x_BSD)), keep)


class Encoder(nn.Module):
    """Time reduction, positions, N layers, final norm."""

    def __init__(self, config: Model, num_feats: int) -> None:
        super().__init__()
        self.positions = config.encoder_positions == "sinusoidal"
        self.subsampling = ConvSubsampling(num_feats, config.conv_channels, config.d_model, config.reduction_factor)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features and frames per utterance -> states (B, S, D) and states per utterance (B,)."""
        x_BSD, lengths_B = self.subsampling(features_BTF, lengths_B)
        if self.positions:
            x_BSD = x_BSD + sinusoids(x_BSD.shape[1], x_BSD.shape[2], x_BSD.device).to(x_BSD.dtype)
        x_BSD = self.dropout(x_BSD)
        mask_B11S = length_mask(lengths_B, x_BSD.shape[1])[:, None, None]
        for layer in self.layers:
            x_BSD = layer(x_BSD, mask_B11S)
        return self.norm(x_BSD), lengths_B
