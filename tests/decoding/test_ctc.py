"""CTC searches and scores equal sums over all alignments, found by enumeration."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainables.data.text.tokenizer import BLANK, EOS, PAD, SOS, UNK
from trainables.decoding import ctc_beam, ctc_greedy
from trainables.decoding.scorers import CTCPrefixScorer

LETTERS = [5, 6, 7]
VOCABULARY = 8
Probabilities = dict[tuple[int, ...], float]


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != BLANK)


def transcripts(log_probs_SV: Tensor) -> Probabilities:
    """The probability of every transcript, summed over all paths that collapse to it."""
    found: Probabilities = defaultdict(float)
    rows = log_probs_SV.double().exp().tolist()
    for path in itertools.product([BLANK, *LETTERS], repeat=len(rows)):
        found[collapse(path)] += math.prod(row[token] for row, token in zip(rows, path, strict=True))
    return found


def random_logits(seed: int, lengths: list[int], sharpness: float = 2.0) -> Tensor:
    """Random logits (B, S, V), also behind the utterances' ends; very low for suppressed tokens."""
    logits_BSV = sharpness * torch.randn(
        len(lengths), max(lengths) + 1, VOCABULARY, generator=torch.Generator().manual_seed(seed)
    )
    logits_BSV[..., [PAD, UNK, SOS, EOS]] = -40.0
    return logits_BSV


def tail(probabilities: Probabilities, prefix: tuple[int, ...]) -> float:
    """Summed probability of all transcripts that begin with a prefix."""
    return sum(value for key, value in probabilities.items() if key[: len(prefix)] == prefix)


@given(
    st.lists(st.lists(st.sampled_from([BLANK, 5, 6, 7]), min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_greedy_collapses_repeats_and_drops_blanks(paths: list[list[int]], extra: int) -> None:
    states = max(map(len, paths)) + extra
    logits_BSV = torch.randn(len(paths), states, 8)
    for row, path in zip(logits_BSV, paths, strict=True):
        row[range(len(path)), path] = 10.0
    found = ctc_greedy(logits_BSV, torch.tensor([len(path) for path in paths]))
    assert found == [list(collapse(tuple(path))) for path in paths]


def test_no_token_that_stands_for_no_text_is_said() -> None:
    logits_BSV = random_logits(0, [9, 9])
    logits_BSV[..., [PAD, UNK, SOS, EOS]] = 40.0
    lengths = torch.tensor([9, 9])
    for found in (ctc_greedy(logits_BSV, lengths), ctc_beam(logits_BSV, lengths, 4).best()):
        assert any(found) and {token for tokens in found for token in tokens} <= set(LETTERS)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.sampled_from([0.3, 2.0, 5.0]))
def test_a_wide_prefix_beam_finds_every_transcript(seed: int, lengths: list[int], sharpness: float) -> None:
    """The found transcripts have their exact probabilities."""
    logits_BSV = random_logits(seed, lengths, sharpness)
    found = ctc_beam(logits_BSV, torch.tensor(lengths), beam=400)
    for place, length in enumerate(lengths):
        expected = transcripts(logits_BSV[place, :length].log_softmax(-1))
        rows = zip(found.tokens_BKU[place].tolist(), found.scores_BK[place].tolist(), strict=True)
        said = [(tuple(row[: row.index(EOS)]), score) for row, score in rows if score > -math.inf]
        assert len(said) == len(dict(said)) == len(expected)
        assert [score for _, score in said] == sorted((score for _, score in said), reverse=True)
        for key, score in said:
            assert score == pytest.approx(math.log(expected[key]), abs=1e-4)
        assert found.best()[place] == list(said[0][0])


def plain_prefix_beam(log_probs_SV: Tensor, beam: int) -> list[tuple[tuple[int, ...], float]]:
    """Prefix beam search as in the paper, with a dictionary of probabilities."""
    prefixes = {(): (1.0, 0.0)}
    for row in log_probs_SV.double().exp().tolist():
        following: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prefix, (blank, token) in prefixes.items():
            following[prefix][0] += (blank + token) * row[BLANK]
            if prefix:
                following[prefix][1] += token * row[prefix[-1]]
            for letter in LETTERS:
                before = blank if prefix and prefix[-1] == letter else blank + token
                following[(*prefix, letter)][1] += before * row[letter]
        best = sorted(following.items(), key=lambda item: -sum(item[1]))[:beam]
        prefixes = {key: (blank, token) for key, (blank, token) in best}
    return [(key, sum(value)) for key, value in prefixes.items()]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.3, 2.0]))
def test_a_narrow_prefix_beam_equals_the_plain_algorithm(seed: int, beam: int, sharpness: float) -> None:
    lengths = [12, 5, 9]
    logits_BSV = random_logits(seed, lengths, sharpness)
    found = ctc_beam(logits_BSV, torch.tensor(lengths), beam)
    for place, length in enumerate(lengths):
        expected = plain_prefix_beam(logits_BSV[place, :length].log_softmax(-1), beam)
        rows = zip(found.tokens_BKU[place].tolist(), found.scores_BK[place].tolist(), strict=True)
        said = [(tuple(row[: row.index(EOS)]), score) for row, score in rows if score > -math.inf]
        assert [key for key, _ in said] == [key for key, _ in expected]
        for (_, score), (_, value) in zip(said, expected, strict=True):
            assert score == pytest.approx(math.log(value), abs=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data())
def test_prefix_scores_equal_the_sum_over_alignments(seed: int, lengths: list[int], data: st.DataObject) -> None:
    """Scores of prefixes, of transcripts (EOS), and of texts without alignment, for hypotheses that change places."""
    beams = 3
    log_probs_BSV = random_logits(seed, lengths).log_softmax(-1)
    expected = [transcripts(row[:length]) for row, length in zip(log_probs_BSV, lengths, strict=True)]
    scorer = CTCPrefixScorer(log_probs_BSV, torch.tensor(lengths))
    shape = (len(lengths), beams)
    candidates_BKC = torch.tensor([*LETTERS, EOS]).expand(*shape, -1)
    tokens_BK, parents_BK = torch.full(shape, SOS), torch.arange(beams).expand(shape)
    prefixes: list[list[tuple[int, ...]]] = [[()] * beams for _ in lengths]
    for _ in range(4):
        found = scorer.step(tokens_BK, parents_BK, candidates_BKC)
        for b, row in enumerate(prefixes):
            for k, prefix in enumerate(row):
                before = tail(expected[b], prefix)
                wanted = [tail(expected[b], (*prefix, letter)) for letter in LETTERS] + [expected[b].get(prefix, 0.0)]
                for score, value in zip(found[b, k].tolist(), wanted, strict=True):
                    if value == 0:
                        assert score == -math.inf
                    else:
                        assert score == pytest.approx(math.log(value / before), abs=1e-4)
        choice = st.lists(st.integers(0, beams - 1), min_size=beams, max_size=beams)
        parents = [data.draw(choice) for _ in lengths]
        letters = [[LETTERS[place] for place in data.draw(choice)] for _ in lengths]
        prefixes = [
            [(*row[parent], letter) for parent, letter in zip(some, said, strict=True)]
            for row, some, said in zip(prefixes, parents, letters, strict=True)
        ]
        tokens_BK, parents_BK = torch.tensor(letters), torch.tensor(parents)


def test_prefix_scores_stay_exact_over_long_utterances() -> None:
    """Scores equal torch's CTC loss where products over all states leave the range of float32."""
    lengths = torch.tensor([900, 700])
    log_probs_BSV = random_logits(0, lengths.tolist(), sharpness=8.0).log_softmax(-1)
    transcript_U = torch.tensor([5, 6, 6, 7, 5, 5, 5, 6])
    scorer = CTCPrefixScorer(log_probs_BSV, lengths)
    total_B, tokens_BK, parents_BK = torch.zeros(2), torch.full((2, 1), SOS), torch.zeros(2, 1, dtype=torch.long)
    for token in [*transcript_U.tolist(), EOS]:
        total_B += scorer.step(tokens_BK, parents_BK, torch.full((2, 1, 1), token))[:, 0, 0]
        tokens_BK = torch.full((2, 1), token)
    loss_B = torch.nn.functional.ctc_loss(
        log_probs_BSV.double().transpose(0, 1), transcript_U.expand(2, -1), lengths, torch.tensor([8, 8]), BLANK, "none"
    )
    torch.testing.assert_close(-total_B, loss_B.float(), rtol=1e-5, atol=1e-2)
