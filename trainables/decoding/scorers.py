"""Scorers of a beam search: a decoder or a language model, and CTC.

Shapes: B utterances, K hypotheses, C candidate tokens of a hypothesis, N tokens, S encoder states, V
vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.data.text.tokenizer import BLANK, EOS
from trainables.masking import length_mask
from trainables.models.decoder import Decoder, DecoderCache

LEAST = torch.finfo(torch.float64).min  # in place of minus infinity, which cannot be subtracted from itself


class DecoderScorer:
    """Log-probabilities of a recogniser's decoder or of a language model.

    Args:
        cache: new cache from `decoder.start`.
        temperature: the logits are divided by it.
    """

    def __init__(self, decoder: Decoder, cache: DecoderCache, temperature: float = 1.0) -> None:
        self.decoder = decoder
        self.cache = cache
        self.temperature = temperature

    def step(self, tokens_BK: Tensor, parents_BK: Tensor) -> Tensor:
        """Log-probabilities of the next token, (B, K, V); see `Scorer`."""
        logits_BKV = self.decoder.step(tokens_BK, self.cache, parents_BK).float()
        if self.temperature != 1:
            logits_BKV = logits_BKV / self.temperature
        return logits_BKV.log_softmax(-1)


class CTCPrefixScorer:
    """CTC prefix scores of candidate tokens (Watanabe et al., 2017, IEEE JSTSP 11(8), section IV-B).

    The probability of a prefix is that of all transcripts that begin with it. A candidate's score is the
    log-probability of the extended prefix minus that of the prefix; with EOS, the prefix is the whole transcript. For
    each prefix and s = 0 ... S, the scorer keeps the log-probability of all alignments of the prefix to the first s
    states: of alignments that end in the last token (`token_BKS`), and in a blank (`blank_BKS`).

    No loop over states is needed: divided by X(s) = x(1) ... x(s), the recursion r(s) = (r(s - 1) + a(s - 1)) x(s)
    becomes a cumulative sum of a(s) / X(s). X(s) is tiny, hence float64 and logarithms.

    Args:
        log_probs_BSV: log-probabilities of the CTC head.
    """

    def __init__(self, log_probs_BSV: Tensor, state_lengths_B: Tensor) -> None:
        valid_BS = length_mask(state_lengths_B, log_probs_BSV.shape[1])
        self.log_probs_BSV = log_probs_BSV
        self.valid_B1S = valid_BS[:, None]
        self.lengths_B11 = state_lengths_B[:, None, None]
        blank_BS = log_probs_BSV[..., BLANK].double().masked_fill(~valid_BS, 0.0)
        self.blanks_B1S = _from_zero(blank_BS.cumsum(-1))[:, None]  # log-probability of s blanks, s = 0 ... S
        self.started = False

    def start(self, tokens_BK: Tensor) -> None:
        """Sets all K hypotheses to the empty prefix; `tokens_BK` are the first input tokens (SOS)."""
        self.token_BKS = torch.full_like(self.blanks_B1S, -torch.inf).expand(-1, tokens_BK.shape[1], -1)
        self.blank_BKS = self.blanks_B1S.expand_as(self.token_BKS)
        self.prefix_BK = torch.zeros_like(self.token_BKS[..., 0])
        self.last_BK = tokens_BK
        self.started = True

    def step(self, tokens_BK: Tensor, parents_BK: Tensor, candidates_BKC: Tensor) -> Tensor:
        """Prefix scores of the candidates, (B, K, C); see `CandidateScorer`."""
        if self.started:
            self.extend(tokens_BK, parents_BK)
        else:
            self.start(tokens_BK)
        prefixes_BKC = self.prefixes(candidates_BKC)
        either_BKS = torch.logaddexp(self.token_BKS, self.blank_BKS)
        whole_BK1 = either_BKS.gather(-1, self.lengths_B11.expand(-1, tokens_BK.shape[1], 1))
        scores_BKC = torch.where(candidates_BKC == EOS, whole_BK1, prefixes_BKC) - self.prefix_BK[..., None]
        # A prefix that can no longer be aligned has -inf - -inf.
        return scores_BKC.nan_to_num(nan=-torch.inf, neginf=-torch.inf).float()

    def extend(self, tokens_BK: Tensor, parents_BK: Tensor) -> None:
        """Replaces each hypothesis by the prefix of its parent (`parents_BK`) with the token `tokens_BK` added."""
        place_BKS = parents_BK[:, :, None].expand_as(self.token_BKS)
        self.token_BKS, self.blank_BKS = self.token_BKS.gather(1, place_BKS), self.blank_BKS.gather(1, place_BKS)
        self.last_BK = self.last_BK.gather(1, parents_BK)
        prefixes_BK1 = self.prefixes(tokens_BK[:, :, None])
        before_BKS = torch.where(
            (tokens_BK == self.last_BK)[..., None], self.blank_BKS, torch.logaddexp(self.token_BKS, self.blank_BKS)
        )[..., :-1]
        tokens_BKS = _from_zero(self.token_log_probs(tokens_BK).masked_fill(~self.valid_B1S, 0.0).cumsum(-1))
        self.token_BKS = _recursion(before_BKS, tokens_BKS)
        self.blank_BKS = _recursion(self.token_BKS[..., :-1], self.blanks_B1S.expand_as(self.token_BKS))
        self.prefix_BK, self.last_BK = prefixes_BK1[..., 0], tokens_BK

    def prefixes(self, candidates_BKC: Tensor) -> Tensor:
        """Log-probability of each prefix extended by each candidate token, (B, K, C).

        The probability is summed over the state at which the candidate begins: its probability there, times that of
        all alignments of the prefix to the states before. If the candidate repeats the prefix's last token, only
        alignments that end in a blank count.
        """
        before_2BKS = torch.stack([torch.logaddexp(self.token_BKS, self.blank_BKS), self.blank_BKS])[..., :-1]
        before_2BKS = before_2BKS.masked_fill(~self.valid_B1S, -torch.inf)
        largest_2BK1 = before_2BKS.amax(-1, keepdim=True).clamp(min=LEAST)
        first_BKCS = self.token_log_probs(candidates_BKC.flatten(1)).exp().unflatten(1, candidates_BKC.shape[1:])
        sums_BKC2 = first_BKCS @ (before_2BKS - largest_2BK1).exp().permute(1, 2, 3, 0)
        any_BKC, repeated_BKC = (sums_BKC2.log() + largest_2BK1.permute(1, 2, 3, 0)).unbind(-1)
        return torch.where(candidates_BKC == self.last_BK[..., None], repeated_BKC, any_BKC)

    def token_log_probs(self, tokens_BN: Tensor) -> Tensor:
        """Log-probabilities of the tokens `tokens_BN` at every state, (B, N, S)."""
        index_BSN = tokens_BN[:, None].expand(-1, self.log_probs_BSV.shape[1], -1)
        return self.log_probs_BSV.gather(-1, index_BSN).transpose(1, 2).double()


def _from_zero(sums: Tensor) -> Tensor:
    """Prepends 0, the empty sum, to cumulative sums: (..., S) -> (..., S + 1)."""
    return torch.cat([torch.zeros_like(sums[..., :1]), sums], -1)


def _recursion(before_BKS: Tensor, products_BKS: Tensor) -> Tensor:
    """log r(s) for s = 0 ... S, (B, K, S + 1), where r(0) = 0 and r(s) = (r(s - 1) + before(s - 1)) x(s).

    Args:
        before_BKS: log of before(0) ... before(S - 1).
        products_BKS: log of the products X(s) = x(1) ... x(s), s = 0 ... S.
    """
    sums_BKS = (before_BKS - products_BKS[..., :-1]).logcumsumexp(-1)
    return torch.cat([torch.full_like(sums_BKS[..., :1], -torch.inf), sums_BKS + products_BKS[..., 1:]], -1)
