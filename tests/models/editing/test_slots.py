"""Tokens and the editor's text positions turn into each other without loss."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.models.editing.slots import TokenRows, collapse, interleave

SLOT = 4
CPU = torch.device("cpu")
tokens = st.lists(st.integers(0, 6).filter(lambda token: token != SLOT), max_size=12)
rows = st.lists(tokens, min_size=1, max_size=4)
minimums = st.integers(1, 30)


def positions(row: list[int], minimum: int = 1) -> list[int]:
    return interleave(TokenRows.of([row], CPU), SLOT, minimum).lists()[0]


@given(rows, minimums)
def test_collapsing_undoes_interleaving(hypotheses: list[list[int]], minimum: int) -> None:
    """Repeated tokens and empty hypotheses included, in batches of any lengths."""
    found = interleave(TokenRows.of(hypotheses, CPU), SLOT, minimum)
    assert collapse(found.ids_BU, found.lengths_B, SLOT).lists() == hypotheses


@given(rows, minimums)
def test_every_second_position_is_a_slot_and_slots_fill_the_end(hypotheses: list[list[int]], minimum: int) -> None:
    found = interleave(TokenRows.of(hypotheses, CPU), SLOT, minimum)
    for row, line in zip(hypotheses, found.lists(), strict=True):
        assert len(line) == max(2 * len(row) + 1, minimum)
        assert line[1 : 2 * len(row) : 2] == row
        assert line[::2] == [SLOT] * len(line[::2]) and set(line[2 * len(row) :]) == {SLOT}


def test_an_empty_hypothesis_is_slots_alone() -> None:
    assert positions([], minimum=8) == [SLOT] * 8
    assert positions([5], minimum=8) == [SLOT, 5, *[SLOT] * 6]


def changes_needed(line: list[int], wanted: list[int]) -> float:
    """Smallest number of positions at which an output that collapses to `wanted` differs from its input `line`."""
    labels = [SLOT, *(token for pair in zip(wanted, [SLOT] * len(wanted), strict=True) for token in pair)]
    costs = [0.0, 0.0] + [math.inf] * (len(labels) - 2)  # of the alignments that end in each label, a blank or a token
    for place, token in enumerate(line):
        before, costs = costs, []
        for state, label in enumerate(labels):
            reached = before[max(0, state - 1) : state + 1] if place else before[state : state + 1]
            if place and state > 1 and label not in (SLOT, labels[state - 2]):
                reached = [before[state - 2], *reached]
            costs.append(min(reached) + (token != label))
    return min(costs[-2:])


@given(st.lists(st.integers(5, 20), unique=True, max_size=10), st.integers(1, 6), st.data())
def test_inserting_tokens_in_a_row_changes_few_positions(row: list[int], missing: int, data: st.DataObject) -> None:
    """One missing token changes one position, K in a row 2 K - 1: neighbours move into the slots around them."""
    missing = min(missing, len(row) + 1)  # there is no room for more
    place = data.draw(st.integers(0, len(row)))
    wanted = row[:place] + list(range(21, 21 + missing)) + row[place:]
    assert changes_needed(positions(row), wanted) == 2 * missing - 1


@given(tokens.map(lambda row: row[:5]))
def test_keeping_and_correcting_tokens(row: list[int]) -> None:
    """A copy changes no position; a substitution or a deletion changes one."""
    assert changes_needed(positions(row), row) == 0
    for place in range(len(row)):
        assert changes_needed(positions(row), [*row[:place], 21, *row[place + 1 :]]) == 1
        assert changes_needed(positions(row), row[:place] + row[place + 1 :]) == 1


@given(st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=4), st.integers(0, 3))
def test_collapsing_merges_equal_neighbours_then_drops_blanks(lines: list[list[int]], extra: int) -> None:
    """Ids behind a row's length have no influence on its positions."""
    found = TokenRows.of(lines, CPU)
    padding = torch.randint(0, 7, (len(lines), extra))
    ids_BP = torch.cat([found.ids_BU, padding], dim=1)
    expected = [[token for token, _ in itertools.groupby(line) if token != SLOT] for line in lines]
    collapsed = collapse(ids_BP, found.lengths_B, SLOT)
    assert collapsed.lists() == expected
    assert collapsed.ids_BU.shape[1] == max(1, *map(len, expected), 1)


def test_rows_list_the_valid_ids() -> None:
    assert TokenRows(torch.tensor([[1, 2], [3, 9]]), torch.tensor([2, 1])).lists() == [[1, 2], [3]]
    assert TokenRows.of([[], []], CPU).ids_BU.shape == (2, 1)
