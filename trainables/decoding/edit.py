"""Decoding of a transcript editor: a few passes of the editor over the draft.

Shapes: B batch, A audio positions, U tokens, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.models.editing.slots import TokenRows
from trainables.models.editing.transcript_editor import Draft, TranscriptEditor


@torch.inference_mode()
def edit(model: TranscriptEditor, draft: Draft, steps: int, max_tokens_B: Tensor | None = None) -> TokenRows:
    """Tokens of each utterance after `steps` editing steps; 0 gives the draft's.

    Encoder and projector run once, the editor once a step.

    Args:
        max_tokens_B: the largest number of tokens of each utterance after each step; None: no limit, though an editor
            that fills every slot doubles the text.
    """
    audio_BAD, audio_lengths_B = model.projector(draft.states, draft.lengths_B)
    tokens = model.tokens(draft)
    for _ in range(steps):
        tokens = model.step(audio_BAD, audio_lengths_B, tokens)
        if max_tokens_B is not None:
            tokens = tokens.cut(max_tokens_B)
    return tokens
