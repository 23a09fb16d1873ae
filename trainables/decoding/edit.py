"""Decoding of a transcript editor: a few passes of the editor over the draft.

Shapes: B batch, A audio positions, U tokens, D model width.
"""

from __future__ import annotations

import torch

from trainables.models.editing.slots import TokenRows
from trainables.models.editing.transcript_editor import Draft, TranscriptEditor


@torch.inference_mode()
def edit(model: TranscriptEditor, draft: Draft, steps: int) -> TokenRows:
    """Tokens of each utterance after `steps` editing steps; 0 gives the draft's.

    Encoder and projector run once, the editor once a step.
    """
    audio_BAD, audio_lengths_B = model.projector(draft.states, draft.lengths_B)
    tokens = model.tokens(draft)
    for _ in range(steps):
        tokens = model.edit(audio_BAD, audio_lengths_B, tokens)
    return tokens
