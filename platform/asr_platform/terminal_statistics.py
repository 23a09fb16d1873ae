"""What a person sees of differences between models: comparisons, confirmations, importances."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from asr_platform.compare import Comparison, Measure
from asr_platform.significance import Difference
from asr_platform.terminal import interval_text, say
from asr_platform.transcripts import LEGEND, text_lines


def print_comparison(console: Console, found: Comparison) -> None:
    """Both models' rates, the difference with its interval, and the utterances that differ most."""
    for letter, name in zip("AB", found.names, strict=True):
        say(console, f"{letter}  {name}")
    caption = f"{found.a.split}, {len(found.a.ids):,} utterances; intervals: 95%, bootstrap over the utterances"
    table = Table("", box=SIMPLE, caption=caption, caption_justify="left")
    for heading in ("CER", "interval", "WER", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    measures = found.cer, found.wer
    table.add_row("A", *(text for one in measures for text in (f"{one.a:.2%}", interval_text(one.a_interval))))
    table.add_row("B", *(text for one in measures for text in (f"{one.b:.2%}", interval_text(one.b_interval))))
    table.add_row("A - B", *(text for one in measures for text in _difference(one.difference)))
    table.add_row("A better in", *(text for one in measures for text in (f"{one.difference.better:.1%}", "")))
    console.print(table)
    say(console, verdict(found.cer))
    for place in found.most_different:
        a, b = found.a, found.b
        errors = f"A {a.character_errors[place]} errors, B {b.character_errors[place]}"
        say(console, f"\n{a.ids[place]}   {errors}")
        for letter, model in (("A", a), ("B", b)):
            for line in text_lines(a.references[place], model.hypotheses[place], letter):
                say(console, line)
    if found.most_different:
        say(console, f"\n{LEGEND}")


def _difference(difference: Difference) -> tuple[str, str]:
    low, high = difference.interval
    return f"{difference.value:+.2%}", f"{100 * low:+.2f} to {high:+.2%}"


def verdict(measure: Measure) -> str:
    """Whether the two can be told apart by their CERs."""
    if measure.difference.tied:
        return "By CER they cannot be told apart: the difference's interval has 0 in it."
    return f"By CER, {'A' if measure.difference.value < 0 else 'B'} is better."
