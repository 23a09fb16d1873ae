"""Greedy attention decoding.

Shapes: B batch, S encoder states, U tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.data.text.tokenizer import EOS, SOS
from trainables.decoding.tokens import (
    STEPS_BETWEEN_REPETITIONS,
    SUPPRESSED_TOKENS,
    penalize,
    repeats,
    steps_between_checks,
    until_eos,
)
from trainables.models.decoder import Decoder


@torch.inference_mode()
def greedy(
    decoder: Decoder,
    states_BSD: Tensor,
    state_lengths_B: Tensor,
    max_tokens_B: Tensor,
    repeat_penalty: float = 1.0,
    ends_repetition: bool = False,
) -> list[list[int]]:
    """Takes the likeliest next token until EOS; returns one sequence for each utterance, without SOS and EOS.

    Args:
        max_tokens_B: the largest number of tokens of each utterance, EOS included.
        repeat_penalty: on the logits of tokens that the hypothesis already has (see `penalize`).
        ends_repetition: whether a hypothesis ends when it does nothing but repeat (see `repeats`).
    """
    steps = int(max_tokens_B.max())
    cache = decoder.start(states_BSD, state_lengths_B, steps)
    tokens_BU = torch.full((len(states_BSD), steps + 1), EOS, device=states_BSD.device)
    latest_B = torch.full_like(tokens_BU[:, 0], SOS)
    ended_B = max_tokens_B <= 0
    suppressed = torch.tensor(SUPPRESSED_TOKENS, device=states_BSD.device)
    interval = steps_between_checks(states_BSD.device)
    for step in range(steps):
        if step % interval == 0 and bool(ended_B.all()):
            break
        logits_BV = penalize(decoder.step(latest_B, cache), tokens_BU[:, :step], repeat_penalty)
        latest_B = torch.where(ended_B, EOS, logits_BV.index_fill_(-1, suppressed, -torch.inf).argmax(-1))
        tokens_BU[:, step] = latest_B
        ended_B = ended_B | (latest_B == EOS) | (step + 1 >= max_tokens_B)
        if ends_repetition and (step + 1) % STEPS_BETWEEN_REPETITIONS == 0:
            ended_B = ended_B | repeats(tokens_BU[:, : step + 1])
    return [until_eos(row) for row in tokens_BU.tolist()]
