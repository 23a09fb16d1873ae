"""From encoder states to token sequences: greedy attention decoding and greedy CTC.

Shapes: B batch, S subsampled frames, U tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.data.tokenizer import BLANK, EOS, PAD, SOS, UNK
from trainables.masking import length_mask
from trainables.models.decoder import Decoder

NEVER_SAID = [PAD, SOS, BLANK, UNK]  # tokens that stand for no text
STEPS_BETWEEN_CHECKS = 8  # asking whether all have ended makes a GPU wait


@torch.no_grad()
def greedy(decoder: Decoder, states_BSD: Tensor, state_lengths_B: Tensor, max_tokens_B: Tensor) -> list[list[int]]:
    """The likeliest next token until EOS, one sequence an utterance, without SOS and EOS.

    `max_tokens_B` ends a hypothesis that finds no end of its own.
    """
    steps = int(max_tokens_B.max())
    state = decoder.start(states_BSD, state_lengths_B, steps + 1)
    tokens_BU = torch.full((len(states_BSD), steps + 1), EOS, device=states_BSD.device)
    latest_B = torch.full_like(tokens_BU[:, 0], SOS)
    ended_B = max_tokens_B <= 0
    never_said_V = torch.zeros(decoder.output.out_features, device=states_BSD.device)
    never_said_V[NEVER_SAID] = -torch.inf
    for step in range(steps):
        if step % STEPS_BETWEEN_CHECKS == 0 and bool(ended_B.all()):
            break
        latest_B = torch.where(ended_B, EOS, (decoder.step(latest_B, state) + never_said_V).argmax(-1))
        tokens_BU[:, step] = latest_B
        ended_B = ended_B | (latest_B == EOS) | (step + 1 >= max_tokens_B)
    return [row[: row.index(EOS)] for row in tokens_BU.tolist()]


@torch.no_grad()
def ctc_greedy(ctc_logits_BSV: Tensor, state_lengths_B: Tensor) -> list[list[int]]:
    """The likeliest token of each state, repeats merged, blanks dropped (Graves et al., 2006, section 3.2)."""
    best_BS = ctc_logits_BSV.argmax(-1)
    best_BS = torch.where(length_mask(state_lengths_B, best_BS.shape[1]), best_BS, BLANK)
    previous_BS = torch.cat([torch.full_like(best_BS[:, :1], BLANK), best_BS[:, :-1]], dim=1)
    spoken_BS = (best_BS != previous_BS) & (best_BS != BLANK)
    return [row[keep].tolist() for row, keep in zip(best_BS.cpu(), spoken_BS.cpu(), strict=True)]
