"""Notes that are longer than a description in MLflow, or than those that the command takes."""

from __future__ import annotations

import pytest
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH
from noted import Noted
from noted import sweep as sweep
from noted import without_note as without_note

from asr_platform.study.steering.notes import LONGEST, set_note, write_note
from asr_platform.tracking.notes import CUT


def test_a_note_from_there_may_be_longer_than_the_commands(sweep: Noted) -> None:
    """The ledger keeps all of it, and the description stays as it is."""
    room = MAX_TAG_VAL_LENGTH - len(f"{sweep.own}\n\n**Note:** ")
    text = "".join(f"{number:09} " for number in range(room))[: room - 1] + "."
    assert room > LONGEST
    sweep.edit(f"{sweep.own}\n\n**Note:** {text}")
    sweep.start_driver()
    assert (sweep.note, sweep.description) == (text, f"{sweep.own}\n\n**Note:** {text}")
    write_note(sweep.home, sweep.ledger, 0, "ours")
    sweep.edit(f"{sweep.own}\n\n**Note:** {text[:-1]}!")
    sweep.start_driver()
    assert sweep.note == f"ours\n\n{text[:-1]}!"
    assert len(sweep.description) == MAX_TAG_VAL_LENGTH and sweep.description.endswith(CUT)


def test_what_is_cut_of_a_note_with_other_line_ends_and_bytes_stays(sweep: Noted) -> None:
    """Windows' line ends, and what an argument of a command had that is no UTF-8, are shown as the ledger has them."""
    set_note(sweep.ledger, 0, "BEGIN\r\n\udcff " + "".join(f"{number:09}\r\n" for number in range(900)) + "END", 1000)
    before = sweep.note
    sweep.start_driver()
    assert sweep.description.endswith(CUT)
    sweep.edit(sweep.description.replace("BEGIN", "Begin"))
    sweep.start_driver()
    assert sweep.note == before.replace("BEGIN", "Begin") and sweep.note.endswith("END")


@pytest.mark.parametrize(("edits", "expected"), [
    ({"BEGIN": "Begin"}, "Begin {middle} END"),
    ({"BEGIN ": "", CUT: f"{CUT}\nmore"}, "{middle} END\nmore"),
    ({CUT: ""}, "BEGIN {shown}\n\n{hidden} END"),
])  # fmt: skip
def test_what_is_cut_stays_when_the_description_is_edited(sweep: Noted, edits: dict[str, str], expected: str) -> None:
    middle = "".join(f"{number:09}," for number in range(900))
    note = f"BEGIN {middle} END"
    set_note(sweep.ledger, 0, note, 1000)
    sweep.start_driver()
    shown = len(sweep.description) - len(f"{sweep.own}\n\n**Note:** BEGIN {CUT}")
    edited = sweep.description
    for before, after in edits.items():
        edited = edited.replace(before, after)
    sweep.edit(edited)
    for _ in range(2):
        sweep.start_driver()
        parts = {"middle": middle, "shown": middle[:shown], "hidden": middle[shown:]}
        assert sweep.note == expected.format(**parts)
    assert len(sweep.description) <= MAX_TAG_VAL_LENGTH
    sweep.edit("")
    sweep.start_driver()
    assert sweep.note == ""
