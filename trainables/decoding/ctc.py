"""Searches with CTC alone: greedy, and prefix beam search.

Shapes: B utterances, S encoder states, K prefixes (beams), C tokens that may extend them, N = K x C, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.data.text.tokenizer import BLANK, EOS
from trainables.decoding.search import Hypotheses
from trainables.decoding.tokens import SUPPRESSED_TOKENS
from trainables.masking import length_mask
from trainables.models.editing.slots import collapse

# The hash of a prefix with one token more is hash x HASH_FACTOR + token, modulo 2^64. The factor is an odd random
# number: two of the few prefixes of an utterance have the same hash with a probability of about 2^-64.
HASH_FACTOR = 6364136223846793005
NO_PARENT = -1


@torch.inference_mode()
def ctc_greedy(ctc_logits_BSV: Tensor, state_lengths_B: Tensor) -> list[list[int]]:
    """The likeliest token of each state, repeats merged, blanks dropped (Graves et al., 2006, section 3.2)."""
    best_BS = ctc_logits_BSV.index_fill(-1, _suppressed(ctc_logits_BSV.device), -torch.inf).argmax(-1)
    return collapse(best_BS, state_lengths_B, BLANK).lists()


@torch.inference_mode()
def ctc_beam(ctc_logits_BSV: Tensor, state_lengths_B: Tensor, beam: int) -> Hypotheses:
    """Prefix beam search (Graves and Jaitly, 2014, algorithm 1; Hannun et al., 2014, arXiv 1408.2873).

    After each state it keeps the `beam` prefixes with the highest probability, summed over all kept alignments.

    Only the 2 K + 1 likeliest tokens of a state can extend a prefix: no other can be among the K best, since one of
    them repeats the prefix's last token (which scores less), and at most K extensions are prefixes in the beam already.
    """
    batch, states, vocabulary = ctc_logits_BSV.shape
    device = ctc_logits_BSV.device
    valid_BS = length_mask(state_lengths_B, states)
    log_probs_BSV = ctc_logits_BSV.float().log_softmax(-1)
    # After the end of an utterance, a blank has probability 1.
    blanks_BS = log_probs_BSV[..., BLANK].masked_fill(~valid_BS, 0.0)
    log_probs_BSV[..., BLANK] = -torch.inf
    log_probs_BSV.index_fill_(-1, _suppressed(device), -torch.inf)
    log_probs_BSV.masked_fill_(~valid_BS[..., None], -torch.inf)
    scores_BSC, ids_BSC = log_probs_BSV.topk(min(2 * beam + 1, vocabulary))
    prefixes = Prefixes.empty(batch, beam, device)
    new_SBK, origin_SBK = [], []
    for state in range(states):
        last_BK = log_probs_BSV[:, state].gather(1, prefixes.last_BK)
        new_BK, origin_BK = prefixes.advance(blanks_BS[:, state], last_BK, scores_BSC[:, state], ids_BSC[:, state])
        new_SBK.append(new_BK)
        origin_SBK.append(origin_BK)
    scores_BK, place_BK = prefixes.scores().sort(descending=True)
    return Hypotheses(_trace_back(new_SBK, origin_SBK, place_BK), scores_BK)


@dataclass
class Prefixes:
    """The K different prefixes of each utterance.

    Args:
        blank_BK, token_BK: log-probability of all alignments that end in a blank, and in the prefix's last token.
        last_BK: last token of the prefix; a blank for the empty prefix.
        hash_BK, parent_BK: hashes of the prefix, and of the prefix without its last token.
    """

    blank_BK: Tensor
    token_BK: Tensor
    last_BK: Tensor
    hash_BK: Tensor
    parent_BK: Tensor

    @classmethod
    def empty(cls, batch: int, beam: int, device: torch.device) -> Prefixes:
        """The empty prefix and K - 1 unused places (probability 0) for each utterance."""
        blank_BK = torch.full((batch, beam), -torch.inf, device=device)
        blank_BK[:, 0] = 0.0
        last_BK = torch.full((batch, beam), BLANK, device=device)
        none_BK = torch.full_like(last_BK, NO_PARENT)
        return cls(blank_BK, torch.full_like(blank_BK, -torch.inf), last_BK, torch.zeros_like(last_BK), none_BK)

    def scores(self) -> Tensor:
        """Log-probabilities, (B, K)."""
        return torch.logaddexp(self.blank_BK, self.token_BK)

    def advance(self, blank_B: Tensor, repeat_BK: Tensor, scores_BC: Tensor, ids_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Replaces the prefixes by the K best ones after one more state.

        Args:
            blank_B, repeat_BK, scores_BC: the state's log-probabilities of a blank, of each prefix's last token, and of
                the tokens `ids_BC`.

        Returns:
            New token of each prefix (a blank if there is none), and index of the prefix that it extends, (B, K) each.
        """
        beam, count = repeat_BK.shape[1], ids_BC.shape[1]
        either_BK = self.scores()
        # If the beam has a prefix and its parent, extending the parent adds to the prefix: [b, parent, child].
        child_BKK = self.hash_BK[:, :, None] == self.parent_BK[:, None]
        repeats_BKK = self.last_BK[:, :, None] == self.last_BK[:, None]
        joins_BKK = torch.where(repeats_BKK, self.blank_BK[:, :, None], either_BK[:, :, None]) + repeat_BK[:, None]
        joins_BK = torch.where(child_BKK, joins_BKK, -torch.inf).amax(1)
        stays_blank_BK = either_BK + blank_B[:, None]
        stays_token_BK = torch.logaddexp(self.token_BK + repeat_BK, joins_BK)

        repeats_BKC = self.last_BK[:, :, None] == ids_BC[:, None]
        grown_BKC = torch.where(repeats_BKC, self.blank_BK[:, :, None], either_BK[:, :, None]) + scores_BC[:, None]
        present_BKC = (child_BKK[..., None] & (self.last_BK[:, None, :, None] == ids_BC[:, None, None])).any(2)
        grown_BN = grown_BKC.masked_fill(present_BKC, -torch.inf).flatten(1)

        stays_BK = torch.logaddexp(stays_blank_BK, stays_token_BK)
        best_BK, place_BK = torch.cat([stays_BK, grown_BN], 1).topk(beam)
        grows_BK, growth_BK = place_BK >= beam, (place_BK - beam).clamp(min=0)
        origin_BK = torch.where(grows_BK, growth_BK // count, place_BK)
        new_BK = torch.where(grows_BK, ids_BC.gather(1, growth_BK % count), BLANK)
        self.blank_BK = stays_blank_BK.gather(1, origin_BK).masked_fill(grows_BK, -torch.inf)
        self.token_BK = torch.where(grows_BK, grown_BN.gather(1, growth_BK), stays_token_BK.gather(1, origin_BK))
        self.last_BK = torch.where(grows_BK, new_BK, self.last_BK.gather(1, origin_BK))
        before_BK = self.hash_BK.gather(1, origin_BK)
        self.parent_BK = torch.where(grows_BK, before_BK, self.parent_BK.gather(1, origin_BK))
        # A place of probability 0 must not become a second copy of a prefix when its parent is extended.
        self.parent_BK = self.parent_BK.masked_fill(best_BK == -torch.inf, NO_PARENT)
        self.hash_BK = torch.where(grows_BK, before_BK * HASH_FACTOR + new_BK, before_BK)
        return new_BK, origin_BK


def _suppressed(device: torch.device) -> Tensor:
    """Tokens that a CTC transcript cannot have, except for the blank."""
    return torch.tensor([EOS, *(token for token in SUPPRESSED_TOKENS if token != BLANK)], device=device)


def _trace_back(new_SBK: list[Tensor], origin_SBK: list[Tensor], place_BK: Tensor) -> Tensor:
    """The tokens of the prefixes numbered `place_BK` after the last state, filled up with EOS, (B, K, S + 1).

    Args:
        new_SBK, origin_SBK: from `Prefixes.advance`, for each state.
    """
    found = [torch.full_like(place_BK, EOS)]
    for new_BK, origin_BK in zip(reversed(new_SBK), reversed(origin_SBK), strict=True):
        found.append(new_BK.gather(1, place_BK))
        place_BK = origin_BK.gather(1, place_BK)
    found_BKS = torch.stack(found[::-1], -1)
    # Moves blanks to the end; the other tokens keep their order.
    order_BKS = (found_BKS == BLANK).to(torch.int8).argsort(dim=-1, stable=True)
    found_BKS = found_BKS.gather(-1, order_BKS)
    return torch.where(found_BKS == BLANK, EOS, found_BKS)
