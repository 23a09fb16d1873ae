"""Records of trials are decoded late and once, and tell the same as if they were decoded at every reading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import records

from asr_platform.study.ledger import Ledger
from asr_platform.study.trials.record import Curve, TrialRecord


def curve_of(rows: list[dict[str, Any]], located: Callable[[str], str]) -> Curve:
    texts = {row["epoch"]: json.dumps(row) for row in rows}
    values = {row["epoch"]: row["val_cer"] for row in rows}
    return Curve(values, lambda epochs: [texts[epoch] for epoch in epochs], located)


CERS = [[], [0.5], [0.5, 0.25, 0.75], [0.5, 0.25, 0.25, 0.5], [1.5, 0.0, float("inf")]]


@pytest.mark.parametrize("cers", CERS)
def test_a_curve_tells_the_same_decoded_or_not(cers: list[float], tmp_path: Path) -> None:
    rows = records.curve(cers)
    late = curve_of(rows, lambda path: f"{tmp_path}{path}")
    for row in rows:
        row["checkpoint"] = f"{tmp_path}{row['checkpoint']}"
    assert late == rows and rows == late and list(late) == rows and len(late) == len(rows)
    assert [late[place] for place in range(-len(rows), len(rows))] == rows + rows
    assert (late[1:], late[::-1]) == (rows[1:], rows[::-1])
    with pytest.raises(IndexError):
        late[len(rows)]
    one, other = (TrialRecord(0, "complete", {}, curve, {}, "") for curve in (late, rows))
    for epoch in range(2, len(rows) + 1):
        (tmp_path / "checkpoints" / str(epoch)).mkdir(parents=True)
    assert one == other and repr(one) == repr(other)
    assert (one.best, one.checkpoint, one.model, one.seconds) == (
        other.best,
        other.checkpoint,
        other.model,
        other.seconds,
    )
    assert list(one.best_first) == list(other.best_first)


def test_what_is_changed_in_a_row_that_was_asked_for_stays() -> None:
    curve = curve_of(records.curve([0.5, 0.4]), str)
    curve[-1]["checkpoint"] = None
    assert curve[1]["checkpoint"] is None and [row["checkpoint"] for row in curve] == ["/checkpoints/1", None]


def test_a_trial_that_has_ended_is_read_once_and_its_facts_whenever_they_change(tmp_path: Path) -> None:
    """By this process, which makes the same record of it until then, or by another one."""
    ledger = records.ledger_in(tmp_path)
    other = Ledger.open(records.storage_in(tmp_path), "small")
    ended, running = records.add(ledger, "complete", [0.5]), records.add(ledger, "running", [0.4])
    before = other.trials()
    assert other.trials()[ended] is before[ended] is other.trial(ended)
    ledger.describe(ended, "mlflow_run_id", "abc")
    ledger.record(running, records.row(2, 0.3))
    now = other.trials()
    assert now[ended].about == {**before[ended].about, "mlflow_run_id": "abc"} == other.trial(ended).about
    assert (before[running].epochs, now[running].epochs) == (1, 2)
    ledger.widen(records.space(), tmp_path, {ended: {"model.d_model": 7}})
    assert other.trials()[ended].params == {"model.d_model": 7} == other.trial(ended).params
    assert other.trials()[running].params == before[running].params
