"""Parts of encoder and decoder layers beside attention: norms, fused projections, the feed-forward sublayer, residuals.

Shapes: B batch, S positions (encoder states or tokens), D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config.model import Blocks
from trainables.models.kernels.dropout import dropped_product, dropped_sum

NORM_EPSILON = 1e-5  # default


def make_norm(kind: str, width: int, epsilon: float = NORM_EPSILON) -> nn.Module:
    """LayerNorm (Ba et al., 2016, arXiv 1607.06450), RMSNorm (Zhang and Sennrich, 2019, arXiv 1910.07467) or none.

    Raises:
        ValueError: `kind` is none of `layer`, `rms`, `none`.
    """
    kinds = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "none": None}
    if kind not in kinds:
        raise ValueError(f"norm {kind!r}: the norms are {', '.join(kinds)}")
    norm = kinds[kind]
    return nn.Identity() if norm is None else norm(width, eps=epsilon)


class OwnDropout(nn.Module):
    """Dropout with a probability of its own, which stages of training do not change, as they do with `nn.Dropout`."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape, with numbers set to 0 in training."""
        return F.dropout(x, self.probability, self.training)


class FusedLinear(nn.Linear):
    """Several projections of one input, stacked into one matrix product.

    Args:
        widths: width of each projection.
    """

    def __init__(self, n_in: int, *widths: int, bias: bool = True) -> None:
        super().__init__(n_in, sum(widths), bias)
        self.widths = widths


class FeedForward(nn.Module):
    """The feed-forward sublayer: linear, activation, dropout, linear; (B, S, D) -> (B, S, D).

    The gated variant (Shazeer, 2020, arXiv 2002.05202) multiplies the activation by a second projection:
    act(W x) * (V x).
    """

    def __init__(self, config: Blocks) -> None:
        super().__init__()
        width = config.inner_width
        self.gated = config.gated
        self.inner = FusedLinear(config.d_model, *([width] * (2 if config.gated else 1)), bias=config.bias)
        self.activation = getattr(F, config.activation)
        self.dropout = nn.Dropout(config.dropout)
        self.outer = nn.Linear(width, config.d_model, bias=config.bias)

    def forward(self, x_BSD: Tensor, dropped_BSC: Tensor | None = None) -> Tensor:
        """Output (B, S, D).

        Args:
            dropped_BSC: True at the activations that dropout drops, from `draw_dropout`; None: they are drawn here.
        """
        inner = self.inner(x_BSD)
        if dropped_BSC is not None:
            return dropped_product(self.activation, inner, dropped_BSC, self.outer, 1 / (1 - self.dropout.p))
        if self.gated:
            gate, inner = inner.chunk(2, dim=-1)
            inner = self.activation(gate) * inner
        else:
            inner = self.activation(inner)
        return self.outer(self.dropout(inner))


class Residual(nn.Module):
    """The residual connection of a pre-norm layer, with a factor, dropout and LayerDrop (both in training only).

    LayerDrop (Fan et al., 2020, arXiv 1909.11556) multiplies the outputs for an utterance by 0 or 1. So every parameter
    takes part in every step, which distributed training and compiled graphs need.

    Args:
        sublayers: number of sublayers of the layer.
        feed_forwards: how many of these are feed-forward ones.
    """

    def __init__(self, config: Blocks, sublayers: int = 2, feed_forwards: int = 1) -> None:
        super().__init__()
        self.sublayers, self.feed_forwards = sublayers, feed_forwards
        self.hidden_width = None if config.gated else config.inner_width
        self.multiplier = config.residual_multiplier
        self.dropout = nn.Dropout(config.dropout)
        self.layer_drop = config.layer_drop

    def draw(self, x_BSD: Tensor, item_S: Tensor | None = None) -> Tensor | None:
        """LayerDrop's random factor, 0 or 1, for each utterance, (B, 1, 1); None if no layer can be dropped.

        One draw is shared by all sublayers of a layer.

        Args:
            item_S: number of the utterance of each position of a flat batch (B = 1); the factors are (1, S, 1).
        """
        if not self.training or self.layer_drop == 0:
            return None
        if item_S is not None:
            drawn_S = torch.rand(len(item_S), device=x_BSD.device)[item_S]
            return (drawn_S >= self.layer_drop).to(x_BSD.dtype)[None, :, None]
        return (torch.rand(len(x_BSD), 1, 1, device=x_BSD.device) >= self.layer_drop).to(x_BSD.dtype)

    def forward(
        self, x_BSD: Tensor, sublayer_BSD: Tensor, keep_B11: Tensor | None, kept_BSD: Tensor | None = None
    ) -> Tensor:
        """Input + factor * dropout(output of the sublayer) * LayerDrop's `keep_B11` (from `draw`), (B, S, D).

        Args:
            kept_BSD: True at the numbers that dropout keeps, from `draw_dropout`; None: they are drawn here.
        """
        if kept_BSD is not None:
            if keep_B11 is not None:
                sublayer_BSD = sublayer_BSD * keep_B11
            return dropped_sum(x_BSD, sublayer_BSD, kept_BSD, self.multiplier / (1 - self.dropout.p))
        if self.training:  # a search calls this for every token
            sublayer_BSD = self.dropout(sublayer_BSD)
        if self.multiplier != 1:
            sublayer_BSD = sublayer_BSD * self.multiplier
        return x_BSD + (sublayer_BSD if keep_B11 is None else sublayer_BSD * keep_B11)


class TokenEmbedding(nn.Embedding):
    """Embeddings of tokens, which start with variance 1/D; a stack of layers scales them to 1."""


def initialize(model: nn.Module) -> None:
    """Fills a model: Glorot-uniform matrices, zero biases, token embeddings of variance 1/D.

    A fused projection is initialised as the separate matrices that it is made of. A model on torch's meta device has
    nothing to fill: building one to count its parameters would take half as long again.
    """
    if next(model.parameters()).is_meta:
        return
    for module in model.modules():
        if isinstance(module, nn.Linear):
            for part in module.weight.split(module.widths if isinstance(module, FusedLinear) else len(module.weight)):
                nn.init.xavier_uniform_(part)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():  # last: an embedding may share its weight with a matrix
        if isinstance(module, TokenEmbedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
