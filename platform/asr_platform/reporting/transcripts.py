"""A table of references and hypotheses with every error marked: a page for a browser, and plain text.

The two lines of an utterance are aligned character by character, so the marks are the errors that CER counts.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from trainables.evaluation.metrics import align_characters

if TYPE_CHECKING:  # importing it imports torch
    from trainables.evaluation.examples import Example, Examples, WordError

WIDTH = 100  # characters a line
GAP = "·"  # where the other line has a character more
BLANK = "␣"  # a space that is an error
LETTERS = {"equal": " ", "substitute": "S", "insert": "I", "delete": "D"}
LEGEND = f"S substituted, I inserted, D left out, {GAP} nothing, {BLANK} a space"

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 62em; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.3em; } h2 { font-size: 1em; margin: 1.4em 0 .2em; } h2 small { font-weight: normal; color: #555; }
section { break-inside: avoid; }
pre, code { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { margin: 0 0 .5em; overflow-x: auto; }
i { font-style: normal; color: #555; user-select: none; }
b, ins, del { font-weight: bold; border-radius: 2px; print-color-adjust: exact; }
b { color: #7a4300; background: #ffe3b8; text-decoration: underline dotted; }
ins { color: #00508f; background: #d3e9fb; text-decoration: underline double; }
del { color: #8a0050; background: #fadcec; text-decoration: line-through; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .1em 1.5em .1em 0; }
td:last-child, th:last-child { text-align: right; padding-right: 0; font-variant-numeric: tabular-nums; }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 11px; } pre { font-size: 10px; } }
"""
TAGS_SAID = {"equal": "", "substitute": "b", "insert": "i", "delete": "del"}
TAGS_HEARD = {"equal": "", "substitute": "b", "insert": "ins", "delete": "i"}


class Column(NamedTuple):
    """One place of the aligned lines."""

    kind: str
    reference: str
    hypothesis: str


def columns(reference: str, hypothesis: str) -> list[Column]:
    """The alignment of two texts, a column each character; a gap where a line has none."""
    (alignment,) = align_characters([reference], [hypothesis])
    found = []
    for pair in alignment:
        one, other = pair.reference or GAP, pair.hypothesis or GAP
        if pair.operation != "equal":
            one, other = one.replace(" ", BLANK), other.replace(" ", BLANK)
        found.append(Column(pair.operation, one, other))
    return found


def lines(found: list[Column], width: int = WIDTH) -> Iterator[list[Column]]:
    """Columns in lines of at most `width`, broken behind a space of both texts where there is one."""
    while len(found) > width:
        cut = next((end for end in range(width, width // 2, -1) if found[end - 1].reference == " "), width)
        yield found[:cut]
        found = found[cut:]
    yield found


def text_page(examples: Examples) -> str:
    """The table as plain text: under each pair of lines the letters S, I and D."""
    parts = [_title(examples), LEGEND, ""]
    parts += ["word errors"] + [f"{row.count:>6}  {_words(row)}" for row in examples.word_errors] + [""]
    for item in examples.transcripts:
        parts += [f"{item.id}   {_facts(item)}", *text_lines(item.reference, item.hypothesis, "heard"), ""]
    return "\n".join(parts)


def text_lines(reference: str, hypothesis: str, heard: str) -> Iterator[str]:
    """One utterance in pairs of lines, with the letters S, I and D under them; `heard` is who heard it."""
    for line in lines(columns(reference, hypothesis)):
        yield f"  said:  {''.join(column.reference for column in line)}".rstrip()
        yield f"  {heard + ':':<6} {''.join(column.hypothesis for column in line)}".rstrip()
        if marks := "".join(LETTERS[column.kind] for column in line).rstrip():
            yield f"         {marks}"


def html_page(examples: Examples) -> str:
    """The table as one page without links: every kind of error has its own colour and its own line."""
    title = html.escape(_title(examples))
    legend = "<b>substituted</b>, <ins>inserted</ins>, <del>left out</del>"
    words = "".join(
        f"<tr><td>{html.escape(row.reference) or '<i>nothing</i>'}</td>"
        f"<td>{html.escape(row.hypothesis) or '<i>nothing</i>'}</td><td>{row.count}</td></tr>\n"
        for row in examples.word_errors
    )
    table = f"<table><tr><th>said</th><th>heard</th><th>times</th></tr>\n{words}</table>" if words else "<p>none</p>"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f"<p>The upper line is what was said, the lower one what was heard: {legend}.</p>\n"
        f"{''.join(_section(item) for item in examples.transcripts)}"
        f"<h2>The commonest word errors of the whole split</h2>\n{table}\n</body></html>\n"
    )


def _section(item: Example) -> str:
    pairs = "\n\n".join(
        "\n".join(
            [
                _marked([(TAGS_SAID[column.kind], column.reference) for column in line]),
                _marked([(TAGS_HEARD[column.kind], column.hypothesis) for column in line]),
            ]
        )
        for line in lines(columns(item.reference, item.hypothesis))
    )
    heading = f"<h2>{html.escape(item.id)} <small>{_facts(item)}</small></h2>"
    return f"<section>{heading}\n<pre>{pairs}</pre></section>\n"


def _marked(characters: list[tuple[str, str]]) -> str:
    """One line, in which neighbours of the same tag share one."""
    parts = []
    for tag, group in groupby(characters, key=lambda item: item[0]):
        text = html.escape("".join(character for _, character in group))
        parts.append(f"<{tag}>{text}</{tag}>" if tag else text)
    return "".join(parts)


def _title(examples: Examples) -> str:
    return f"{examples.split} after epoch {examples.epoch}: {len(examples.transcripts)} utterances, the worst first"


def _facts(item: Example) -> str:
    rate = f", CER {item.errors / len(item.reference):.1%}" if item.reference else ""
    return f"{item.seconds:.1f} s, {item.errors} error{'s' * (item.errors != 1)}{rate}"


def _words(row: WordError) -> str:
    return f"{row.reference or '(nothing)'} -> {row.hypothesis or '(nothing)'}"
