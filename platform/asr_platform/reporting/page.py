"""Blocks of the report, and its HTML page, which `templates/report.html.jinja` lays out.

The page is one file and needs no network: Plotly, plots and styles are in it. Jinja escapes all text.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from asr_platform.reporting.rendering import rendered

PAPER_WIDTH = 680  # CSS pixels of a figure on paper: A4 or Letter without margins
CONFIG = {"responsive": True, "displayModeBar": False}


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Args:
        style: a conclusion has a coloured edge, a note is small.
        lead: first sentences, in bold.
        command: a command line to copy, at the end.
    """

    text: str
    style: Literal["", "conclusion", "note"] = ""
    lead: str = ""
    command: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    heading: str


@dataclass(frozen=True)
class Code:
    """Preformatted text, such as commands or YAML."""

    code: str


@dataclass(frozen=True)
class Table:
    """A table of plain text. If it is too wide, it scrolls, with the first column in place.

    Args:
        numeric: headings of the columns that hold numbers.
        prose: heading of the column that holds sentences.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: Sequence[str] = ()
    prose: str = ""


@dataclass(frozen=True)
class Facts:
    """A table of names and values without headings."""

    facts: Sequence[tuple[str, object]]


@dataclass(frozen=True)
class Figure:
    """A Plotly figure with its caption; it takes the width of the page."""

    caption: str
    figure: go.Figure

    def html(self, id: str) -> Markup:
        """The figure as an HTML element with this id."""
        options = {"config": CONFIG, "include_plotlyjs": False, "full_html": False, "div_id": id}
        return Markup(self.figure.to_html(**options))


@dataclass(frozen=True)
class Picture:
    """A PNG file with its caption. On a narrow screen it scrolls."""

    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """The file as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


Block = Text | Heading | Code | Table | Facts | Figure | Picture


def paragraph(*sentences: str) -> Text:
    """A paragraph of these sentences; empty ones are left out."""
    return Text(" ".join(filter(None, sentences)))


def conclusion(*sentences: str) -> Text:
    """A paragraph that says what to conclude from a figure or table."""
    return Text(" ".join(filter(None, sentences)), "conclusion")


def render(title: str, opening: Sequence[Block], sections: Sequence[tuple[str, str, Sequence[Block]]]) -> str:
    """The report as an HTML page.

    Args:
        sections: (id, heading, blocks) of each.
    """
    plotly = Markup(get_plotlyjs())
    return rendered(
        "report.html.jinja", title=title, opening=opening, sections=sections, plotly=plotly, paper_width=PAPER_WIDTH
    )
