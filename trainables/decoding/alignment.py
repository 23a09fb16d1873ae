"""Times of the tokens of a text: the likeliest CTC alignment (forced alignment).

Shapes: B utterances, S encoder states, R repeated states, U tokens, L = 2 U + 1 labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainables.data.text.tokenizer import BLANK
from trainables.masking import length_mask

Span = tuple[float, float]  # a token's first state, and the state after its last


class Word(NamedTuple):
    """A word with its start and end in seconds, and the probability that it is right; None: it is not known."""

    text: str
    start: float
    end: float
    confidence: float | None = None


@torch.inference_mode()
def ctc_align(ctc_logits_BSV: Tensor, state_lengths_B: Tensor, tokens: Sequence[Sequence[int]]) -> list[list[Span]]:
    """The states of each token of each text on the likeliest alignment.

    Viterbi's algorithm over the labels of Graves et al. (2006, section 4.1): the tokens with a blank before, between
    and behind them. A path stays or moves on by one label; it may skip a blank between two different tokens.

    If a text has more tokens than the utterance has states, each state is repeated as often as needed, and spans are
    fractions of states.
    """
    device = ctc_logits_BSV.device
    repeats = [
        max(1, -(-(len(row) + sum(one == next for one, next in pairwise(row))) // length))
        for row, length in zip(tokens, state_lengths_B.tolist(), strict=True)
    ]
    repeats_B = torch.tensor(repeats, device=device)
    lengths_B = state_lengths_B * repeats_B
    labels = [torch.tensor([BLANK, *(label for token in row for label in (token, BLANK))]) for row in tokens]
    labels_BL = pad_sequence(labels, batch_first=True, padding_value=BLANK).to(device)
    scores_BSV = ctc_logits_BSV.float()
    scores_BSL = scores_BSV.take_along_dim(labels_BL[:, None], 2) - scores_BSV.logsumexp(-1, keepdim=True)
    state_BR = torch.arange(int(lengths_B.max()), device=device) // repeats_B[:, None]
    scores_BRL = scores_BSL.take_along_dim(state_BR.clamp(max=scores_BSL.shape[1] - 1)[..., None], 1)
    last_B = torch.tensor([len(row) - 1 for row in labels], device=device)
    path_BR = _likeliest_path(scores_BRL, lengths_B, labels_BL, last_B).cpu().numpy()
    return [
        _spans(path[:length], len(row), repeat)
        for path, length, row, repeat in zip(path_BR, lengths_B.tolist(), tokens, repeats, strict=True)
    ]


def _likeliest_path(scores_BRL: Tensor, lengths_B: Tensor, labels_BL: Tensor, last_B: Tensor) -> Tensor:
    """Index of the label at each state on the likeliest path, (B, R).

    Args:
        scores_BRL: log-probabilities of the labels.
        last_B: index of the last label, a blank; a path ends there or one label before.
    """
    barred_BL = torch.ones_like(labels_BL, dtype=torch.bool)
    barred_BL[:, 2:] = (labels_BL[:, 2:] == BLANK) | (labels_BL[:, 2:] == labels_BL[:, :-2])
    best_BL = torch.full_like(scores_BRL[:, 0], -torch.inf)
    best_BL[:, :2] = scores_BRL[:, 0, :2]
    valid_BR = length_mask(lengths_B, scores_BRL.shape[1])
    moves_RBL = torch.zeros(scores_BRL.shape[1], *best_BL.shape, dtype=torch.int8, device=best_BL.device)
    for state in range(1, scores_BRL.shape[1]):
        before_BL = torch.nn.functional.pad(best_BL, (2, 0), value=-torch.inf)
        choices_3BL = torch.stack([best_BL, before_BL[:, 1:-1], before_BL[:, :-2].masked_fill(barred_BL, -torch.inf)])
        chosen_BL, moves_BL = choices_3BL.max(0)
        valid_B1 = valid_BR[:, state, None]  # behind an utterance's end the path stays
        best_BL = torch.where(valid_B1, chosen_BL + scores_BRL[:, state], best_BL)
        moves_RBL[state] = moves_BL.masked_fill(~valid_B1, 0)
    ends_B2 = torch.stack([last_B, (last_B - 1).clamp(min=0)], 1)
    place_B1 = ends_B2.gather(1, best_BL.gather(1, ends_B2).argmax(1, keepdim=True))
    path = [place_B1]
    for moves_BL in reversed(moves_RBL[1:].unbind()):
        path.append(path[-1] - moves_BL.gather(1, path[-1]))
    return torch.cat(path[::-1], 1)


def _spans(path: np.ndarray, tokens: int, repeats: int) -> list[Span]:
    """The span of each token in a path of non-decreasing labels; token number n has label 2 n + 1."""
    labels = 2 * np.arange(tokens) + 1
    first, behind = np.searchsorted(path, labels, "left"), np.searchsorted(path, labels, "right")
    return list(zip((first / repeats).tolist(), (behind / repeats).tolist(), strict=True))
