"""Lays out tables of many rows: Rich takes milliseconds for each of the rows, and lays them out whenever it prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.table import Table
from rich.text import Span, Text

BETWEEN = 3  # spaces between two columns of Rich's tables in `SIMPLE`
AROUND = 4  # columns of the terminal that such a table takes beside its cells


class Cells(NamedTuple):
    """A column of a table.

    Args:
        heading: may have line breaks.
        cells: one for each row, of one line and one style each.
        shrinks: whether this column is cut first where the table is too wide.
    """

    heading: str
    cells: Sequence[Text]
    justify: Literal["left", "right"] = "right"
    shrinks: bool = False

    @property
    def lines(self) -> list[str]:
        return self.heading.split("\n")


def table_of(columns: Sequence[Cells], width: int, caption: str = "") -> Table:
    """A table of columns, which have equally many cells.

    Rich gets a single row with a line for each of the table's, which it lays out several times as fast as thousands of
    rows; and where the table fits the width, a single column too.

    Args:
        width: of the terminal, in columns.
    """
    widths = [max(map(cell_len, [*one.lines, *(cell.plain for cell in one.cells)])) for one in columns]
    if sum(widths) + BETWEEN * (len(widths) - 1) + AROUND <= width:
        columns = [_joined(columns, widths)]
    table = Table(box=SIMPLE, caption=caption or None, caption_justify="left")
    for one in columns:
        table.add_column(Text(one.heading), justify=one.justify, no_wrap=not one.shrinks)
    if columns[0].cells:
        line_break = Text("\n", no_wrap=True, overflow="ellipsis")
        table.add_row(*(line_break.join(one.cells) for one in columns))
    return table


def _joined(columns: Sequence[Cells], widths: Sequence[int]) -> Cells:
    """One column with the lines of several, each aligned to its width."""
    height = max(len(one.lines) for one in columns)
    headings = [[*[""] * (height - len(one.lines)), *one.lines] for one in columns]
    heading = "\n".join(_line(columns, widths, texts) for texts in zip(*headings, strict=True))
    cells = []
    for row in zip(*(one.cells for one in columns), strict=True):
        line, spans, start = [], [], 0
        for one, width, cell in zip(columns, widths, row, strict=True):
            text = _aligned(cell.plain, width, one.justify)
            if cell.style:
                before = len(text) - len(cell.plain) if one.justify == "right" else 0
                spans.append(Span(start + before, start + before + len(cell.plain), cell.style))
            line.append(text)
            start += len(text) + BETWEEN
        cells.append(Text((" " * BETWEEN).join(line), spans=spans))
    return Cells(heading, cells, "left")


def _line(columns: Sequence[Cells], widths: Sequence[int], texts: Sequence[str]) -> str:
    aligned = [_aligned(text, width, one.justify) for one, width, text in zip(columns, widths, texts, strict=True)]
    return (" " * BETWEEN).join(aligned)


def _aligned(text: str, width: int, justify: str) -> str:
    space = " " * (width - cell_len(text))
    return space + text if justify == "right" else text + space
