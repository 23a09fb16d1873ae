"""Tables that are laid out as one row, or one column, look as if Rich had laid out each row."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr_platform.cli.tables.layout import Cells, table_of


def laid_out_by_rows(columns: Sequence[Cells], caption: str) -> Table:
    table = Table(box=SIMPLE, caption=caption or None, caption_justify="left")
    for one in columns:
        table.add_column(Text(one.heading), justify=one.justify, no_wrap=not one.shrinks)
    for row in zip(*(one.cells for one in columns), strict=True):
        for cell in row:
            cell.no_wrap, cell.overflow = True, "ellipsis"
        table.add_row(*row)
    return table


def columns_of(rows: int) -> list[Cells]:
    words = ["", "short", "a reason with many words", "für 音声 認識", "[not] markup", "a" * 40]
    return [
        Cells("trial", [Text(str(number**3)) for number in range(rows)]),
        Cells("95%\ninterval", [Text(f"{number / 7:.2%}" if number % 3 else "") for number in range(rows)]),
        Cells("state", [Text(("running", "failed")[number % 2], style=("cyan", "red")[number % 2])
                        for number in range(rows)], "left"),
        Cells("what\nstopped\nit", [Text(words[number % len(words)]) for number in range(rows)], "left", shrinks=True),
        Cells("learning 学\nrate", [Text(f"{0.1**number:.3g}") for number in range(rows)]),
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [0, 1, 2, 13])
@pytest.mark.parametrize("width", [20, 40, 60, 75, 100, 200])
@pytest.mark.parametrize("caption", ["", "a caption that is longer than the table is wide, in the end, by some words"])
def test_a_table_looks_as_if_rich_had_laid_out_each_row(rows: int, width: int, caption: str) -> None:
    columns = columns_of(rows)
    assert shown(table_of(columns, width, caption), width) == shown(laid_out_by_rows(columns, caption), width)


@pytest.mark.parametrize("width", [60, 200])
def test_styles_are_those_of_the_cells(width: int) -> None:
    target = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    found = [
        (segment.text.strip(), segment.style.color.name)
        for segment in target.render(table_of(columns_of(3), width))
        if segment.style and segment.style.color
    ]
    assert found == [("running", "cyan"), ("failed", "red"), ("running", "cyan")]


def shown(table: Table, width: int) -> str:
    target = Console(file=io.StringIO(), width=width)
    target.print(table)
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()
