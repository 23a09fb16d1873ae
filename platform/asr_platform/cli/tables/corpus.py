"""What `platform prepare` prints at its end."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr_platform.cli.printing import say

if TYPE_CHECKING:
    from collections import Counter

    from trainables.data.corpus import Corpus
    from trainables.data.mistakes import Mistakes
    from trainables.data.text.normalization import TextChange

SHOWN_CHARACTERS = 20
SHOWN_TEXT = 40  # characters of an example


def facts(corpus: Corpus, bad: Mistakes) -> dict[str, Any]:
    """Facts about the corpus that was made, as `--json` prints them."""
    from trainables.data.inspection.speakers import heard_in_tests
    from trainables.data.text.transcripts import unseen_characters

    return {
        "corpus": str(corpus.path),
        "hash": corpus.hash,
        "splits": {name: split.model_dump() for name, split in corpus.splits.items()},
        "train_on": corpus.training_splits,
        "validate_on": corpus.validation_splits,
        "dev": dev.model_dump() if (dev := corpus.preparation.dev) else None,
        "heard_voices": heard_in_tests(corpus),
        "text": corpus.preparation.text.model_dump(),
        "text_changes": [change.model_dump() for change in corpus.preparation.changes],
        "unseen_characters": {name: dict(counts) for name, counts in unseen_characters(corpus).items()},
        "skipped": bad.problems,
    }


def print_tables(corpus: Corpus, bad: Mistakes) -> None:
    """Prints the splits, the characters without a training example, and the utterances that were left out."""
    from trainables.data.corpus_writer import SKIPPED_FILE
    from trainables.data.inspection.speakers import heard_in_tests
    from trainables.data.mistakes import SHOWN
    from trainables.data.text.transcripts import unseen_characters

    console = Console()
    console.print(corpus_table(corpus))
    if corpus.preparation.changes:
        console.print(changes_table(corpus.preparation.changes))
    unseen = unseen_characters(corpus)
    if unseen:
        say(console, "Characters that no training transcript has. Each is an error; if one means the same as another")
        say(console, "that training has, as two kinds of apostrophe do, change the texts and prepare them again.")
        console.print(unseen_table(unseen))
    for name, splits, prefixes in (
        ("train on", corpus.training_splits, "train"),
        ("validate on", corpus.validation_splits, "dev or val"),
    ):
        say(console, f"{name}: {', '.join(splits) or f'none (no name of a split begins with {prefixes})'}")
    if corpus.preparation.dev:
        say(console, f"dev: {corpus.preparation.dev.text}")
    for sentence in heard_in_tests(corpus):
        say(console, sentence)
    for problem in bad.problems[:SHOWN]:
        say(console, f"left out: {problem}")
    if bad.problems:
        say(console, f"left out: {len(bad.problems)} in all, listed in {corpus.path / SKIPPED_FILE}")
    say(console, f"corpus: {corpus.path}")


def corpus_table(corpus: Corpus) -> Table:
    """A table of a corpus, one row for each split."""
    table = Table("split", box=SIMPLE)
    for heading in ("utterances", "hours", "characters", "mean seconds", "speakers"):
        table.add_column(heading, justify="right")
    for name, split in corpus.splits.items():
        table.add_row(
            name,
            f"{split.utterances:,}",
            f"{split.seconds / 3600:.2f}",
            f"{split.characters:,}",
            f"{split.seconds / max(1, split.utterances):.2f}",
            "" if split.speakers is None else f"{split.speakers:,}",
        )
    return table


def changes_table(changes: list[TextChange]) -> Table:
    """Table of what was changed in texts, one row for each step, with an example."""
    table = Table("texts", box=SIMPLE)
    table.add_column("changed", justify="right")
    table.add_column("for example")
    for change in changes:
        example = f"{_around(change.before, change.after)} → {_around(change.after, change.before)}"
        table.add_row(change.step, f"{change.texts:,}", Text(example if change.texts else ""))
    return table


def _around(text: str, other: str) -> str:
    """The part of a text around its first difference from another."""
    equal = [one == two for one, two in zip(text, other, strict=False)]
    place = equal.index(False) if False in equal else len(equal)
    start = max(0, min(place - SHOWN_TEXT // 2, len(text) - SHOWN_TEXT))
    end = start + SHOWN_TEXT
    return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))


def unseen_table(unseen: dict[str, Counter[str]]) -> Table:
    """Table of characters without a training example: split, name, and number of utterances that have each."""
    table = Table("split", "character", "code point", "name", box=SIMPLE)
    table.add_column("utterances", justify="right")
    for split, counts in unseen.items():
        for character, utterances in counts.most_common(SHOWN_CHARACTERS):
            shown = character if character.isprintable() and not unicodedata.combining(character) else ""
            name = unicodedata.name(character, "")
            table.add_row(split, shown, f"U+{ord(character):04X}", name, f"{utterances:,}")
        if len(counts) > SHOWN_CHARACTERS:
            table.add_row(split, "", "", f"and {len(counts) - SHOWN_CHARACTERS} more", "")
    return table
