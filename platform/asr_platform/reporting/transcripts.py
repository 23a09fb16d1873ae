"""References and hypotheses with every error marked: a page for a browser, and plain text.

Texts are aligned character by character, so the marks are the errors that CER counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jiwer

from asr_platform.analysis.text import counted
from trainables.data.text.transcripts import normalized
from trainables.evaluation.metrics import Alignment, align_characters

if TYPE_CHECKING:  # importing it imports torch
    from trainables.evaluation.examples import Example, Examples

WIDTH = 100  # characters a line
LEGEND = "S substitution, I insertion, D deletion, * nothing"


def html_page(examples: Examples) -> str:
    """The examples as one HTML page without links: every kind of error has its own colour and line."""
    from asr_platform.reporting.page import rendered  # Jinja, for which a terminal need not wait

    title = _title(examples)
    return rendered(
        "examples.html.jinja", title=title, examples=examples, summary=_summary, aligned_words=aligned_words,
        drafts=any(map(edited, examples.transcripts)), edited=edited,
    )  # fmt: skip


def aligned_words(reference: str, hypothesis: str) -> list[Alignment]:
    """Character alignment of two texts, split after their common spaces, where a browser may break the line."""
    words: list[Alignment] = [[]]
    (alignment,) = align_characters([reference], [hypothesis])
    for pair in alignment:
        words[-1].append(pair)
        if pair.reference == pair.hypothesis == " ":
            words.append([])
    return words


def text_page(examples: Examples) -> str:
    """The examples as plain text, with S, I and D under the errors, and under the edits of a draft."""
    word_errors = [
        f"{row.count:>6}  {row.reference or '(nothing)'} -> {row.hypothesis or '(nothing)'}"
        for row in examples.word_errors
    ]
    transcripts = [
        line
        for item in examples.transcripts
        for line in (
            f"{item.id}   {_summary(item)}",
            *aligned_lines(item.reference, item.hypothesis),
            *(["  edits of the draft:", *_edits(item)] if edited(item) else []),
            "",
        )
    ]
    return "\n".join([_title(examples), LEGEND, "", "word errors", *word_errors, "", *transcripts])


def _edits(item: Example) -> list[str]:
    return aligned_lines(item.draft or "", item.hypothesis, "NEW", "OLD")


def aligned_lines(reference: str, hypothesis: str, name: str = "HYP", reference_name: str = "REF") -> list[str]:
    """Reference and hypothesis in lines of at most `WIDTH` characters, with S, I and D under the errors.

    Args:
        name, reference_name: labels before hypothesis and reference, of at most three letters.
    """
    output = jiwer.process_characters(normalized(reference), normalized(hypothesis))
    text = jiwer.visualize_alignment(output, show_measures=False, skip_correct=False, line_width=WIDTH)
    labels = {"HYP:": f"{name}:".ljust(4), "REF:": f"{reference_name}:".ljust(4)}
    lines = [labels.get(line[:4], line[:4]) + line[4:] for line in text.splitlines()[2:]]  # without jiwer's heading
    return [f"  {line.rstrip()}" for line in lines if line.strip()]


def _title(examples: Examples) -> str:
    return f"{examples.split} after epoch {examples.epoch}: {len(examples.transcripts)} utterances, the worst first"


def _summary(item: Example) -> str:
    rate = f", CER {item.errors / len(item.reference):.1%}" if item.reference else ""
    return f"{item.seconds:.1f} s, {counted(item.errors, 'error')}{rate}{_draft(item)}"


def edited(item: Example) -> bool:
    """Whether the hypothesis is an edited draft, and not the draft itself."""
    return item.draft is not None and item.draft != item.hypothesis


def _draft(item: Example) -> str:
    if item.draft is None:
        return ""
    if not edited(item):
        return "; as drafted"
    (alignment,) = align_characters([item.reference], [item.draft])
    return f"; in the draft, {counted(sum(pair.operation != 'equal' for pair in alignment), 'error')}"
