"""What every search knows of the tokens: which are never said, and what it costs to say one again."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.data.text.tokenizer import BLANK, EOS, PAD, SOS, UNK

SUPPRESSED_TOKENS = [PAD, SOS, BLANK, UNK]  # tokens that stand for no text


def steps_between_checks(device: torch.device) -> int:
    """How often a search asks whether it has ended: a GPU would have to wait for the answer."""
    return 1 if device.type == "cpu" else 8


def penalize(scores: Tensor, said: Tensor, penalty: float) -> Tensor:
    """Scores (..., V) in which each token of `said` (..., U) loses by a factor, however often it was said.

    A score above 0 is divided by the penalty, one below is multiplied (Keskar et al., 2019, arXiv 1909.05858, section
    4.1, with the sign respected as in transformers' RepetitionPenaltyLogitsProcessor).
    """
    if penalty == 1 or said.shape[-1] == 0:
        return scores
    found = scores.gather(-1, said)
    return scores.scatter(-1, said, torch.where(found > 0, found / penalty, found * penalty))


def until_eos(tokens: list[int]) -> list[int]:
    """What stands before the first EOS."""
    return tokens[: tokens.index(EOS)]
