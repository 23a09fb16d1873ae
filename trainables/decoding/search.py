"""Beam search with any number of scorers, for all utterances and hypotheses at once.

Shapes: B utterances, K hypotheses (beams), V vocabulary, C candidate tokens of a hypothesis, U tokens, N = 2 K best
continuations of an utterance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainables.data.text.tokenizer import EOS, SOS
from trainables.decoding.tokens import SUPPRESSED_TOKENS, penalize, steps_between_checks, until_eos


class Scorer(Protocol):
    """Scores every possible next token of each hypothesis; keeps the state that it needs for this."""

    def step(self, tokens_BK: Tensor, parents_BK: Tensor) -> Tensor:
        """Log-probabilities of the next token, (B, K, V), which the search may change in place.

        Args:
            tokens_BK: the latest token of each hypothesis, SOS at the first step.
            parents_BK: index of the hypothesis of the last step that each one continues; at the first step its own.
        """


class CandidateScorer(Protocol):
    """Scores some candidates for the next token of each hypothesis, if scoring every token costs too much."""

    def step(self, tokens_BK: Tensor, parents_BK: Tensor, candidates_BKC: Tensor) -> Tensor:
        """Log-probabilities of the candidate tokens, (B, K, C); other arguments as in `Scorer.step`."""


class Hypothesis(NamedTuple):
    """A token sequence without SOS and EOS, and the score that ranks it."""

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class Hypotheses:
    """The best hypotheses, best first: tokens (B, K, U), filled up with EOS, and the scores that rank them.

    A score of minus infinity marks a missing hypothesis: the search found fewer than K.
    """

    tokens_BKU: Tensor
    scores_BK: Tensor

    def best(self) -> list[list[int]]:
        """The best token sequence of each utterance, without EOS."""
        return [until_eos(row) for row in self.tokens_BKU[:, 0].tolist()]

    def lists(self) -> list[list[Hypothesis]]:
        """The hypotheses that were found of each utterance, best first."""
        pairs = zip(self.tokens_BKU.tolist(), self.scores_BK.tolist(), strict=True)
        return [
            [Hypothesis(until_eos(row), score) for row, score in zip(*pair, strict=True) if score > -math.inf]
            for pair in pairs
        ]


@torch.inference_mode()
def beam_search(
    scorers: Sequence[tuple[float, Scorer]],
    max_tokens_B: Tensor,
    beam: int,
    *,
    repeat_penalty: float = 1.0,
    length_penalty: float = 0.0,
    candidate_scorers: Sequence[tuple[float, CandidateScorer]] = (),
    candidates: int = 20,
    exact: int = 1,
    bonus: float = 0.0,
) -> Hypotheses:
    """Beam search: after each token, keeps each utterance's `beam` best unfinished and `beam` best finished hypotheses.

    A hypothesis' score is the sum over its tokens, EOS included, of the weighted log-probabilities of all scorers. It
    is finished when EOS is among the utterance's `beam` best continuations, or at the utterance's largest length, with
    or without EOS. It is then ranked by score / length ^ `length_penalty`, where EOS counts as a token.

    The search ends when no unfinished hypothesis can change the `exact` best finished ones: log-probabilities are at
    most 0, so its score only falls, and its rank is at best its present score / largest length ^ `length_penalty`
    (a score above 0, which hotwords may give, counts as it is).

    Args:
        scorers: weights (at least 0) and scorers of all tokens.
        max_tokens_B: the largest number of tokens of each utterance, EOS included.
        repeat_penalty: on tokens that the hypothesis already has, in the weighted sum of `scorers` (see `penalize`).
        candidate_scorers: weights and scorers of the `candidates` best tokens by the other scorers, and of EOS; other
            tokens are then not considered.
        exact: number of best finished hypotheses that must be final before the search ends.
        bonus: by how much an unfinished hypothesis' score may still rise (`HotwordScorer`), for the search's end.
    """
    device, batch, steps = max_tokens_B.device, len(max_tokens_B), int(max_tokens_B.max())
    longest_B1 = max_tokens_B.clamp(min=1)[:, None] ** length_penalty
    suppressed = torch.tensor([*SUPPRESSED_TOKENS, EOS], device=device)
    latest_BK = torch.full((batch, beam), SOS, device=device)
    parents_BK = torch.arange(beam, device=device).expand(batch, beam)
    # At first all hypotheses are equal: all but one get probability 0.
    impossible_BK = (parents_BK > 0) | (max_tokens_B <= 0)[:, None]
    live_BK = torch.zeros(batch, beam, device=device).masked_fill(impossible_BK, -torch.inf)
    done_BK = torch.where((parents_BK == 0) & (max_tokens_B <= 0)[:, None], 0.0, -torch.inf)
    live_BKU = torch.full((batch, beam, steps + 1), EOS, device=device)
    done_BKU = live_BKU
    count = candidates if candidate_scorers else 2 * beam
    rank_N = torch.arange(2 * beam, device=device)
    interval = steps_between_checks(device)
    for step in range(steps):
        if step % interval == 0 and _all_final(live_BK[:, :1] + bonus, done_BK[:, exact - 1 : exact], longest_B1):
            break
        scores_BKV = _weighted_sum([(weight, scorer.step(latest_BK, parents_BK)) for weight, scorer in scorers])
        scores_BKV = penalize(scores_BKV, live_BKU[:, :, :step], repeat_penalty)
        scores_BKC, ids_BKC = _best_tokens(scores_BKV, suppressed, count)
        for weight, scorer in candidate_scorers:
            scores_BKC = scores_BKC + weight * scorer.step(latest_BK, parents_BK, ids_BKC)
        # 2 K continuations leave K when each of K hypotheses has taken one of them to end.
        best_BN, place_BN = (live_BK[:, :, None] + scores_BKC).flatten(1).topk(2 * beam)
        parent_BN, token_BN = place_BN // ids_BKC.shape[2], ids_BKC.flatten(1).gather(1, place_BN)
        ends_BN = (token_BN == EOS) | (step + 1 >= max_tokens_B)[:, None]
        tokens_BNU = _rows(live_BKU, parent_BN)
        tokens_BNU[:, :, step] = token_BN

        ranked_BN = (best_BN / (step + 1) ** length_penalty).masked_fill(~ends_BN | (rank_N >= beam), -torch.inf)
        done_BK, place_BK = torch.cat([done_BK, ranked_BN], 1).topk(beam)
        done_BKU = _rows(torch.cat([done_BKU, tokens_BNU], 1), place_BK)

        live_BK, place_BK = best_BN.masked_fill(ends_BN, -torch.inf).topk(beam)
        live_BKU = _rows(tokens_BNU, place_BK)
        latest_BK, parents_BK = token_BN.gather(1, place_BK), parent_BN.gather(1, place_BK)
    return Hypotheses(done_BKU, done_BK)


def _all_final(best_B1: Tensor, done_B1: Tensor, longest_B1: Tensor) -> bool:
    """Whether no unfinished hypothesis, whose score is `best_B1` at most, can be ranked above `done_B1`."""
    return bool((torch.where(best_B1 < 0, best_B1 / longest_B1, best_B1) <= done_B1).all())


def _weighted_sum(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Weighted sum of scores given as (weight, scores); overwrites the first scores."""
    weight, total = parts[0]
    if weight != 1:
        total = total.mul_(weight)
    for weight, scores in parts[1:]:
        total = total.add_(scores, alpha=weight)
    return total


def _best_tokens(scores_BKV: Tensor, suppressed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores and ids of each hypothesis' `count` best tokens, followed by EOS, (B, K, count + 1) each.

    Args:
        suppressed: tokens to leave out of the best ones, EOS included.
    """
    eos_BK1 = scores_BKV[..., EOS : EOS + 1].clone()
    scores_BKV = scores_BKV.index_fill_(-1, suppressed, -torch.inf)
    best_BKC, ids_BKC = scores_BKV.topk(min(count, scores_BKV.shape[-1]))
    return torch.cat([best_BKC, eos_BK1], -1), torch.cat([ids_BKC, torch.full_like(ids_BKC[..., :1], EOS)], -1)


def _rows(tokens_BKU: Tensor, place_BN: Tensor) -> Tensor:
    """Rows number `place_BN` of each utterance, (B, N, U)."""
    return tokens_BKU.gather(1, place_BN[:, :, None].expand(-1, -1, tokens_BKU.shape[2]))
