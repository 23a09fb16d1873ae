"""CTC alignment equals the best of all alignments, found by enumeration."""

from __future__ import annotations

import itertools
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainables.data.text.tokenizer import BLANK
from trainables.decoding import ctc_align

LETTERS = [5, 6, 7]
VOCABULARY = 8
TEXT = st.lists(st.sampled_from(LETTERS), max_size=5)


def random_logits(seed: int, batch: int, states: int) -> Tensor:
    return 2 * torch.randn(batch, states, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def needed(text: list[int]) -> int:
    """Number of states of the shortest alignment, with a blank between equal neighbours."""
    return len(text) + sum(one == following for one, following in pairwise(text))


def best_path(log_probs_SV: Tensor, text: list[int]) -> tuple[int, ...]:
    """The likeliest path that collapses to the text, by enumeration."""
    paths = itertools.product([BLANK, *sorted(set(text))], repeat=len(log_probs_SV))
    fitting = [p for p in paths if [token for token, _ in itertools.groupby(p) if token != BLANK] == text]
    return max(fitting, key=lambda path: sum(row[token].item() for row, token in zip(log_probs_SV, path, strict=True)))


def spans(path: tuple[int, ...]) -> list[tuple[float, float]]:
    """The span of each token in a path."""
    found, start = [], 0
    for token, run in itertools.groupby(path):
        length = len(list(run))
        if token != BLANK:
            found.append((float(start), float(start + length)))
        start += length
    return found


@given(st.integers(0, 10_000), st.lists(st.tuples(TEXT, st.integers(0, 2)), min_size=1, max_size=3))
def test_an_alignment_is_the_best_of_all(seed: int, utterances: list[tuple[list[int], int]]) -> None:
    """Several utterances of different lengths in a batch, with random values behind their ends."""
    lengths = [max(1, needed(text) + spare) for text, spare in utterances]
    logits_BSV = random_logits(seed, len(utterances), max(lengths) + 1)
    found = ctc_align(logits_BSV, torch.tensor(lengths), [text for text, _ in utterances])
    for logits_SV, length, (text, _), said in zip(logits_BSV, lengths, utterances, found, strict=True):
        assert said == spans(best_path(logits_SV[:length].log_softmax(-1), text))


@given(st.integers(0, 10_000), st.lists(st.sampled_from(LETTERS), min_size=1, max_size=9), st.integers(1, 4))
def test_a_text_with_more_tokens_than_states_shares_them(seed: int, text: list[int], states: int) -> None:
    """Tokens keep their order, and each has a part of the utterance; the other utterance of the batch is unaffected."""
    logits_BSV = random_logits(seed, 2, 20)
    said, other = ctc_align(logits_BSV, torch.tensor([states, 20]), [text, [5, 6]])
    assert len(said) == len(text)
    assert all(start < end for start, end in said)
    assert all(one[1] <= following[0] for one, following in pairwise(said))
    assert said[0][0] >= 0 and said[-1][1] <= states
    assert [other] == ctc_align(logits_BSV[1:], torch.tensor([20]), [[5, 6]])


def test_sure_tokens_are_found_where_they_are() -> None:
    """Many states: a token's run, a pause, the token again, and a run to the end."""
    labels = [BLANK] * 300 + [5] * 3 + [BLANK] * 400 + [5] + [6] * 200 + [BLANK] * 90 + [7] * 6
    logits_BSV = torch.zeros(1, 1000, VOCABULARY)
    logits_BSV[0, range(1000), labels] = 8.0
    (said,) = ctc_align(logits_BSV, torch.tensor([1000]), [[5, 5, 6, 7]])
    assert said == [(300.0, 303.0), (703.0, 704.0), (704.0, 904.0), (994.0, 1000.0)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good(dtype: torch.dtype) -> None:
    logits_BSV = random_logits(0, 1, 1500).to(dtype)
    text = [5, 6, 6, 7] * 20
    assert ctc_align(logits_BSV, torch.tensor([1500]), [text]) == ctc_align(
        logits_BSV.float(), torch.tensor([1500]), [text]
    )


def test_no_text_has_no_times() -> None:
    assert ctc_align(random_logits(0, 2, 3), torch.tensor([3, 1]), [[], []]) == [[], []]
