"""Tables of a corpus's facts, which `platform inspect` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr_platform.cli.printing import say

if TYPE_CHECKING:
    from trainables.data.inspection.overlaps import Overlap
    from trainables.data.inspection.summary import Inspection, SplitFacts, UtteranceFacts

SHOWN_SPEAKERS = 10
SHOWN_UTTERANCES = 3
SHOWN_CHARACTERS = 60
SHOWN_TEXT = 60  # characters


def print_inspection(console: Console, found: Inspection) -> None:
    """Prints size, signal and speakers of each split, what splits have in common, and utterances that stand out."""
    console.print(size_table(found.splits))
    console.print(signal_table(found.splits))
    for split in found.splits:
        if split.speakers:
            say(console, f"speakers of {split.name}: {_speakers(split)}")
    for split in found.splits:
        if split.alphabet:
            characters = "".join("␣" if one == " " else one for one in split.alphabet)
            more = f" and {len(characters) - SHOWN_CHARACTERS} more" if len(characters) > SHOWN_CHARACTERS else ""
            say(console, f"characters of {split.name}: {' '.join(characters[:SHOWN_CHARACTERS])}{more}")
    shown = [one for one in found.overlaps if one.recordings or one.texts or one.speakers]
    console.print(overlap_table(shown)) if shown else say(console, "in common: no recording, text or speaker")
    console.print(extremes_table(found.splits))


def size_table(splits: Sequence[SplitFacts]) -> Table:
    """Utterances, hours, durations and characters of each split."""
    table = _table("split", "utterances", "hours", "seconds\nmin", "5%", "median", "95%", "max",
                   "characters", "a second", "different\ntexts", "speakers")  # fmt: skip
    for one in splits:
        texts = (
            [f"{sum(one.alphabet.values()):,}", f"{one.rates['median']:.1f}", f"{one.distinct_texts:,}"]
            if one.rates
            else ["", "", ""]
        )
        lengths = (f"{seconds:.2f}" for seconds in one.lengths.values())
        speakers = f"{len(one.speakers):,}" if one.speakers else ""
        table.add_row(one.name, f"{one.utterances:,}", f"{one.seconds / 3600:.2f}", *lengths, *texts, speakers)
    return table


def signal_table(splits: Sequence[SplitFacts]) -> Table:
    """Silence, range and clipping of each split."""
    table = _table("split", "silence", "at floor", "range", "of\nutterances", "clipped", "not found", "of\nutterances")
    table.caption = (
        "silence: frames over 40 dB below the loudest of the utterance; at floor: frames as in digital silence; range: "
        "loud frames (95%) above quiet ones (5%), the median; clipped: at full scale for several samples in a row; "
        "not found: without an audio file where it was, of the utterances whose audio was looked at"
    )
    for one in splits:
        loud, audio = one.loudness, one.audio
        heard = [f"{audio.clipped:,}", f"{audio.missing:,}", f"{audio.checked:,}"] if audio else ["", "", ""]
        shares = f"{loud.silent:.1%}", f"{loud.floor:.1%}", f"{loud.range_db:.0f} dB"
        table.add_row(one.name, *shares, f"{one.measured:,}", *heard)
    return table


def overlap_table(overlaps: Iterable[Overlap]) -> Table:
    """Numbers of recordings, texts and speakers that two splits share, with an example."""
    table = _table("in common", "equal recordings", "with another text", "equal texts", "speakers", "for example")
    for one in overlaps:
        within = one.split == one.other
        names = f"in {one.split}" if within else f"{one.other} with {one.split}"
        example = " = ".join(reversed(one.pairs[0])) if one.pairs else ""
        others = ["", ""] if within else [f"{one.texts:,}", f"{one.speakers:,}"]
        table.add_row(names, f"{one.recordings:,}", f"{one.relabelled:,}", *others, Text(example))
    return table


def extremes_table(splits: Sequence[SplitFacts]) -> Table:
    """The longest and shortest utterances of each split, and those with the most silence."""
    table = Table("split", "", "utterance", box=SIMPLE)
    for heading in ("seconds", "silence"):
        table.add_column(heading, justify="right")
    table.add_column("text")
    for split in splits:
        groups: dict[str, list[UtteranceFacts]] = {
            "longest": split.longest, "shortest": split.shortest, "most silence": split.quietest,
        }  # fmt: skip
        for name, group in groups.items():
            for one in group[:SHOWN_UTTERANCES]:
                silence = f"{one.loudness.silent:.0%}"
                table.add_row(split.name, name, Text(one.id), f"{one.seconds:.2f}", silence, Text(_short(one.text)))
    return table


def _table(first: str, *headings: str) -> Table:
    table = Table(first, box=SIMPLE, caption_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _speakers(split: SplitFacts) -> str:
    shown = [
        f"{'unknown' if one.name is None else one.name} ({one.utterances:,})" for one in split.speakers[:SHOWN_SPEAKERS]
    ]
    more = len(split.speakers) - SHOWN_SPEAKERS
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 1]}…"
