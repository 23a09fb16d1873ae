"""Figures of the report on where the best model's errors lie: by length, noise, speaker and condition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.express as px
import plotly.graph_objects as go

from asr_platform.analysis.bootstrap import ConfidenceInterval
from asr_platform.analysis.error_breakdown import LengthGroup, NoiseGroup, by_length, by_noise, by_speaker, span
from asr_platform.analysis.kept_scores import condition_scores
from asr_platform.analysis.text import counted
from asr_platform.reporting.figures import ACCENT, INK, shortened, styled
from asr_platform.reporting.page import Figure
from asr_platform.reporting.report_data import ReportData
from trainables.data.inspection.signals import signal_to_noise
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors

MOST_SPEAKERS = 12
LONGEST_SPEAKER = 16  # characters of a name
HEIGHT = 280  # pixels


def errors_by_length(data: ReportData) -> Figure | str:
    """Figure with the CER of the best model on short and long utterances."""
    if data.errors is None:
        return data.no_errors
    groups = by_length(data.errors)
    if len(groups) < 2:
        return f"{counted(len(data.errors.ids), 'utterance')} of too few lengths to compare."
    names = [span(one.shortest, one.longest) for one in groups]
    figure = draw_groups(groups, names, "characters in the reference")
    return Figure(figure, _caption(data.errors), _verdict(groups, "shortest", "longest", "length"))


def errors_by_noise(data: ReportData) -> Figure | str:
    """Figure with the CER of the best model on noisy and clean utterances."""
    if data.errors is None:
        return data.no_errors
    if data.corpus is None:
        return f"The corpus is not there: {data.corpus_problem}."
    try:
        split = data.corpus.split(data.errors.split)
    except InputError as error:
        return f"The corpus cannot be read: {error.problem}."
    ratios = dict(zip(split.ids, signal_to_noise(split, data.corpus.recipe), strict=True))
    if not ratios.keys() >= set(data.errors.ids):
        return f"The utterances of {data.errors.split} are not those of the corpus."
    groups = by_noise(data.errors, [ratios[id] for id in data.errors.ids])
    if len(groups) < 2:
        return f"{counted(len(data.errors.ids), 'utterance')}: too few to compare."
    names = [span(one.lowest, one.highest) for one in groups]
    figure = draw_groups(groups, names, "signal-to-noise ratio (dB): level of loud frames above quiet ones")
    return Figure(figure, _caption(data.errors), _verdict(groups, "noisiest", "cleanest", "noise"))


def errors_by_speaker(data: ReportData) -> Figure | str:
    """Figure with the CER of the best model on the speech of each speaker, of the worst if there are many."""
    if data.errors is None:
        return data.no_errors
    groups = [one for one in by_speaker(data.errors) if one.speaker is not None][:MOST_SPEAKERS]
    if len(groups) < 2:
        return "Fewer than two speakers are known."
    rates = [100 * one.cer for one in groups]
    figure = px.bar(
        x=[shortened(str(one.speaker), LONGEST_SPEAKER) for one in groups],
        y=rates,
        hover_name=[f"CER {one.cer:.2%}, WER {one.wer:.2%}, {one.utterances:,} utterances" for one in groups],
    )
    figure.update_traces(width=0.6, marker_color=ACCENT)
    y = {"title": "CER", "ticksuffix": "%", "rangemode": "tozero"}
    mean = sum(rates) / len(rates)
    verdict = f"The worst speaker has {rates[0]:.2f}%, where the mean of those shown is {mean:.2f}%."
    return Figure(styled(figure, HEIGHT, {"title": "", "type": "category"}, y), _caption(data.errors, ""), verdict)


def errors_by_condition(data: ReportData) -> Figure | str:
    """Figure with the CER of the best model on audio with noise, in a room, at other speeds and through a telephone."""
    if data.errors is None:
        return data.no_errors
    scores = condition_scores(Path(data.model), data.about["corpus_hash"]) if data.model else []
    if not scores:
        return "Not measured: platform evaluate --robustness scores the best model so."
    clean, worst = scores[0], max(scores, key=lambda one: one.cer)
    figure = _bars(
        [str(one.condition) for one in scores],
        [(one.cer, one.intervals[0]) for one in scores],
        [f"CER {one.cer:.2%}, WER {one.wer:.2%}" for one in scores],
        {"title": "", "type": "category", "tickangle": -45},
    )
    caption = (
        f"CER of the best model on {counted(clean.utterances, 'utterance')} of {clean.split} whose audio was changed "
        f"({clean.decoding}); ratios are of signal to noise; bars are 95% intervals."
    )
    verdict = f"The audio as it is has {clean.cer:.2%}; the worst, {worst.condition}, {worst.cer:.2%}."
    return Figure(figure, caption, verdict)


def draw_groups(groups: Sequence[LengthGroup | NoiseGroup], names: Sequence[str], title: str) -> go.Figure:
    """CER of each group of utterances with its 95% interval, over the groups' names."""
    return _bars(
        names,
        [(group.cer, group.interval) for group in groups],
        [f"CER {group.cer:.2%}, {group.utterances:,} utterances" for group in groups],
        {"title": title, "type": "category"},
    )


def _bars(
    names: Sequence[str], rates: Sequence[tuple[float, ConfidenceInterval]], hovers: Sequence[str], x: dict[str, Any]
) -> go.Figure:
    """Bars of CERs with their intervals, and a text for each bar; `x` has the options of the axis of names."""
    figure = px.bar(
        x=names,
        y=[100 * cer for cer, _ in rates],
        error_y=[100 * (interval.high - cer) for cer, interval in rates],
        error_y_minus=[100 * (cer - interval.low) for cer, interval in rates],
        hover_name=hovers,
    )
    figure.update_traces(width=0.6, marker_color=ACCENT, error_y={"color": INK, "thickness": 1.2})
    y = {"title": "CER", "ticksuffix": "%", "rangemode": "tozero"}
    return styled(figure, HEIGHT, x, y)


def _caption(errors: UtteranceErrors, groups: str = ", in groups of similar size; bars are 95% intervals") -> str:
    return f"CER of the best model on {errors.split}{groups}."


def _verdict(groups: Sequence[LengthGroup | NoiseGroup], low: str, high: str, what: str) -> str:
    """Whether the first and the last group differ."""
    first, last = groups[0], groups[-1]
    apart = first.interval.high < last.interval.low or last.interval.high < first.interval.low
    verdict = f"do not overlap, so {what} seems to matter" if apart else f"overlap, so {what} need not matter"
    rates = f"The {low} utterances have {first.cer:.2%}, the {high} {last.cer:.2%}:"
    return f"{rates} their intervals {verdict}."
