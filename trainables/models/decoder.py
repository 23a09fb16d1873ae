"""The pre-norm transformer decoder: all tokens at once in training, one at a time in a search.

Shapes: B batch, S encoder states, U tokens, Q queries (U tokens, or K hypotheses of an utterance in a search), D model
width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config.model import Model
from trainables.masking import length_mask, matmul_dtype, score_mask
from trainables.models.attention import Attend, CrossAttention, KeyValueCache, SelfAttention, causal, rotated
from trainables.models.kernels.dropout import NOTHING, Draws, draw_dropout
from trainables.models.layers import FeedForward, Residual, TokenEmbedding, make_norm
from trainables.models.positions import PositionTable, Rotation, make_rotation


@dataclass
class DecoderCache:
    """State of a decoder between the steps of a search.

    Attributes:
        cross: keys and values of the encoder's states, for each layer; empty in a language model.
        cross_mask: added to the scores of states, (B, 1, 1, S), 0 at valid ones; None: all are valid.
        positions_UD: position embeddings of all steps; None: no positions are added.
        rotation: rotary positions of all steps; None: there are none.
        layers: keys and values of the tokens, for each layer.
        position: number of steps so far.
        ancestors: (B, K, U, K), True if the slot (position, hypothesis) is in the history of a hypothesis.
    """

    cross: list[tuple[Tensor, Tensor]]
    cross_mask: Tensor | None
    positions_UD: Tensor | None
    rotation: Rotation | None
    layers: list[KeyValueCache]
    position: int = 0
    ancestors: Tensor | None = None

    def follow(self, parents_BK: Tensor) -> Tensor:
        """Gives each hypothesis the history of its parent, and adds its own new slot.

        Returns:
            The mask for self-attention, (B, 1, K, (position + 1) * K).
        """
        batch, beams = parents_BK.shape
        if self.ancestors is None:
            length = self.layers[0].length
            self.ancestors = torch.zeros(batch, beams, length, beams, dtype=torch.bool, device=parents_BK.device)
        row_B1 = torch.arange(batch, device=parents_BK.device)[:, None]
        self.ancestors = self.ancestors[row_B1, parents_BK]
        self.ancestors[:, :, self.position] = torch.eye(beams, dtype=torch.bool, device=parents_BK.device)
        return self.ancestors[:, None, :, : self.position + 1].flatten(3)


class DecoderLayer(nn.Module):
    """A decoder layer: self-attention, cross-attention (except in a language model), feed-forward."""

    def __init__(self, config: Model, cross_attention: bool) -> None:
        super().__init__()
        norm, width, epsilon = config.norm, config.d_model, config.norm_epsilon
        self.self_attention_norm = make_norm(norm, width, epsilon)
        self.self_attention = SelfAttention(config)
        self.cross_attention_norm = make_norm(norm if cross_attention else "none", width, epsilon)
        self.cross_attention = CrossAttention(config, config.states_width) if cross_attention else None
        self.feed_forward_norm = make_norm(norm, width, epsilon)
        self.feed_forward = FeedForward(config)
        self.residual = Residual(config, sublayers=3 if cross_attention else 2)

    def forward(
        self,
        x_BQD: Tensor,
        attend: Attend,
        key_value: tuple[Tensor, Tensor] | None = None,
        mask_B11S: Tensor | None = None,
        item_Q: Tensor | None = None,
        collected: list[Tensor] | None = None,
        draws: Draws = NOTHING,
    ) -> Tensor:
        """(B, Q, D) -> (B, Q, D), for all tokens (in training) or for the latest one of each hypothesis (in a search).

        Args:
            attend: kernel of the self-attention.
            key_value: from `CrossAttention.project`; None in a language model and in an editor.
            mask_B11S: added to the scores of states, 0 at valid ones; None: all are valid.
            item_Q: number of the utterance of each position of an editor's flat batch; None: a row is an utterance.
            collected: list to which the weights of the cross-attention are added; see `CrossAttention.forward`.
            draws: what dropout drew, from `draw_dropout`.
        """
        keep = self.residual.draw(x_BQD, item_Q)
        x_BQD = self.residual(x_BQD, self.self_attention(self.self_attention_norm(x_BQD), attend), keep, draws.kept[0])
        if self.cross_attention is not None and key_value is not None:
            cross_BQD = self.cross_attention(self.cross_attention_norm(x_BQD), key_value, mask_B11S, collected)
            x_BQD = self.residual(x_BQD, cross_BQD, keep, draws.kept[1])
        y_BQD = self.feed_forward(self.feed_forward_norm(x_BQD), draws.dropped[0])
        return self.residual(x_BQD, y_BQD, keep, draws.kept[-1])


class Decoder(nn.Module):
    """The decoder: token embedding, positions, M layers, final norm, output projection.

    Without cross-attention it is a language model, with the parameter names of a recogniser's decoder.
    """

    def __init__(self, config: Model, vocab_size: int, cross_attention: bool = True) -> None:
        super().__init__()
        self.config = config
        self.scale = (math.sqrt(config.d_model) if config.scale_embeddings else 1.0) * config.embedding_multiplier
        self.embedding = TokenEmbedding(vocab_size, config.d_model)
        self.table = PositionTable(config.decoder_positions, config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config, cross_attention) for _ in range(config.decoder_layers))
        self.norm = make_norm(config.norm, config.d_model, config.norm_epsilon)
        self.output = nn.Linear(config.d_model, vocab_size, bias=config.output_bias)
        if config.tied_embeddings:
            self.output.weight = self.embedding.weight
        self.active_layers: int | None = None  # number of active layers, from the first on; None: all

    @property
    def stack(self) -> list[DecoderLayer]:
        """The active layers."""
        return cast(list[DecoderLayer], list(self.layers)[: self.active_layers])

    def positions(self, length: int, start: int = 0) -> Tensor | None:
        """Position embeddings of `length` tokens from number `start` on, (length, D); None: no positions are added."""
        weight = self.embedding.weight
        table_UD = self.table(length, weight.device, start)
        return None if table_UD is None else table_UD.to(weight.dtype)

    def rotation(self, length: int, start: int = 0) -> Rotation | None:
        """Rotary positions of `length` tokens from number `start` on; None: there are none."""
        return make_rotation(self.config.decoder_positions, length, self.config, self.embedding.weight.device, start)

    def forward(
        self,
        tokens_BU: Tensor,
        states_BSD: Tensor | None = None,
        state_lengths_B: Tensor | None = None,
        collected: list[Tensor] | None = None,
    ) -> Tensor:
        """Tokens (B, U), the first of which is SOS -> logits (B, U, V) of the token after each.

        Padding after a sequence needs no mask, since attention is causal.

        Args:
            collected: list to which the weights (B, H, U, S) of the last active layer's cross-attention are added.
        """
        mask_B11S = None
        if states_BSD is not None and state_lengths_B is not None:
            mask_B11S = score_mask(state_lengths_B, states_BSD.shape[1], matmul_dtype(states_BSD))
        x_BUD = self.embedding(tokens_BU)
        positions_UD = self.table(tokens_BU.shape[1], tokens_BU.device, kept=self.training)
        if positions_UD is None:
            x_BUD = self.dropout(x_BUD * self.scale)
        else:
            x_BUD = self.dropout(torch.add(positions_UD, x_BUD, alpha=self.scale))
        attend = rotated(causal, self.rotation(tokens_BU.shape[1]))
        stack = self.stack
        key_values = [None] * len(stack) if states_BSD is None else self.project(states_BSD)
        drawn = draw_dropout(stack, x_BUD)
        for layer, key_value, draws in zip(stack, key_values, drawn, strict=True):
            last = collected if layer is stack[-1] else None
            x_BUD = layer(x_BUD, attend, key_value, mask_B11S, collected=last, draws=draws)
        return self.logits(x_BUD)

    def project(self, states_BSD: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """Keys and values of the encoder's states for each active layer, by one matrix product for all layers.

        All active layers have cross-attention, or none has it: then each gets None.
        """
        attentions = [layer.cross_attention for layer in self.stack if layer.cross_attention is not None]
        if not attentions:
            return [None] * len(self.stack)
        layers = [attention.key_value for attention in attentions]
        weights: list[Tensor] = [layer.weight for layer in layers]
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        joined_BSW = F.linear(states_BSD, torch.cat(weights), torch.cat(biases) if biases else None)
        parts = joined_BSW.chunk(2 * len(layers), dim=-1)
        return [
            attention.split(key, value)
            for attention, key, value in zip(attentions, parts[::2], parts[1::2], strict=True)
        ]

    def logits(self, x_BUD: Tensor) -> Tensor:
        """Output of the last layer (B, U, D) -> logits over tokens (B, U, V)."""
        logits_BUV = self.output(self.norm(x_BUD))
        return logits_BUV if self.config.logits_scaling == 1 else logits_BUV / self.config.logits_scaling

    def start(self, states_BSD: Tensor | None, state_lengths_B: Tensor | None, length: int) -> DecoderCache:
        """The cache before the first step of a search.

        Args:
            states_BSD, state_lengths_B: the encoder's states and their number; None for a language model.
            length: the largest number of steps.
        """
        cross, mask_B11S = [], None
        if states_BSD is not None and state_lengths_B is not None:
            attentions = [layer.cross_attention for layer in self.stack if layer.cross_attention is not None]
            projected = (attention.project(states_BSD) for attention in attentions)
            cross = [(key.contiguous(), value.contiguous()) for key, value in projected]
            valid_BS = length_mask(state_lengths_B, states_BSD.shape[1])
            if not bool(valid_BS.all()):  # a mask costs time at every step
                mask_B11S = score_mask(state_lengths_B, states_BSD.shape[1], matmul_dtype(states_BSD))
        layers = [KeyValueCache(length) for _ in self.stack]
        return DecoderCache(cross, mask_B11S, self.positions(length), self.rotation(length), layers)

    def step(self, tokens: Tensor, cache: DecoderCache, parents_BK: Tensor | None = None) -> Tensor:
        """The latest token of each hypothesis -> logits of the next one, (B, V) or (B, K, V). Extends `cache`.

        Args:
            tokens: (B,), or (B, K) for K hypotheses of each utterance.
            parents_BK: index of the hypothesis of the last step that each one continues; None: its own.
        """
        x_BKD = self.embedding(tokens.view(len(tokens), -1)) * self.scale
        if cache.positions_UD is not None:
            x_BKD = x_BKD + cache.positions_UD[cache.position]
        mask = None if parents_BK is None else cache.follow(parents_BK)
        for index, layer in enumerate(self.stack):
            key_value = cache.cross[index] if cache.cross else None
            x_BKD = layer(x_BKD, cache.layers[index].attend(mask, cache.rotation), key_value, cache.cross_mask)
        cache.position += 1
        return self.logits(x_BKD).view(*tokens.shape, -1)

    def lay_out_for_steps(self) -> None:
        """Stores each weight matrix input by input instead of output by output; values, shapes and names stay.

        A step multiplies a few rows by every weight, so its time is that of reading the weights: on one CPU, 12 GB/s in
        this layout, and 9 GB/s in torch's.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = module.weight.data.T.contiguous().T
