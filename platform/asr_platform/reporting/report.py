"""The report of a sweep: one HTML page for readers who may not have this platform."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from asr_platform.analysis.leaderboard import latest
from asr_platform.analysis.text import counted, enumerated_trials
from asr_platform.reporting.figures import (
    against_parameters,
    against_real_time_factor,
    errors_by_length,
    history,
    importances,
    learning_curves,
)
from asr_platform.reporting.page import Block, Text, conclusion, paragraph, render
from asr_platform.reporting.parallel import parallel_coordinates
from asr_platform.reporting.report_data import ReportData
from asr_platform.reporting.sections import attention, leaderboard, reproduction, search_space, word_errors
from asr_platform.storage.home import Home
from asr_platform.study.run_record import STOPPED
from trainables.evaluation.metrics import objective_text
from trainables.folders import written_whole

# Of every section: id, heading and blocks. A section without data says why.
SECTIONS: list[tuple[str, str, Callable[[ReportData], list[Block]]]] = [
    ("searched", "Search space", search_space),
    ("leaderboard", "Leaderboard", leaderboard),
    ("curves", "Learning curves", learning_curves),
    ("history", "Optimisation history", history),
    ("importances", "Parameter importances", importances),
    ("parallel", "Values of all trials", parallel_coordinates),
    ("size", "{metric} against parameters", against_parameters),
    ("speed", "{metric} against real-time factor", against_real_time_factor),
    ("lengths", "Errors by length", errors_by_length),
    ("words", "Errors by word", word_errors),
    ("attention", "Attention of the best model", attention),
    ("reproduce", "How to reproduce it", reproduction),
]


def write_report(home: Home, name: str | None, out: Path | None, command: str = "platform") -> Path:
    """Writes the report, as a whole or not at all, and returns its path.

    Args:
        name: name of the sweep; None for the latest.
        out: path of the report; None for `NAME.html` in the current folder.
        command: the platform command, for hints to copy.

    Raises:
        InputError: there is no such sweep, or the file cannot be written.
    """
    name = latest(home.studies, name)
    path = out or Path(f"{name}.html")
    with written_whole(path) as file:  # opened before the work
        file.write(report_page(ReportData.gather(home, name, command)))
    return path


def report_page(data: ReportData) -> str:
    """The report as an HTML page."""
    sections = [(id, heading.format(metric=data.metric), build(data)) for id, heading, build in SECTIONS]
    return render(f"Sweep {data.name}", opening(data), sections)


def opening(data: ReportData) -> list[Block]:
    """State of the sweep, its best trial, and whether the best differs significantly from the others."""
    blocks: list[Block] = [_state(data)]
    best = data.best
    if best is None or best.best is None:
        return [*blocks, conclusion("No trial has finished an epoch, so there is no model.")]
    cer = data.intervals.get(best.number)
    value = f"{data.metric} {objective_text(best.best)}" + (f" (95% interval {cer.interval})" if cer else "")
    size = f"{best.about.get('parameters', 0):,} parameters, {counted(best.epochs, 'epoch')}"
    lead = f"The best is trial {best.number}: {value}, {size}."
    verdict, command = _significance(data)
    written = f"Written on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC."
    return [*blocks, Text(verdict, "conclusion", lead, command), Text(written, "note")]


def _state(data: ReportData) -> Text:
    ended = sum(trial.state != "running" for trial in data.trials)
    so_far = f"{ended} of {counted(data.about['trials'], 'trial')} {'has' if ended == 1 else 'have'} ended"
    if data.running:
        return paragraph(f"The sweep is running: {so_far}. This page shows what was on record when it was written.")
    if data.done:
        return paragraph(f"The sweep is finished: {counted(len(data.trials), 'trial')}.")
    limit = f" It stopped because {data.about[STOPPED]}." if data.about.get(STOPPED) else ""
    state = f"The sweep is not finished: {so_far}, and nothing is running.{limit} To go on:"
    return Text(state, command=f"{data.command} sweep --resume {data.name}")


def _significance(data: ReportData) -> tuple[str, str]:
    """Whether the best trial differs significantly from the others, and a command that may tell."""
    others = len(data.measured) - 1
    cer = data.intervals.get(data.measured[0].number)
    confirm = f"{data.command} confirm {data.name}"
    if not others:
        return "No other trial has finished an epoch, so there is nothing to compare it with.", ""
    if cer is None or cer.tied is None:
        return "The errors of its utterances are not on record, so its significance is not known.", ""
    if data.tied:
        names = enumerated_trials(trial.number for trial in data.tied)
        verdict = f"It is not significantly different from {names} (paired bootstrap, 95%)."
        return f"{verdict} Training them again from other seeds may tell:", confirm
    known = sum(trial.number in data.intervals for trial in data.measured) - 1
    rest = "" if known == others else f" whose errors are on record ({known} of {others})"
    verdict = f"It is significantly better than every other trial{rest} (paired bootstrap, 95%)."
    return f"{verdict} The best of many is also the luckiest; other seeds would tell:", confirm
