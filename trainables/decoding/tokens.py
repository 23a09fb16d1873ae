"""Token handling of all searches: suppressed tokens, the penalty on repetition, the end of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.data.text.tokenizer import BLANK, EOS, PAD, SOS, UNK

LONGEST_CYCLE, CYCLES, SHORTEST_REPETITION = 8, 8, 16  # tokens, and times
STEPS_BETWEEN_REPETITIONS = 8
SUPPRESSED_TOKENS = [PAD, SOS, BLANK, UNK]  # tokens that stand for no text


def steps_between_checks(device: torch.device) -> int:
    """Number of steps between two checks whether a search has ended; a check makes a GPU wait."""
    return 1 if device.type == "cpu" else 8


def penalize(scores: Tensor, previous: Tensor, penalty: float) -> Tensor:
    """Scores (..., V) with a penalty on tokens that occur in `previous` (..., U) at least once.

    A score above 0 is divided by the penalty, one below is multiplied (Keskar et al., 2019, arXiv 1909.05858, section
    4.1, with the sign respected as in transformers' RepetitionPenaltyLogitsProcessor).
    """
    if penalty == 1 or previous.shape[-1] == 0:
        return scores
    found = scores.gather(-1, previous)
    return scores.scatter(-1, previous, torch.where(found > 0, found / penalty, found * penalty))


def repeats(tokens_BU: Tensor) -> Tensor:
    """Whether a sequence has come to nothing but repetition, as those of an untrained model do, (B,).

    Its end is then one to `LONGEST_CYCLE` tokens over and over, `CYCLES` times and for `SHORTEST_REPETITION` tokens at
    least. This depends on no other sequence of the batch.
    """
    found_B = torch.zeros(len(tokens_BU), dtype=torch.bool, device=tokens_BU.device)
    for cycle in range(1, LONGEST_CYCLE + 1):
        width = max(SHORTEST_REPETITION, CYCLES * cycle)
        if width <= tokens_BU.shape[1]:
            tail_BU = tokens_BU[:, -width:]
            found_B |= (tail_BU[:, cycle:] == tail_BU[:, :-cycle]).all(1)
    return found_B


def until_eos(tokens: list[int]) -> list[int]:
    """The tokens before the first EOS.

    Raises:
        ValueError: there is no EOS.
    """
    return tokens[: tokens.index(EOS)]
