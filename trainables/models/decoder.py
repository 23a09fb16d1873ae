"""The pre-norm transformer decoder: all tokens at once in training, one at a time in search.

Shapes: B batch, S subsampled frames, U tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from trainables.config import Model
from trainables.masking import length_mask
from trainables.models.attention import (
    CrossAttention,
    FeedForward,
    KeyValueCache,
    Residual,
    SelfAttention,
    causal,
    make_norm,
)
from trainables.models.positions import sinusoids


@dataclass
class DecoderState:
    """What a search keeps between steps: per layer the encoder's keys and values and the tokens' cache.

    `ancestors` (B, K, U, K) is True where the hypothesis continues the one that held the slot (position, beam).
    """

    cross: list[tuple[Tensor, Tensor]]
    cross_mask: Tensor | None
    positions_UD: Tensor | None
    length: int
    position: int = 0
    caches: list[KeyValueCache | None] = field(default_factory=list)
    ancestors: Tensor | None = None

    def follow(self, parents_BK: Tensor) -> Tensor:
        """Lets each hypothesis take over its parent's ancestors, adds its own slot, and returns the mask for
        self-attention over (position + 1) * K slots, (B, 1, K, (position + 1) * K)."""
        batch, beams = parents_BK.shape
        if self.ancestors is None:
            self.ancestors = torch.zeros(batch, beams, self.length, beams, dtype=torch.bool, device=parents_BK.device)
        row_B1 = torch.arange(batch, device=parents_BK.device)[:, None]
        self.ancestors = self.ancestors[row_B1, parents_BK]
        self.ancestors[:, :, self.position] = torch.eye(beams, dtype=torch.bool, device=parents_BK.device)
        return self.ancestors[:, None, :, : self.position + 1].flatten(3)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention (where there are states to attend to), feed-forward."""

    def __init__(self, config: Model, cross_attention: bool) -> None:
        super().__init__()
        self.self_attention_norm = make_norm(config.norm, config.d_model)
        self.self_attention = SelfAttention(config)
        self.cross_attention_norm = make_norm(config.norm if cross_attention else "none", config.d_model)
        self.cross_attention = CrossAttention(config) if cross_attention else None
        self.feed_forward_norm = make_norm(config.norm, config.d_model)
        self.feed_forward = FeedForward(config)
        self.residual = Residual(config.dropout, config.layer_drop)

    def forward(self, x_BUD: Tensor, states_BSD: Tensor | None, mask_B11S: Tensor | None) -> Tensor:
        keep = self.residual.draw(x_BUD)
        x_BUD = self.residual(x_BUD, self.self_attention(self.self_attention_norm(x_BUD), causal), keep)
        if self.cross_attention is not None and states_BSD is not None:
            key_value = self.cross_attention.project(states_BSD)
            cross = self.cross_attention(self.cross_attention_norm(x_BUD), key_value, mask_B11S)
            x_BUD = self.residual(x_BUD, cross, keep)
        return self.residual(x_BUD, self.feed_forward(self.feed_forward_norm(x_BUD)), keep)

    def step(self, x_BKD: Tensor, state: DecoderState, index: int, mask: Tensor | None) -> Tensor:
        """One token of each hypothesis through this layer, the `index`-th, whose cache in `state` it extends.

        The K hypotheses are K queries to the keys and values of their one utterance, which are never repeated.
        """
        attended, state.caches[index] = self.self_attention.step(
            self.self_attention_norm(x_BKD), state.caches[index], state.position, state.length, mask
        )
        x_BKD = x_BKD + attended
        if self.cross_attention is not None:
            query_BKD = self.cross_attention_norm(x_BKD)
            x_BKD = x_BKD + self.cross_attention(query_BKD, state.cross[index], state.cross_mask)
        return x_BKD + self.feed_forward(self.feed_forward_norm(x_BKD))


class Decoder(nn.Module):
    """Token embedding, positions, M layers, final norm, output projection.

    Without cross-attention it is a language model, whose parameters have the names that they have in a recogniser.
    """

    def __init__(self, config: Model, vocab_size: int, cross_attention: bool = True) -> None:
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config, cross_attention) for _ in range(config.decoder_layers))
        self.norm = make_norm(config.norm, config.d_model)
        self.output = nn.Linear(config.d_model, vocab_size, bias=False)
        if config.tied_embeddings:
            self.output.weight = self.embedding.weight
        self.active_layers: int | None = None  # the first so many take part; None: all

    def embed(self, tokens_BU: Tensor) -> Tensor:
        positions_UD = self.positions(tokens_BU.shape[1], tokens_BU.device)
        x_BUD = self.embedding(tokens_BU) * self.scale
        return self.dropout(x_BUD if positions_UD is None else x_BUD + positions_UD)

    def positions(self, length: int, device: torch.device) -> Tensor | None:
        """What is added to the embeddings of the first `length` tokens, (length, D)."""
        if self.config.decoder_positions == "none":
            return None
        table_UD = sinusoids(length, self.config.d_model, device, self.config.first_position)
        return table_UD.to(self.embedding.weight.dtype)

    def forward(
        self, tokens_BU: Tensor, states_BSD: Tensor | None = None, state_lengths_B: Tensor | None = None
    ) -> Tensor:
        """Tokens that begin with SOS -> logits of the token after each, (B, U, V).

        Padding behind a sequence needs no mask: no earlier token can see it.
        """
        mask_B11S = None
        if states_BSD is not None and state_lengths_B is not None:
            mask_B11S = length_mask(state_lengths_B, states_BSD.shape[1])[:, None, None]
        x_BUD = self.embed(tokens_BU)
        for layer in self.stack:
            x_BUD = layer(x_BUD, states_BSD, mask_B11S)
        return self.output(self.norm(x_BUD))

    def lay_out_for_steps(self) -> None:
        """Turns each matrix in memory, input by input instead of output by output; values, shapes and names stay.

        A step is a product of a few rows with every weight, and takes as long as a CPU needs to read them: one of ours
        read 12 GB/s so, and 9 as they lay.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = module.weight.data.T.contiguous().T

    @property
    def stack(self) -> list[DecoderLayer]:
        """The layers that take part, by their own type."""
        return cast(list[DecoderLayer], list(self.layers)[: self.active_layers])

    def start(self, states_BSD: Tensor | None, state_lengths_B: Tensor | None, length: int) -> DecoderState:
        """The state before the first step of a search of at most `length` steps; a language model has no states."""
        cross, mask = [], None
        if states_BSD is not None and state_lengths_B is not None:
            attentions = [layer.cross_attention for layer in self.stack if layer.cross_attention is not None]
            projected = (attention.project(states_BSD) for attention in attentions)
            cross = [(key.contiguous(), value.contiguous()) for key, value in projected]
            valid_BS = length_mask(state_lengths_B, states_BSD.shape[1])
            if not bool(valid_BS.all()):  # a mask costs time at every step
                mask = valid_BS[:, None, None]
        positions_UD = self.positions(length, self.embedding.weight.device)
        return DecoderState(cross, mask, positions_UD, length, caches=[None] * len(self.layers))

    def step(self, tokens: Tensor, state: DecoderState, parents_BK: Tensor | None = None) -> Tensor:
        """The latest token of each hypothesis -> logits of the next; `state` moves on by one.

        Args:
            tokens: (B,), or (B, K) for K hypotheses of each utterance.
            parents_BK: which of the last step's hypotheses each one continues; None: each its own.

        Returns logits (B, V) or (B, K, V).
        """
        x_BKD = self.embedding(tokens.view(len(tokens), -1)) * self.scale
        if state.positions_UD is not None:
            x_BKD = x_BKD + state.positions_UD[state.position]
        mask = None if parents_BK is None else state.follow(parents_BK)
        for index, layer in enumerate(self.stack):
            x_BKD = layer.step(x_BKD, state, index, mask)
        state.position += 1
        return self.output(self.norm(x_BKD)).view(*tokens.shape, -1)
