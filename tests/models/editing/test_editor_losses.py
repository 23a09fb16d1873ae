"""The four losses of a transcript editor equal their formulas, and add up over any split of a batch."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainables.config.tree import Loss
from trainables.models.editing.draft import MID_BLANK
from trainables.models.editing.losses import EditorLosses, editor_losses
from trainables.models.editing.slots import TokenRows, interleave
from trainables.models.editing.transcript_editor import Draft, Edited

VOCABULARY, CHARACTERS, SLOT, MINIMUM = 4, 2, 3, 3
CPU = torch.device("cpu")
Row = tuple[int, int, list[int], list[int], list[int]]
"""Encoder states, pooled states, tokens that are edited, tokens of the reference, its characters."""
ROWS: list[Row] = [(5, 2, [0], [1, 1], [1, 2]), (3, 1, [], [2], [2]), (4, 2, [2, 0], [], [])]


def rows_of(lists: list[list[int]]) -> TokenRows:
    return TokenRows.of(lists, CPU)


def outputs(rows: list[Row], seed: int = 0) -> Edited:
    """Random logits for a batch."""
    torch.manual_seed(seed)
    states, pooled, tokens = ([row[place] for row in rows] for place in range(3))
    positions = interleave(rows_of(tokens), SLOT, MINIMUM)
    draft = Draft(
        states=[],
        lengths_B=torch.tensor(states),
        mid_logits_BSC=torch.randn(len(rows), max(states), CHARACTERS + 1, requires_grad=True),
        logits_BPV=torch.randn(len(rows), max(pooled), VOCABULARY, requires_grad=True),
        pooled_lengths_B=torch.tensor(pooled),
    )
    return Edited(draft, positions, torch.randn(int(positions.lengths_B.sum()), VOCABULARY, requires_grad=True))


def losses_of(edited: Edited, rows: list[Row], weights: list[float] | None = None) -> EditorLosses:
    weights_B = torch.tensor(weights or [1.0] * len(rows))
    return editor_losses(edited, rows_of([row[3] for row in rows]), rows_of([row[4] for row in rows]), SLOT, weights_B)


def numbers(losses: EditorLosses) -> list[float]:
    return [getattr(losses, field.name).item() for field in fields(losses)]


def ctc_by_hand(logits_PV: Tensor, target: list[int], blank: int) -> float:
    """Minus the logarithm of the summed probability of every path that collapses to the target; 0 without any."""
    log_probabilities = logits_PV.detach().log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(logits_PV.shape[-1]), repeat=len(logits_PV)):
        if [token for token, _ in itertools.groupby(path) if token != blank] == target:
            total += math.exp(sum(log_probabilities[place, token].item() for place, token in enumerate(path)))
    return -math.log(total) if total else 0.0


def test_each_loss_equals_its_formula() -> None:
    edited = outputs(ROWS)
    found = losses_of(edited, ROWS)
    logits = edited.logits_NV.split(edited.positions.lengths_B.tolist())
    expected = dict.fromkeys(("editing", "copying", "drafting", "spelling"), 0.0)
    for number, (states, pooled, tokens, reference, spelling) in enumerate(ROWS):
        inputs = [SLOT, *(id for token in tokens for id in (token, SLOT))]
        inputs += [SLOT] * (MINIMUM - len(inputs))
        expected["editing"] += ctc_by_hand(logits[number], reference, SLOT)
        expected["copying"] -= sum(
            row.log_softmax(-1)[id].item() for row, id in zip(logits[number], inputs, strict=True)
        )
        expected["drafting"] += ctc_by_hand(edited.draft.logits_BPV[number, :pooled], reference, SLOT)
        expected["spelling"] += ctc_by_hand(edited.draft.mid_logits_BSC[number, :states], spelling, MID_BLANK)
    for name, value in expected.items():
        assert getattr(found, name).item() == pytest.approx(value, rel=1e-5), name
    assert numbers(found)[4:] == [3 + 3 + 5, 5, 12, 1]


def test_the_total_is_the_weighted_sum_of_the_means() -> None:
    edited = outputs(ROWS)
    found = losses_of(edited, ROWS)
    config = Loss(copy_weight=0.02, draft_weight=0.3, mid_weight=0.7)
    editing, copying, drafting, spelling, positions, pooled, states, _ = numbers(found)
    expected = editing / positions + 0.02 * copying / positions + 0.3 * drafting / pooled + 0.7 * spelling / states
    assert found.total(config).item() == pytest.approx(expected)
    assert found.total(Loss(copy_weight=0, draft_weight=0, mid_weight=0)).item() == pytest.approx(editing / positions)


def test_the_copying_loss_is_a_mean_over_text_positions_slots_included() -> None:
    edited = outputs(ROWS)
    found = losses_of(edited, ROWS)
    inputs_N = torch.cat([torch.tensor(row) for row in edited.positions.lists()])
    expected = torch.nn.functional.cross_entropy(edited.logits_NV, inputs_N)
    torch.testing.assert_close(found.copying / found.positions, expected)


def test_what_no_alignment_can_have_adds_0_and_no_gradient() -> None:
    """Two equal tokens need three states; a NaN or an infinity would end the training."""
    rows: list[Row] = [(1, 2, [], [1, 1], [2, 1]), (1, 1, [], [0, 1, 0, 1], [1, 1])]
    edited = outputs(rows)
    found = losses_of(edited, rows)
    assert found.drafting == found.spelling == 0
    assert found.editing.item() == pytest.approx(ctc_by_hand(edited.logits_NV[:3], [1, 1], SLOT), rel=1e-5)
    found.total(Loss(copy_weight=0)).backward()
    for logits in (edited.logits_NV, edited.draft.logits_BPV, edited.draft.mid_logits_BSC):
        assert logits.grad is not None and logits.grad.isfinite().all()
    assert not edited.draft.logits_BPV.grad.any() and not edited.draft.mid_logits_BSC.grad.any()  # type: ignore[union-attr]
    assert not edited.logits_NV.grad[3:].any()  # type: ignore[index]


tokens = st.lists(st.integers(0, SLOT - 1), max_size=3)
characters = st.lists(st.integers(1, CHARACTERS), max_size=4)
batches = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), tokens, tokens, characters), min_size=1, max_size=4)


@settings(max_examples=50)
@given(batches, st.data())
def test_sums_add_up_over_utterances_and_fillers_count_nothing(rows: list[Row], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(rows), max_size=len(rows)))
    edited = outputs(rows)
    found = numbers(losses_of(edited, rows, weights))
    expected = [0.0] * len(found)
    logits = edited.logits_NV.split(edited.positions.lengths_B.tolist())
    for number, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        draft = Draft(
            states=[],
            lengths_B=torch.tensor([row[0]]),
            mid_logits_BSC=edited.draft.mid_logits_BSC[number : number + 1, : row[0]],
            logits_BPV=edited.draft.logits_BPV[number : number + 1, : row[1]],
            pooled_lengths_B=torch.tensor([row[1]]),
        )
        alone = Edited(draft, interleave(rows_of([row[2]]), SLOT, MINIMUM), logits[number])
        expected = [one + weight * other for one, other in zip(expected, numbers(losses_of(alone, [row])), strict=True)]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_losses_are_computed_in_float32() -> None:
    edited = outputs(ROWS)
    half = edited._replace(logits_NV=edited.logits_NV.bfloat16())
    found = losses_of(half, ROWS)
    rounded = edited._replace(logits_NV=edited.logits_NV.bfloat16().float())
    assert numbers(found) == numbers(losses_of(rounded, ROWS))
