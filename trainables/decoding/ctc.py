"""CTC alone: greedy, and prefix beam search.

Shapes: B utterances, S subsampled frames, K prefixes (beams), C tokens that extend them, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.data.text.tokenizer import BLANK, EOS
from trainables.decoding.search import Hypotheses
from trainables.decoding.tokens import SUPPRESSED_TOKENS
from trainables.masking import length_mask

# Hashes of prefixes grow as hash x HASH_FACTOR + token, modulo 2^64; the factor is an odd random number. Two of the few
# prefixes of one utterance have one hash by a chance of about 2^-64.
HASH_FACTOR = 6364136223846793005
NO_PARENT = -1


@torch.inference_mode()
def ctc_greedy(ctc_logits_BSV: Tensor, state_lengths_B: Tensor) -> list[list[int]]:
    """The likeliest token of each state, repeats merged, blanks dropped (Graves et al., 2006, section 3.2)."""
    best_BS = ctc_logits_BSV.index_fill(-1, _unspoken(ctc_logits_BSV.device), -torch.inf).argmax(-1)
    best_BS = torch.where(length_mask(state_lengths_B, best_BS.shape[1]), best_BS, BLANK)
    previous_BS = torch.cat([torch.full_like(best_BS[:, :1], BLANK), best_BS[:, :-1]], dim=1)
    spoken_BS = (best_BS != previous_BS) & (best_BS != BLANK)
    return [row[keep].tolist() for row, keep in zip(best_BS.cpu(), spoken_BS.cpu(), strict=True)]


@torch.inference_mode()
def ctc_beam(ctc_logits_BSV: Tensor, state_lengths_B: Tensor, beam: int) -> Hypotheses:
    """Prefix beam search (Graves and Jaitly, 2014, algorithm 1; Hannun et al., 2014, arXiv 1408.2873): after each state
    the `beam` prefixes with the highest probability, summed over all alignments that the search has kept.

    Only the 2 K + 1 likeliest tokens of a state can extend a prefix: no others can be among the K best. For one prefix
    repeats its last token (which scores less), and at most K extensions are prefixes that the beam already holds.
    """
    batch, states, vocabulary = ctc_logits_BSV.shape
    device = ctc_logits_BSV.device
    valid_BS = length_mask(state_lengths_B, states)
    log_probs_BSV = ctc_logits_BSV.float().log_softmax(-1)
    # Behind an utterance's end nothing is said: a blank, for certain.
    blanks_BS = log_probs_BSV[..., BLANK].masked_fill(~valid_BS, 0.0)
    log_probs_BSV[..., BLANK] = -torch.inf
    log_probs_BSV.index_fill_(-1, _unspoken(device), -torch.inf)
    log_probs_BSV.masked_fill_(~valid_BS[..., None], -torch.inf)
    scores_BSC, ids_BSC = log_probs_BSV.topk(min(2 * beam + 1, vocabulary))
    prefixes = Prefixes.empty(batch, beam, device)
    said_SBK, origin_SBK = [], []
    for state in range(states):
        last_BK = log_probs_BSV[:, state].gather(1, prefixes.last_BK)
        said_BK, origin_BK = prefixes.advance(blanks_BS[:, state], last_BK, scores_BSC[:, state], ids_BSC[:, state])
        said_SBK.append(said_BK)
        origin_SBK.append(origin_BK)
    scores_BK, place_BK = prefixes.scores().sort(descending=True)
    return Hypotheses(_trace_back(said_SBK, origin_SBK, place_BK), scores_BK)


@dataclass
class Prefixes:
    """The K prefixes of each utterance, all different.

    Args:
        blank_BK, token_BK: log-probability of their alignments that end in a blank, and in their last token.
        last_BK: the last token; of the empty prefix, a blank.
        hash_BK, parent_BK: hashes of the prefix, and of the prefix without its last token.
    """

    blank_BK: Tensor
    token_BK: Tensor
    last_BK: Tensor
    hash_BK: Tensor
    parent_BK: Tensor

    @classmethod
    def empty(cls, batch: int, beam: int, device: torch.device) -> Prefixes:
        """The empty prefix, and places for more, of probability 0."""
        blank_BK = torch.full((batch, beam), -torch.inf, device=device)
        blank_BK[:, 0] = 0.0
        last_BK = torch.full((batch, beam), BLANK, device=device)
        none_BK = torch.full_like(last_BK, NO_PARENT)
        return cls(blank_BK, torch.full_like(blank_BK, -torch.inf), last_BK, torch.zeros_like(last_BK), none_BK)

    def scores(self) -> Tensor:
        return torch.logaddexp(self.blank_BK, self.token_BK)

    def advance(self, blank_B: Tensor, again_BK: Tensor, scores_BC: Tensor, ids_BC: Tensor) -> tuple[Tensor, Tensor]:
        """One state further.

        Args:
            blank_B, again_BK, scores_BC: its log-probabilities of a blank, of each prefix's last token, and of the
                tokens `ids_BC`.

        Returns the token that each prefix grew by, or a blank, and which prefix it was before, (B, K) each.
        """
        beam, count = again_BK.shape[1], ids_BC.shape[1]
        either_BK = self.scores()
        # Where the beam holds a prefix and its parent, the parent's growing adds to it: [b, parent, child].
        child_BKK = self.hash_BK[:, :, None] == self.parent_BK[:, None]
        repeats_BKK = self.last_BK[:, :, None] == self.last_BK[:, None]
        joins_BKK = torch.where(repeats_BKK, self.blank_BK[:, :, None], either_BK[:, :, None]) + again_BK[:, None]
        joins_BK = torch.where(child_BKK, joins_BKK, -torch.inf).amax(1)
        stays_blank_BK = either_BK + blank_B[:, None]
        stays_token_BK = torch.logaddexp(self.token_BK + again_BK, joins_BK)

        repeats_BKC = self.last_BK[:, :, None] == ids_BC[:, None]
        grown_BKC = torch.where(repeats_BKC, self.blank_BK[:, :, None], either_BK[:, :, None]) + scores_BC[:, None]
        present_BKC = (child_BKK[..., None] & (self.last_BK[:, None, :, None] == ids_BC[:, None, None])).any(2)
        grown_BN = grown_BKC.masked_fill(present_BKC, -torch.inf).flatten(1)

        stays_BK = torch.logaddexp(stays_blank_BK, stays_token_BK)
        best_BK, place_BK = torch.cat([stays_BK, grown_BN], 1).topk(beam)
        grows_BK, growth_BK = place_BK >= beam, (place_BK - beam).clamp(min=0)
        origin_BK = torch.where(grows_BK, growth_BK // count, place_BK)
        said_BK = torch.where(grows_BK, ids_BC.gather(1, growth_BK % count), BLANK)
        self.blank_BK = stays_blank_BK.gather(1, origin_BK).masked_fill(grows_BK, -torch.inf)
        self.token_BK = torch.where(grows_BK, grown_BN.gather(1, growth_BK), stays_token_BK.gather(1, origin_BK))
        self.last_BK = torch.where(grows_BK, said_BK, self.last_BK.gather(1, origin_BK))
        before_BK = self.hash_BK.gather(1, origin_BK)
        self.parent_BK = torch.where(grows_BK, before_BK, self.parent_BK.gather(1, origin_BK))
        # A place of probability 0 must not become a second copy of a prefix by joining its parent's growth.
        self.parent_BK = self.parent_BK.masked_fill(best_BK == -torch.inf, NO_PARENT)
        self.hash_BK = torch.where(grows_BK, before_BK * HASH_FACTOR + said_BK, before_BK)
        return said_BK, origin_BK


def _unspoken(device: torch.device) -> Tensor:
    """Tokens that CTC never says; a blank has its own part."""
    return torch.tensor([EOS, *(token for token in SUPPRESSED_TOKENS if token != BLANK)], device=device)


def _trace_back(said_SBK: list[Tensor], origin_SBK: list[Tensor], place_BK: Tensor) -> Tensor:
    """The tokens of the prefixes that ended at `place_BK`, with EOS behind them, (B, K, S + 1).

    Args:
        said_SBK: the token that each prefix grew by at a state, or a blank.
        origin_SBK: which prefix it was before.
    """
    found = [torch.full_like(place_BK, EOS)]
    for said_BK, origin_BK in zip(reversed(said_SBK), reversed(origin_SBK), strict=True):
        found.append(said_BK.gather(1, place_BK))
        place_BK = origin_BK.gather(1, place_BK)
    found_BKS = torch.stack(found[::-1], -1)
    # Blanks to the end, the rest in its order.
    order_BKS = (found_BKS == BLANK).to(torch.int8).argsort(dim=-1, stable=True)
    found_BKS = found_BKS.gather(-1, order_BKS)
    return torch.where(found_BKS == BLANK, EOS, found_BKS)
