"""The losses equal their formulas, and add up over any split of a batch."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from batches import make_batch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainables.config.tree import Loss
from trainables.data.batching import Batch
from trainables.data.text.tokenizer import BLANK, EOS
from trainables.models.losses import CTCLengths, LossSums, ctc_frames_needed, loss_sums

VOCABULARY = 7
A, B = 5, 6


def outputs(batch: Batch, states: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Random attention logits (B, U, V), CTC logits (B, S, V) and states per utterance."""
    torch.manual_seed(0)
    logits_BUV = torch.randn(*batch.targets_BU.shape, VOCABULARY, requires_grad=True)
    return logits_BUV, torch.randn(len(states), max(states), VOCABULARY, requires_grad=True), torch.tensor(states)


def part(batch: Batch, rows: slice) -> Batch:
    return replace(batch, **{name: value[rows] for name, value in vars(batch).items() if len(value)})


def numbers(sums: LossSums) -> list[float]:
    return [sums.cross_entropy.item(), sums.ctc.item(), sums.tokens.item(), sums.infeasible.item()]


def ctc_by_hand(logits_SV: Tensor, transcript: list[int]) -> float:
    """Minus the logarithm of the summed probability of every path that collapses to the transcript."""
    log_probabilities = logits_SV.detach().log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(VOCABULARY), repeat=len(logits_SV)):
        collapsed = [token for token, _ in itertools.groupby(path) if token != BLANK]
        if collapsed == transcript:
            total += math.exp(sum(log_probabilities[step, token].item() for step, token in enumerate(path)))
    return -math.log(total)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_its_formula(smoothing: float) -> None:
    """(1 - e) x -log p(target) + e / V x the sum of -log p over the vocabulary, for target tokens with EOS."""
    transcripts = [[A, B, A], [B], []]
    batch = make_batch(transcripts)
    logits_BUV, ctc_BSV, states_B = outputs(batch, [8, 8, 8])
    expected = 0.0
    for row, ids in zip(logits_BUV.detach().log_softmax(-1), transcripts, strict=True):
        for step, token in enumerate([*ids, EOS]):
            expected -= (1 - smoothing) * row[step, token].item() + smoothing / VOCABULARY * row[step].sum().item()
    sums = loss_sums(Loss(label_smoothing=smoothing), logits_BUV, ctc_BSV, states_B, batch)
    assert sums.cross_entropy.item() == pytest.approx(expected, rel=1e-5)
    assert sums.tokens.item() == sum(len(ids) + 1 for ids in transcripts)


def test_ctc_equals_the_sum_over_all_alignments() -> None:
    transcripts, states = [[A, B], [A, A], [B], []], [3, 4, 2, 3]
    batch = make_batch(transcripts)
    logits_BUV, ctc_BSV, states_B = outputs(batch, states)
    expected = [ctc_by_hand(ctc_BSV[row, : states[row]], ids) for row, ids in enumerate(transcripts)]
    sums = loss_sums(Loss(), logits_BUV, ctc_BSV, states_B, batch)
    assert sums.ctc.item() == pytest.approx(sum(expected), rel=1e-5)
    assert sums.infeasible.item() == 0


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_sums_of_two_parts_are_the_sums_of_the_batch(cut: int) -> None:
    config, states = Loss(label_smoothing=0.1), [5, 9, 2, 4]
    batch = make_batch([[A, B], [A, A, B, A], [B, B, B], [A]], [1, 1, 1, 0])
    logits_BUV, ctc_BSV, states_B = outputs(batch, states)
    whole = numbers(loss_sums(config, logits_BUV, ctc_BSV, states_B, batch))
    halves = [
        numbers(loss_sums(config, logits_BUV[rows], ctc_BSV[rows], states_B[rows], part(batch, rows)))
        for rows in (slice(0, cut), slice(cut, 4))
    ]
    assert [one + other for one, other in zip(*halves, strict=True)] == pytest.approx(whole, rel=1e-5)


def test_a_filler_does_not_count() -> None:
    batch, states = make_batch([[A, B], [B]], [1, 0]), [3, 3]
    logits_BUV, ctc_BSV, states_B = outputs(batch, states)
    sums = loss_sums(Loss(), logits_BUV, ctc_BSV, states_B, batch)
    first = slice(0, 1)
    alone = loss_sums(Loss(), logits_BUV[first], ctc_BSV[first], states_B[first], part(batch, first))
    assert numbers(sums) == pytest.approx(numbers(alone))
    (sums.cross_entropy + sums.ctc).backward()
    assert logits_BUV.grad is not None and ctc_BSV.grad is not None
    assert not logits_BUV.grad[1].any() and not ctc_BSV.grad[1].any()
    assert logits_BUV.grad[0].any() and ctc_BSV.grad[0].any()


@pytest.mark.parametrize(("transcript", "states"), [([A, B, A], 2), ([A, A], 2), ([A, A, B, B], 5)])
def test_an_utterance_too_short_for_ctc_adds_nothing_and_is_counted(transcript: list[int], states: int) -> None:
    batch = make_batch([transcript, [A]])
    logits_BUV, ctc_BSV, states_B = outputs(batch, [states, 6])
    sums = loss_sums(Loss(), logits_BUV, ctc_BSV, states_B, batch)
    assert sums.infeasible.item() == 1
    assert sums.ctc.item() == pytest.approx(ctc_by_hand(ctc_BSV[1].detach(), [A]), rel=1e-5)
    (sums.cross_entropy + sums.ctc).backward()
    assert ctc_BSV.grad is not None and ctc_BSV.grad.isfinite().all()
    assert not ctc_BSV.grad[0].any()


@given(st.lists(st.sampled_from([A, B]), max_size=6), st.integers(1, 12))
def test_exactly_the_transcripts_that_have_no_alignment_are_counted(transcript: list[int], states: int) -> None:
    """An alignment needs a state for each token, and one for the blank between equal neighbours."""
    batch = make_batch([transcript, [A, B, A, B, A, B, A]])
    needed = ctc_frames_needed(batch.targets_BU, batch.target_lengths_B - 1)[0].item()
    assert needed == len(transcript) + sum(one == other for one, other in itertools.pairwise(transcript))
    logits_SV = torch.zeros(states, 1, VOCABULARY).log_softmax(-1)
    loss = torch.nn.functional.ctc_loss(
        logits_SV, batch.targets_BU[:1], torch.tensor([states]), torch.tensor([len(transcript)]), blank=BLANK
    )
    assert bool(loss.isinf()) == (needed > states)


def test_a_batch_of_empty_transcripts_needs_no_states() -> None:
    assert ctc_frames_needed(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long)).tolist() == [0, 0]


def test_ctc_with_lengths_known_on_the_cpu_is_the_same() -> None:
    batch = make_batch([[A, B, B], [A]])
    found = outputs(batch, [6, 3])
    known = CTCLengths([6, 3], [3, 1], torch.tensor([0.0, 0.0]))
    assert numbers(loss_sums(Loss(), *found, batch, known)) == numbers(loss_sums(Loss(), *found, batch))
