"""Tables of a model's errors by speaker, length and noise, which `platform evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr_platform.analysis.bootstrap import METHOD, ConfidenceInterval
from asr_platform.analysis.error_breakdown import span
from asr_platform.analysis.kept_scores import Score
from asr_platform.cli.printing import say

SHOWN_SPEAKERS = 10
CONDITION = 14  # width of a condition's name
GROUPS = [  # heading, key of the scores, keys of a group's lowest and highest value
    ("characters", "lengths", "shortest", "longest"),
    ("signal-to-noise (dB)", "noise", "lowest", "highest"),
]


def print_breakdown(console: Console, scores: Mapping[str, Any]) -> None:
    """Prints the worst speaker beside the mean of several, and error rates by speaker, length and noise.

    Args:
        scores: as `inference.evaluate.evaluate_model` returns them; nothing is printed of those of a language model.
    """
    speakers = scores.get("speakers") or []
    known = [one for one in speakers if one["speaker"] is not None]
    if len(known) > 1:
        mean = {rate: sum(one[rate] for one in known) / len(known) for rate in ("cer", "wer")}
        worst = known[0]
        say(console, f"worst speaker: {_name(worst)}, CER {worst['cer']:.2%}, WER {worst['wer']:.2%}")
        say(console, f"mean of speakers: CER {mean['cer']:.2%}, WER {mean['wer']:.2%} ({len(known):,} speakers)")
        console.print(speaker_table(speakers))
    for heading, key, lowest, highest in GROUPS:
        if len(groups := scores.get(key, [])) > 1:
            console.print(group_table(heading, [(span(one[lowest], one[highest]), one) for one in groups]))


def print_conditions(console: Console, scores: Iterable[Score]) -> None:
    """Prints error rates in each condition as they are found."""
    heading = True
    for one in scores:
        if heading:
            say(console, f"{one.utterances:,} utterances of {one.split}, decoded with {one.decoding}; intervals: 95%")
            console.print(f"{'':{CONDITION}}{'CER':>8}  {'interval':<15}{'WER':>8}  interval", highlight=False)
            heading = False
        cer, wer = one.intervals
        console.print(
            f"{one.condition:{CONDITION}}{one.cer:8.2%}  {cer!s:<15}{one.wer:8.2%}  {wer}",
            highlight=False,
            markup=False,
        )


def speaker_table(speakers: Sequence[Mapping[str, Any]]) -> Table:
    """Error rates of the first speakers, which are the worst."""
    more = len(speakers) - SHOWN_SPEAKERS
    table = Table("speaker", box=SIMPLE, caption=f"and {more:,} more (--json)" if more > 0 else None)
    table.caption_justify = "left"
    for heading in ("utterances", "CER", "WER"):
        table.add_column(heading, justify="right")
    for one in speakers[:SHOWN_SPEAKERS]:
        table.add_row(Text(_name(one)), f"{one['utterances']:,}", f"{one['cer']:.2%}", f"{one['wer']:.2%}")
    return table


def group_table(heading: str, groups: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """CER of groups of utterances, each after its name, with 95% intervals."""
    table = Table(heading, box=SIMPLE, caption=f"interval: 95%, {METHOD}", caption_justify="left")
    for column in ("utterances", "CER", "interval"):
        table.add_column(column, justify="right")
    for name, one in groups:
        interval = ConfidenceInterval(*one["interval"])
        table.add_row(name, f"{one['utterances']:,}", f"{one['cer']:.2%}", str(interval))
    return table


def _name(group: Mapping[str, Any]) -> str:
    return "unknown" if group["speaker"] is None else str(group["speaker"])
