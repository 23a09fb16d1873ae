"""The report of a sweep: one HTML page for readers who may not have this platform.

The page and the sections without a Plotly figure are Jinja templates.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from asr_platform.analysis.bootstrap import METHOD
from asr_platform.analysis.learning import REMEDIES, nothing_learned
from asr_platform.reporting.error_figures import (
    errors_by_condition,
    errors_by_length,
    errors_by_noise,
    errors_by_speaker,
)
from asr_platform.reporting.figures import history, importances, learning_curves, losses
from asr_platform.reporting.page import Figure, rendered
from asr_platform.reporting.parallel import parallel_coordinates
from asr_platform.reporting.pareto import against_parameters, against_real_time_factor
from asr_platform.reporting.report_data import ReportData, keys_of, value_of
from asr_platform.reporting.transcripts import aligned_words
from asr_platform.reporting.worst_transcripts import worst_transcripts
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from trainables.errors import InputError
from trainables.folders import written_whole
from trainables.inference.decoding_options import Tuning
from trainables.inference.model_directory import read_decoding

PAPER_WIDTH = 680  # CSS pixels of a figure on paper: A4 or Letter without margins
PAPER_HEIGHTS = [200, 430, 0.5]  # least and most CSS pixels of a figure on paper, and its share of that on a screen


class Section(NamedTuple):
    """A section of the report.

    Args:
        heading: heading; `{metric}` stands for the ranking metric.
        content: name of a template, or a function that returns a figure or a sentence why there is none.
    """

    id: str
    heading: str
    content: str | Callable[[ReportData], Figure | str]


SECTIONS = [
    Section("searched", "Search space", "search_space.html.jinja"),
    Section("leaderboard", "Leaderboard", "leaderboard.html.jinja"),
    Section("curves", "Learning curves", learning_curves),
    Section("losses", "Training and validation loss", losses),
    Section("history", "Optimisation history", history),
    Section("importances", "Parameter importances", importances),
    Section("parallel", "Values of all trials", parallel_coordinates),
    Section("size", "{metric} against parameters", against_parameters),
    Section("speed", "{metric} against real-time factor", against_real_time_factor),
    Section("lengths", "Errors by length", errors_by_length),
    Section("noise", "Errors by signal-to-noise ratio", errors_by_noise),
    Section("speakers", "Errors by speaker", errors_by_speaker),
    Section("conditions", "Errors in noise, rooms and other conditions", errors_by_condition),
    Section("words", "Errors by word", "word_errors.html.jinja"),
    Section("transcripts", "Worst transcripts", "transcripts.html.jinja"),
    Section("attention", "Attention of the best model", "attention.html.jinja"),
    Section("reproduce", "How to reproduce it", "reproduction.html.jinja"),
]


def write_report(home: Home, ledger: Ledger, out: Path | None, command: str = "platform") -> Path:
    """Writes the report of a sweep and returns its path; an error leaves no partial file.

    Args:
        out: path of the report; None for the sweep's `NAME.html` in the current folder.
        command: the command in hints, such as `platform --home runs`.

    Raises:
        InputError: the file cannot be written.
    """
    path = out or Path(f"{ledger.name}.html")
    with written_whole(path) as file:  # fails early if the file cannot be written
        file.write(report_page(ReportData.gather(home, ledger, command)))
    return path


def report_page(data: ReportData) -> str:
    """The report as an HTML page that needs no other file and no network."""
    return rendered(
        "report.html.jinja",
        tuning=_tuning(data.model),
        data=data,
        sections=SECTIONS,
        method=METHOD,
        keys_of=keys_of,
        value_of=value_of,
        aligned_words=aligned_words,
        worst=worst_transcripts(data.errors, data.corpus),
        base64=lambda content: base64.b64encode(content).decode(),
        unlearned=nothing_learned(data.best.best) if data.best else "",
        remedies=REMEDIES,
        now=datetime.now(UTC),
        plotly=Markup(get_plotlyjs()),
        paper_width=PAPER_WIDTH,
        paper_heights=PAPER_HEIGHTS,
    )


def _tuning(model: str | None) -> Tuning | None:
    """How the decoding options of a model directory were found; None if they were not tuned."""
    with suppress(InputError):  # a damaged directory, which the doctor names
        own = read_decoding(Path(model)) if model else None
        return own.tuning if own else None
    return None
