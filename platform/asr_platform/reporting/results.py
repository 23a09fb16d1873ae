"""The sections of a report that say what came out: who is better, what it depends on, what the best model gets wrong.

Each makes a figure or a table, a sentence that says what it shows, and what to conclude. Where there is nothing to
show, it says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from asr_platform.analysis.error_breakdown import by_length, by_word
from asr_platform.analysis.leaderboard import pareto_front, rows
from asr_platform.analysis.text import counted, enumerated, short_value
from asr_platform.reporting import figures as figures
from asr_platform.reporting.findings import Findings
from asr_platform.reporting.page import (
    Html,
    conclusion,
    figure,
    joined,
    note,
    paragraph,
    picture,
    table,
    tagged,
)
from asr_platform.reporting.parallel import parallel_coordinates
from asr_platform.study.halving import PROGRESS
from asr_platform.study.ledger import TrialRecord
from trainables.evaluation.metrics import objective_text

SIDE_BY_SIDE = 8  # trials whose values stand beside each other
WORDS = 20  # of those that are wrong most often
HEARD = 3  # words that were heard in the place of one
TOP = 3  # trials of which one may ask what they have in common, where ties do not say which
AXES = {"epochs": "epoch", "hours": "hours of audio"}  # what a unit is called on an axis


# Who is better


def leaderboard(found: Findings) -> Html:
    board = rows(found.trials, found.intervals, found.objectives)
    if not board:
        return paragraph("No trial has been begun.")
    name = found.ranked_by
    timed = ["real-time factor"] if "real_time_factor" in found.objectives else []
    headings = ["rank", "trial", name, "95% interval", "parameters", *timed, "epochs", "state", "why it ended"]
    trials = {trial.number: trial for trial in found.trials}
    cells = [
        (
            f"{'*' * bool(row.get('pareto'))}{'=' * bool(row['tied'])}{rank}",
            row["trial"],
            objective_text(trial.best) if trial.best else "",
            str(confidence.interval) if (confidence := found.intervals.get(trial.number)) else "",
            f"{row['parameters'] or 0:,}",
            *([factor_text(row["real_time_factor"])] if timed else []),
            row["epochs"],
            row["state"],
            trial.reason,
        )
        for rank, row in enumerate(board, start=1)
        for trial in [trials[row["trial"]]]
    ]
    what = "the character error rate" if found.transcribes else "the perplexity a character"
    text = [f"{name} is {what} on the validation split, at each trial's best epoch."]
    if found.intervals:
        text.append("The interval is by bootstrap over its utterances.")
    if found.tied:
        text.append("Those marked = cannot be told apart from the best.")
    if len(found.objectives) > 1:
        text.append(f"Of those marked * none is beaten in all of {enumerated(found.minimised)}.")
    parts = [paragraph(*text), table(headings, cells, headings[:-2], headings[-1])]
    top = found.measured[:SIDE_BY_SIDE]
    keys = list(dict.fromkeys(key for trial in top for key in trial.params))
    if keys:
        values = [(key, *(setting(trial, key) for trial in top)) for key in keys]
        heading = "What the best have" if len(top) < len(found.trials) else "What they have"
        parts += [tagged("h3", heading), table(["key", *(f"trial {trial.number}" for trial in top)], values)]
    return joined(parts)


def curves(found: Findings) -> Html:
    if not found.measured:
        return nothing_yet()
    unit = found.space.comparable_settings.asha.unit
    drawn = figures.learning_curves(found.shown, PROGRESS[unit], AXES.get(unit, unit), found.rungs)
    text = f"A line a trial: its {found.ranked_by} after every epoch; the best are in colour."
    rungs = "Dotted lines are rungs, where weak trials are stopped." if found.rungs else ""
    states = {state: [trial for trial in found.trials if trial.state == state] for state in figures.ENDS}
    ends = [f"{len(trials)} {figures.ENDS[state][1]}" for state, trials in states.items() if trials]
    spent = sum(trial.epochs for trial in states["pruned"])
    total = sum(trial.epochs for trial in found.trials)
    last = [f"Those stopped early took {spent} of all {total} epochs." if spent else ""]
    return joined(
        [
            paragraph(text, rungs),
            figure(drawn, "curves"),
            conclusion(f"Of {counted(len(found.trials), 'trial')}, {enumerated(ends)}.", *last),
        ]
    )


def history(found: Findings) -> Html:
    if not found.measured:
        return nothing_yet()
    best, later = found.measured[0], len(found.trials) - 1 - found.measured[0].number
    own = best.number < len(found.space.start) and all(
        best.params.get(key) == value for key, value in found.space.start[best.number].items()
    )
    whose = ", a configuration that the space said to try first" if own else ""
    sampled = [trial for trial in found.measured if trial.number >= len(found.space.start)]
    text = f"Each trial's best {found.ranked_by} in the order in which they were proposed."
    last = [f"The best came as trial {best.number}{whose}; {counted(later, 'trial')} after it brought nothing better."]
    if own and sampled and sampled[0].best:
        last.append(
            f"The best that the sampler proposed is trial {sampled[0].number}: {objective_text(sampled[0].best)}."
        )
    return joined([paragraph(text), figure(figures.history(found.shown), "history"), conclusion(*last)])


def importances(found: Findings) -> Html:
    known = found.importances
    if not known.shares:
        return conclusion(known.basis)
    text = (
        f"The share of the variance in {found.ranked_by} that each key explains alone (fANOVA); the rest is interplay."
    )
    most, share = next(iter(known.shares.items()))
    parts = [paragraph(text), figure(figures.importance_bars(known.shares), "importances")]
    parts.append(conclusion(f"What matters most is {most}: it explains {share:.0%}.", known.basis))
    if known.not_judged:
        parts.append(note("Not judged:", "; ".join(f"{key}: {reason}" for key, reason in known.not_judged.items())))
    return joined(parts)


def parallel(found: Findings) -> Html:
    keys = list(dict.fromkeys(key for trial in found.measured for key in trial.params))
    if len(found.measured) < 2 or not keys:
        return paragraph(
            "There is nothing to compare: fewer than two trials have finished an epoch, or nothing varied."
        )
    text = [
        f"Every line is a trial: its {found.ranked_by} on the uppermost scale, its values on the others.",
        "The lower, the darker; the best is orange. Stopped trials are there with what they had reached.",
    ]
    drawn = figure(parallel_coordinates(found.shown), "parallel")
    return joined([paragraph(*text), drawn, conclusion(_shared(found, keys))])


def _shared(found: Findings, keys: Sequence[str]) -> str:
    """What the best have in common, and the others have not all."""
    top = [found.measured[0], *found.tied] if found.tied else found.measured[:TOP]
    rest = [trial for trial in found.measured if trial not in top]
    if len(top) < 2 or not rest:
        return "There are too few trials to ask what the best have in common."
    who = f"{'The ' + str(len(top)) + ' that cannot be told apart' if found.tied else f'The best {len(top)}'}"
    same = [key for key in keys if len({setting(trial, key) for trial in top}) == 1]
    telling = [
        f"{key} {setting(top[0], key)} (as have {others} of the other {len(rest)})"
        for key in same
        for others in [sum(setting(trial, key) == setting(top[0], key) for trial in rest)]
        if others < len(rest)
    ]
    if not telling:
        return f"{who} have no value in common that the others have not."
    return f"{who} all have {enumerated(telling)}. In few trials that may be chance."


def size(found: Findings) -> Html:
    return _against(found, "parameters", "parameters", lambda trial: trial.about.get("parameters"), "{:,}".format)


def speed(found: Findings) -> Html:
    if not found.transcribes:
        return paragraph("A language model transcribes nothing, so it has no real-time factor.")
    if not any("real_time_factor" in (trial.best or {}) for trial in found.measured):
        return paragraph("No real-time factors are on record.")
    drawn = _against(found, "real-time factor", "real_time_factor",
                     lambda trial: (trial.best or {}).get("real_time_factor"), factor_text)  # fmt: skip
    how = "Seconds of decoding for a second of speech, in the validation after the best epoch, on the sweep's machine"
    return joined([drawn, note(f"{how} beside other trials: rough figures.")])


def _against(
    found: Findings, name: str, key: str, measure: Callable[[TrialRecord], Any], text: Callable[[Any], str]
) -> Html:
    known = [trial for trial in found.measured if measure(trial) is not None]
    if not known:
        return nothing_yet()
    front = pareto_front(known, ("val_cer", key))
    along = sorted((trial for trial in known if trial.number in front), key=measure)
    drawn = figure(figures.against(found.shown, measure, name, found.intervals), key.replace("_", "-"))
    names = [f"trial {trial.number} ({text(measure(trial))}, {value_text(trial)})" for trial in along]
    last = [f"On the front, where no other trial is as good in both: {enumerated(names)}."]
    best = found.measured[0]
    least = min((trial for trial in [best, *found.tied] if measure(trial) is not None), key=measure, default=best)
    if least is not best and measure(best):
        share = measure(least) / measure(best)
        last.append(
            f"Trial {least.number} has {share:.0%} of the best trial's {name}, and cannot be told from it by its CER."
        )
    bars = " Bars are 95% intervals." if found.intervals else ""
    shown = f"{found.ranked_by} against {name}, both better the lower; the line is the Pareto front.{bars}"
    return joined([paragraph(shown), drawn, conclusion(*last)])


# What the best model gets wrong


def lengths(found: Findings) -> Html:
    if found.errors is None:
        return _no_errors(found)
    groups = by_length(found.errors)
    if len(groups) < 2:
        return paragraph(f"{counted(len(found.errors.ids), 'utterance')} of too few lengths to compare.")
    first, last = groups[0], groups[-1]
    apart = first.interval.high < last.interval.low or last.interval.high < first.interval.low
    text = (
        f"The best model's CER on {found.errors.split}, in groups of about as many utterances; bars are 95% intervals."
    )
    verdict = "do not overlap, so length seems to matter" if apart else "overlap, so length need not matter"
    rates = f"The shortest utterances have {first.cer:.2%}, the longest {last.cer:.2%}:"
    return joined(
        [
            paragraph(text),
            figure(figures.length_bars(groups), "lengths"),
            conclusion(rates, f"their intervals {verdict}."),
        ]
    )


def words(found: Findings) -> Html:
    if found.errors is None:
        return _no_errors(found)
    breakdown = by_word(found.errors)
    wrong = [word for word in breakdown.words if word.errors]
    total = breakdown.substitutions + breakdown.deletions + breakdown.inserted.total()
    if not total:
        return conclusion(f"No word of {found.errors.split} is wrong.")
    text = (
        f"{found.errors.split} has {sum(found.errors.words):,} words. "
        f"The best model makes {counted(total, 'error')} (WER {found.errors.wer:.2%}): "
        f"{breakdown.substitutions} replaced, {breakdown.deletions} left out, {breakdown.inserted.total()} added."
    )
    cells = [
        (
            word.word,
            f"{word.occurrences:,}",
            f"{word.errors:,}",
            f"{word.errors / word.occurrences:.1%}",
            _heard(word.hypotheses),
        )
        for word in wrong[:WORDS]
    ]
    headings = ["said", "times", "wrong", "share", "heard instead"]
    last = []
    if wrong:
        last.append(
            f"Most often wrong is {wrong[0].word}: {wrong[0].errors} of {counted(wrong[0].occurrences, 'time')}."
        )
    if breakdown.inserted:
        last.append(f"Added most often: {_heard(breakdown.inserted)}.")
    rest = [note(f"The {WORDS} that are wrong most often of {len(wrong)}.")] if len(wrong) > WORDS else []
    return joined([paragraph(text), table(headings, cells, headings[1:4]), *rest, conclusion(*last)])


def _heard(counts: Counter[str]) -> str:
    return ", ".join(f"{word or '(left out)'} {count}×" for word, count in counts.most_common(HEARD))


def _no_errors(found: Findings) -> Html:
    if not found.transcribes:
        return paragraph("A language model transcribes nothing, so there are no such errors.")
    return paragraph("No errors of the best model are on record.")


def attention(found: Findings) -> Html:
    if not found.attention:
        if not found.transcribes:
            return paragraph("A language model hears nothing, and of its attention nothing is kept.")
        return paragraph("The best model is not there any more, nor what it attended to." if found.measured else
                         "There is no model yet.")  # fmt: skip
    text = [
        "For one utterance of median length, what the decoder attends to as it says each token, from top to bottom.",
        "A decoder that follows the speech shows a line from the upper left to the lower right.",
    ]
    return joined([paragraph(*text), *(picture(png, caption) for png, caption in found.attention)])


# Words


def setting(trial: TrialRecord, key: str) -> str:
    """What a trial had for a varied key."""
    return short_value(trial.params[key]) if key in trial.params else "not used"


def value_text(trial: TrialRecord) -> str:
    """What a trial is ranked by."""
    return objective_text(trial.best) if trial.best else ""


def factor_text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def nothing_yet() -> Html:
    return paragraph("No trial has finished an epoch.")
