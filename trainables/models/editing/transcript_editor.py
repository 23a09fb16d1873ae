"""The transcript editor: an encoder drafts the text with CTC, and a bidirectional editor corrects all of it at once.

Shapes: B batch, T frames, S encoder states (subsampled frames), P pooled states, A audio positions, C characters and
the blank, U tokens, N' text positions of all items together, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.config.model import Model
from trainables.data.text.tokenizer import BLANK, SPECIAL_IDS
from trainables.models.editing.draft import MidHead, Pooling
from trainables.models.editing.editor import Editor, unflattened
from trainables.models.editing.projector import Projector, layers_read
from trainables.models.editing.slots import TokenRows, collapse, interleave
from trainables.models.encoder import Encoder
from trainables.models.kernels.dropout import draw_dropout
from trainables.models.layers import OwnDropout, initialize

SUPPRESSED = tuple(token for token in SPECIAL_IDS if token != BLANK)  # tokens that stand for no text


Revise = Callable[[TokenRows], TokenRows]


class Draft(NamedTuple):
    """Encoder states and the logits of both CTC heads.

    Attributes:
        states: states (B, S, D) of each layer that the projector reads.
        lengths_B: their number for each utterance.
        mid_logits_BSC: logits of the mid head; blank 0, then characters.
        logits_BPV: CTC logits of the draft.
        pooled_lengths_B: number of pooled states of each utterance.
    """

    states: list[Tensor]
    lengths_B: Tensor
    mid_logits_BSC: Tensor
    logits_BPV: Tensor
    pooled_lengths_B: Tensor


class Edited(NamedTuple):
    """A draft and one editing step.

    Attributes:
        positions: the editor's text positions, tokens and slots.
        logits_NV: its logits at the N' text positions of all utterances, one utterance behind the other.
    """

    draft: Draft
    positions: TokenRows
    logits_NV: Tensor


class TranscriptEditor(nn.Module):
    """Encoder with a mid head, pooling, a head for the draft, projector, editor.

    Args:
        characters: size of the mid head's vocabulary, without its blank.
        slot: the token of slots, which is also the blank of the draft and of the edited text.
        suppressed: tokens that no text has.
    """

    def __init__(
        self,
        config: Model,
        vocab_size: int,
        characters: int,
        num_feats: int,
        slot: int = BLANK,
        suppressed: Sequence[int] = SUPPRESSED,
    ) -> None:
        super().__init__()
        self.config, self.slot, self.suppressed = config, slot, list(suppressed)
        self.encoder = Encoder(config, num_feats)
        self.mid_head = MidHead(config.mid_head, config.d_model, characters)
        self.pooling = Pooling(config.pooling)
        self.head_dropout = OwnDropout(config.mid_head.dropout)
        self.ctc_head = nn.Linear(config.d_model, vocab_size)
        self.projector = Projector(config)
        self.editor = Editor(config, vocab_size)
        initialize(self)

    def forward(
        self,
        features_BTF: Tensor,
        lengths_B: Tensor,
        revise: Revise | None = None,
        weights_B: Tensor | None = None,
    ) -> Edited:
        """Normalised features and frames per utterance -> the draft and the logits of one editing step.

        Args:
            revise: gives the tokens to edit in place of the draft's; None: those of the draft.
            weights_B: weight of each utterance in training, 0 for those that only fill the batch; None: all count.
        """
        return self.edited(self.encode(features_BTF, lengths_B, weights_B), revise)

    def edited(self, draft: Draft, revise: Revise | None = None) -> Edited:
        """A draft and the logits of one editing step on it.

        Args:
            revise: gives the tokens to edit in place of the draft's; None: those of the draft.
        """
        audio_BAD, audio_lengths_B = self.projector(draft.states, draft.lengths_B)
        tokens = self.tokens(draft)
        positions = self.positions(tokens if revise is None else revise(tokens))
        return Edited(draft, positions, self.editor(*self.editor.join(audio_BAD, audio_lengths_B, positions)))

    def encode(self, features_BTF: Tensor, lengths_B: Tensor, weights_B: Tensor | None = None) -> Draft:
        """Normalised features and frames per utterance -> states and the logits of both heads.

        Args:
            weights_B: weight of each utterance in training, 0 for those that only fill the batch; None: all count.
        """
        x_BSD, context = self.encoder.embed(features_BTF, lengths_B, weights_B)
        stack = self.encoder.stack
        middle = min(self.config.mid_head.layer or max(1, self.config.encoder_layers // 2), len(stack))
        by_layer = {0: x_BSD}
        drawn = draw_dropout(stack, x_BSD)
        for number, (layer, draws) in enumerate(zip(stack, drawn, strict=True), start=1):
            x_BSD = layer(x_BSD, context, draws)
            if number == middle:
                x_BSD, mid_logits_BSC = self.mid_head(x_BSD)
            if number == len(stack):
                x_BSD = self.encoder.norm(x_BSD)
            by_layer[number] = x_BSD
        pooled_BPD, pooled_lengths_B = self.pooling(x_BSD, mid_logits_BSC, context.lengths_B)
        return Draft(
            [by_layer[number] for number in layers_read(self.config, len(stack))],
            context.lengths_B,
            mid_logits_BSC,
            self.ctc_head(self.head_dropout(pooled_BPD)).float(),
            pooled_lengths_B,
        )

    def ctc_logits(self, draft: Draft) -> tuple[Tensor, Tensor]:
        """CTC logits of the draft (B, P, V) in float32, and their number for each utterance (B,)."""
        return draft.logits_BPV, draft.pooled_lengths_B

    def tokens(self, draft: Draft) -> TokenRows:
        """Tokens of the draft by greedy CTC."""
        return collapse(self.best(draft.logits_BPV), draft.pooled_lengths_B, self.slot)

    def best(self, logits: Tensor) -> Tensor:
        """The likeliest token at each position, (..., V) -> (...)."""
        suppressed = torch.tensor(self.suppressed, device=logits.device, dtype=torch.long)
        return logits.detach().index_fill(-1, suppressed, -torch.inf).argmax(-1)

    def positions(self, tokens: TokenRows) -> TokenRows:
        """The editor's text positions for tokens, with slots around each."""
        return interleave(tokens, self.slot, self.config.slots.minimum)

    @torch.no_grad()
    def step(self, audio_BAD: Tensor, audio_lengths_B: Tensor, tokens: TokenRows) -> TokenRows:
        """One editing step: tokens -> tokens, by one forward pass of the editor.

        Args:
            audio_BAD, audio_lengths_B: from `self.projector`.
        """
        positions = self.positions(tokens)
        return self.collapsed(self.editor(*self.editor.join(audio_BAD, audio_lengths_B, positions)), positions)

    def collapsed(self, logits_NV: Tensor, positions: TokenRows) -> TokenRows:
        """Tokens that the editor's logits at its text positions stand for."""
        return collapse(unflattened(self.best(logits_NV), positions), positions.lengths_B, self.slot)
