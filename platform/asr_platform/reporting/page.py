"""The page around a report: its style, and the few kinds of HTML that it is made of.

Whatever is not made here is escaped here: the functions take plain text, and `Html` for what they made themselves.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from plotly.io import to_html
from plotly.offline import get_plotlyjs

PAPER = 680  # CSS pixels that a figure has on paper: A4 or Letter less their margins
CONFIG = {"responsive": True, "displayModeBar": False}

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; color: #222; background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 0 0 .4rem; padding-top: .6rem; border-top: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
p { margin: .4rem 0 .7rem; max-width: 46rem; }
section { margin: 1.8rem 0; }
.conclusion { border-left: 3px solid #0072b2; padding-left: .7rem; }
.note { color: #555; font-size: .875rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: .8rem 0; padding: 0; }
nav a { display: inline-block; padding: .2rem 0; }
a { color: #00508f; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .3rem 0; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee; }
th { font-weight: 600; vertical-align: bottom; border-bottom: 1px solid #999; }
tbody th, table > tr > th { border-bottom: 1px solid #eee; font-weight: normal; color: #555; vertical-align: top;
                             white-space: nowrap; }
.scroll th:first-child, .scroll td:first-child { position: sticky; left: 0; background: #fff; }
.number { text-align: right; white-space: nowrap; }
.words { min-width: 22rem; }
code { font: .875em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; background: #f6f6f4;
       overflow-wrap: anywhere; }
figure { margin: .5rem 0 1rem; }
figure img { display: block; max-width: 100%; min-width: 44rem; height: auto; }
figcaption { color: #555; font-size: .875rem; }
pre { margin: .3rem 0 1rem; padding: .6rem .8rem; overflow-x: auto; background: #f6f6f4; border-radius: 3px;
      font: .8125rem/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
@page { margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  section { margin: 1rem 0; }
  h2, h3, p:has(+ figure), p:has(+ .scroll) { break-after: avoid; }
  figure { overflow: hidden; } /* where a mouse would draw is wider than what is drawn */
  figure, tr, .conclusion { break-inside: avoid; }
  figure:has(+ .conclusion) { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding-right: .5rem; overflow-wrap: anywhere; }
  tbody th { white-space: normal; }
  th.number { white-space: normal; }
  .words { min-width: 0; }
  figure img { min-width: 0; max-height: 230mm; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; overflow: visible; }
  .conclusion { print-color-adjust: exact; }
}
"""

# Plotly draws for the width of the screen, which paper has not.
SCRIPT = f"""
const figures = () => document.querySelectorAll(".js-plotly-plot");
addEventListener("beforeprint", () => figures().forEach(one => Plotly.relayout(one, {{width: {PAPER}}})));
addEventListener("afterprint", () => figures().forEach(one => Plotly.relayout(one, {{width: null, autosize: true}})));
"""


class Html(str):
    """Text that is HTML already."""


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Args:
        id: what links to it.
        content: what stands below the heading.
    """

    id: str
    heading: str
    content: Html


def escaped(text: object) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def joined(parts: Iterable[object]) -> Html:
    return Html("\n".join(map(escaped, parts)))


def tagged(name: str, content: object, css: str = "") -> Html:
    kind = f' class="{css}"' if css else ""
    return Html(f"<{name}{kind}>{escaped(content)}</{name}>")


def paragraph(*sentences: object) -> Html:
    """What a figure shows."""
    return tagged("p", Html(" ".join(escaped(sentence) for sentence in sentences if sentence)))


def conclusion(*sentences: object) -> Html:
    """What to conclude."""
    return tagged("p", Html(" ".join(escaped(sentence) for sentence in sentences if sentence)), "conclusion")


def note(*sentences: object) -> Html:
    """What is good to know besides."""
    return tagged("p", Html(" ".join(escaped(sentence) for sentence in sentences if sentence)), "note")


def code(text: str) -> Html:
    return tagged("pre", text)


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], numbers: Iterable[str] = (), words: str = ""
) -> Html:
    """Rows of plain text. A wide one scrolls within itself, with its first column in place.

    Args:
        numbers: the columns that hold numbers.
        words: the one that holds sentences.
    """
    kinds = ["number" if heading in set(numbers) else "words" if heading == words else "" for heading in headings]

    def row(cells: Sequence[object], name: str) -> Html:
        return tagged("tr", Html("".join(tagged(name, cell, kind) for cell, kind in zip(cells, kinds, strict=True))))

    head = tagged("thead", row(headings, "th"))
    return _scrolling(joined([head, tagged("tbody", joined(row(cells, "td") for cells in rows))]))


def facts(rows: Sequence[tuple[str, object]]) -> Html:
    """A table of names and what is to be said of each."""
    return _scrolling(joined(Html(f"<tr>{tagged('th', name)}{tagged('td', value)}</tr>") for name, value in rows))


def _scrolling(content: Html) -> Html:
    return Html(f'<div class="scroll" tabindex="0">{tagged("table", content)}</div>')


def figure(drawn: Any, id: str) -> Html:
    """A Plotly figure; it takes the width that there is."""
    made = to_html(drawn, config=CONFIG, include_plotlyjs=False, full_html=False, div_id=f"figure-{id}")
    return Html(f"<figure>{made}</figure>")


def picture(png: bytes, caption: str) -> Html:
    """A picture within the page; where that is narrow, it scrolls within itself."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = f'<img alt="{escaped(caption)}" src="{source}">'
    return Html(f'<figure><div class="scroll" tabindex="0">{image}</div>{tagged("figcaption", caption)}</figure>')


def page(title: str, opening: Html, sections: Sequence[Section]) -> str:
    """The whole of it, with all that it takes to read it."""
    links = joined(Html(f'<li><a href="#{one.id}">{escaped(one.heading)}</a></li>') for one in sections)
    body = joined(
        Html(f'<section id="{one.id}"><h2>{escaped(one.heading)}</h2>\n{one.content}</section>') for one in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script></head>\n"
        f"<body><h1>{escaped(title)}</h1>\n{opening}\n"
        "<noscript><p>The figures are drawn by JavaScript, which is switched off here.</p></noscript>\n"
        f"<nav><ul>{links}</ul></nav>\n{body}\n</body></html>\n"
    )
