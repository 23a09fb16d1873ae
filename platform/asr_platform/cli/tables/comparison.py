"""Tables of scores, comparisons, decoding methods, confirmations and importances."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr_platform.analysis.bootstrap import METHOD, RESAMPLES, ConfidenceInterval, Difference
from asr_platform.analysis.leaderboard import ranking_name
from asr_platform.cli.printing import say
from asr_platform.cli.tables.leaderboard import side_by_side
from asr_platform.reporting.transcripts import LEGEND, aligned_lines
from asr_platform.study.ledger import TrialRecord
from trainables.evaluation.metrics import objective, objective_text

if TYPE_CHECKING:
    from asr_platform.analysis.comparison import Comparison, Measure
    from asr_platform.analysis.importances import Importances
    from asr_platform.inference.tune_decoding import TunedDecoding
    from asr_platform.tuning.confirm import Confirmation


def print_comparison(console: Console, found: Comparison) -> None:
    """Prints both models' error rates, the difference with its interval, and the utterances that differ most."""
    for letter, name in zip("AB", found.names, strict=True):
        say(console, f"{letter}  {name}")
    caption = f"{found.a.split}, {len(found.a.ids):,} utterances; intervals: 95%, {METHOD}"
    caption += f"\nA better in: share of the {RESAMPLES:,} bootstrap samples in which A has the lower rate"
    table = Table("", box=SIMPLE, caption=caption, caption_justify="left")
    for heading in ("CER", "interval", "WER", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    measures = found.cer, found.wer
    table.add_row("A", *(text for one in measures for text in (f"{one.a:.2%}", str(one.a_interval))))
    table.add_row("B", *(text for one in measures for text in (f"{one.b:.2%}", str(one.b_interval))))
    table.add_row("A - B", *(text for one in measures for text in _difference(one.difference)))
    table.add_row("A better in", *(text for one in measures for text in (f"{one.difference.better:.1%}", "")))
    console.print(table)
    say(console, verdict(found.cer))
    for place in found.most_different:
        a, b = found.a, found.b
        errors = f"A {a.character_errors[place]} errors, B {b.character_errors[place]}"
        say(console, f"\n{a.ids[place]}   {errors}")
        for letter, model in (("A", a), ("B", b)):
            for line in aligned_lines(a.references[place], model.hypotheses[place], letter):
                say(console, line)
    if found.most_different:
        say(console, f"\n{LEGEND}")


def _difference(difference: Difference) -> tuple[str, str]:
    low, high = difference.interval
    return f"{difference.value:+.2%}", f"{100 * low:+.2f} to {high:+.2%}"


def verdict(measure: Measure) -> str:
    """A sentence that says whether the CERs of two models differ significantly."""
    if measure.difference.tied:
        return "Their CERs do not differ significantly (paired bootstrap, 95%)."
    return f"{'A' if measure.difference.value < 0 else 'B'} has a significantly lower CER (paired bootstrap, 95%)."


def scores_table(scores: Mapping[str, Any], split: str) -> Table:
    """A table of CER and WER with their intervals, and of the substitutions, deletions and insertions in them."""
    caption = f"{split}, {scores['utterances']:,} utterances; interval: 95%, {METHOD}\n"
    caption += "S, D, I: substitutions, deletions and insertions, of N characters or words"
    table = Table("", box=SIMPLE, caption=caption, caption_justify="left")
    for heading in ("rate", "interval", "S", "D", "I", "N"):
        table.add_column(heading, justify="right", no_wrap=True)
    for rate, unit in (("cer", "character"), ("wer", "word")):
        interval = ConfidenceInterval(*scores[f"{rate}_interval"])
        counts = (f"{count:,}" for count in scores[f"{unit}_edits"].values())
        table.add_row(rate.upper(), f"{scores[rate]:.2%}", str(interval), *counts, f"{scores[f'{unit}s']:,}")
    return table


def methods_table(rows: list[dict[str, Any]]) -> Table:
    """A table of decoding methods with their error rates and speed, in batches and with one utterance at a time."""
    table = Table("method", box=SIMPLE)
    for heading in ("CER", "WER", "real-time factor\nin batches", "real-time factor\none by one"):
        table.add_column(heading, justify="right")
    for row in rows:
        factors = (f"{row[key]:.4f}" for key in ("real_time_factor", "real_time_factor_alone"))
        table.add_row(row["method"], f"{row['cer']:.2%}", f"{row['wer']:.2%}", *factors)
    return table


def print_tuning(console: Console, found: TunedDecoding, model: Path) -> None:
    """Prints the CER of greedy search and of the tuned options, with intervals, and the options."""
    from trainables.inference.decoding_options import DECODING, in_words  # pydantic, which comparisons do without

    table = Table("decoding", box=SIMPLE)
    for heading in ("CER", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in (("greedy", found.tuning.greedy), ("tuned", found.tuning.tuned)):
        table.add_row(name, f"{one.cer:.2%}", str(ConfidenceInterval(*one.interval)))
    table.add_row("tuned - greedy", *_difference(found.difference))
    console.print(table)
    tuning = found.tuning
    say(console, f"basis:    {tuning.searches} searches in {found.seconds:.0f} s, on {tuning.utterances_text}")
    if tuning.test:
        say(console, f"test:     {tuning.test}")
    if found.not_compared:
        say(console, f"test:     not compared: {found.not_compared}")
    say(console, f"options:  {in_words(found.decoding)}")
    if (sure := found.confidence) is not None:
        words = f"{sure.words:,} words of which {sure.wrong:,} were wrong"
        say(
            console,
            f"words:    calibration error of their confidence {sure.calibration_error:.1%}, on {words}",
        )
    say(console, f"stored:   {model / DECODING}, the default wherever the model is used; delete it to undo")


def print_confirmation(console: Console, found: Confirmation) -> None:
    """Prints configurations ranked by their means, the deviation between trainings, and the values that differ."""
    trials = [one.trial for one in found.results]
    between = f"the {found.seeds} seeds"
    if found.folds > 1:
        between = f"the {found.seeds * found.folds} trainings on {found.folds} folds"
    caption = f"{ranking_name(trials)} of each training's best epoch; sd: standard deviation between {between}"
    table = Table(box=SIMPLE, caption=caption, caption_justify="left")
    for heading in ("rank", "trial", "mean", "sd", "lowest", "highest", "runs", "parameters"):
        table.add_column(heading, justify="right", no_wrap=True)
    for rank, one in enumerate(found.results, start=1):
        text = partial(_value_text, one.trial)
        table.add_row(
            str(rank),
            str(one.trial.number),
            text(one.mean),
            text(one.deviation),
            text(min(one.values, default=None)),
            text(max(one.values, default=None)),
            f"{len(one.values)}" + (f", {one.failed} failed" if one.failed else ""),
            f"{one.trial.about['parameters']:,}",
        )
    console.print(table)
    if keys := list(dict.fromkeys(key for one in found.results for key in one.active)):
        console.print(side_by_side(console, trials, keys))


def _value_text(trial: TrialRecord, value: float | None) -> str:
    """Value of the trial's ranking metric as text; empty if `value` is None or the trial has no finished epoch."""
    return "" if value is None or trial.best is None else objective_text({objective(trial.best): value})


def print_importances(console: Console, found: Importances) -> None:
    """Prints the importance of each key and the number of trials they are computed from, or why there are none."""
    if found.shares:
        caption = "share of the trials' variance that a key explains alone (fANOVA); the rest is interaction"
        table = Table(box=SIMPLE, caption=caption, caption_justify="left")
        table.add_column("key", no_wrap=True)
        table.add_column("importance", justify="right", no_wrap=True)
        for key, share in found.shares.items():
            table.add_row(Text(key), f"{share:.1%}")
        console.print(table)
    say(console, found.basis)
    for key, reason in found.not_judged.items() if found.shares else ():
        say(console, f"not judged: {key}: {reason}")
