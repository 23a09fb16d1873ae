"""Figures of the report: each section function returns a figure with its texts, or a sentence why there is none.

To add a figure, write such a function and add it to `report.SECTIONS`. Plotly reads texts in figures as markup, so
texts from trials must be escaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, product
from typing import Any

import pandas
import plotly.express as px
import plotly.graph_objects as go

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.leaderboard import NO_INTERVALS, ranked, ranking_metric, ranking_name
from asr_platform.analysis.text import counted, enumerated
from asr_platform.reporting.page import Figure
from asr_platform.reporting.plots import COLOURS, GREY, HIGHEST, LOWEST
from asr_platform.reporting.report_data import ReportData
from asr_platform.study.allocation.rungs import PROGRESS
from asr_platform.study.ledger import TrialRecord
from trainables.evaluation.metrics import objective_text, objective_value

ACCENT, PALE, INK = COLOURS[0], "#9db8cc", "#333333"
DASHES = ["solid", "dash", "dashdot", "dot"]
ENDS = {  # state of a trial: symbol, and words
    "complete": ("circle", "trained to the end"),
    "pruned": ("x", "stopped early"),
    "failed": ("triangle-down", "failed"),
    "running": ("circle-open", "not ended"),
}
UNITS = {"epochs": "epoch", "hours": "hours of audio"}  # title of the learning curves' axis, if not the unit itself
NARROW_RANGE = 4  # an axis whose values differ by a smaller factor is linear
LONGEST_REASON = 80  # characters
NOTHING_YET = "No trial has finished an epoch."

AXIS = {"gridcolor": "#e6e6e6", "linecolor": "#999999", "zeroline": False, "showline": True, "ticks": "outside"}
MARGIN = {"l": 64, "r": 16, "t": 12, "b": 48}  # pixels
STYLE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "legend": {
            "orientation": "h", "xref": "container", "x": 0.02, "yref": "container", "y": 0, "yanchor": "bottom",
            "entrywidth": 95, "font": {"size": 11},
        },
        "hovermode": "closest",
        "dragmode": False,  # on a phone, a drag scrolls the page
        "xaxis": {**AXIS, "automargin": True, "title": {"standoff": 8}},
        "yaxis": AXIS,
    }
)  # fmt: skip


# Learning curves


def learning_curves(data: ReportData) -> Figure | str:
    """Figure with the learning curves of all trials, the rungs, and how each trial ended."""
    if not data.measured:
        return NOTHING_YET
    unit = data.space.comparable_settings.asha.unit
    figure = draw_learning_curves(data.trials, PROGRESS[unit], UNITS.get(unit, unit), data.rungs)
    caption = f"{data.metric} of every trial after each epoch; the best trials are in colour."
    if data.rungs:
        caption += " Dotted lines are rungs, where weak trials are stopped."
    states = {state: [trial for trial in data.trials if trial.state == state] for state in ENDS}
    ends = [f"{len(trials)} {ENDS[state][1]}" for state, trials in states.items() if trials]
    spent = sum(trial.epochs for trial in states["pruned"])
    total = sum(trial.epochs for trial in data.trials)
    stopped = f" Trials stopped early took {spent} of all {total} epochs." if spent else ""
    return Figure(figure, caption, f"Of {counted(len(data.trials), 'trial')}, {enumerated(ends)}.{stopped}")


def draw_learning_curves(
    trials: Sequence[TrialRecord], progress: str = "epoch", unit: str = "epoch", rungs: Sequence[float] = ()
) -> go.Figure:
    """Learning curves, the best in colour, with a symbol for how each trial ended.

    Args:
        progress: metric of an epoch on the horizontal axis, such as `epoch` or `audio_hours`.
        unit: title of the horizontal axis.
        rungs: positions of the rungs on the horizontal axis.
    """
    measured = [trial for trial in ranked(trials) if trial.best]
    most = 100 * HIGHEST if ranking_metric(measured) == "val_cer" else math.inf
    figure = go.Figure()
    for rank, trial in reversed([*enumerate(measured)]):  # the best is drawn last, on top
        named, last = rank < len(COLOURS), len(trial.curve) - 1
        style = {"color": COLOURS[rank], "dash": DASHES[rank % len(DASHES)]} if named else {"color": GREY, "width": 1}
        marker = {"symbol": ["circle"] * last + [ENDS[trial.state][0]], "size": [0] * last + [9 if named else 6]}
        figure.add_scatter(
            x=[row[progress] for row in trial.curve],
            y=[min(most, shown_value(row)) for row in trial.curve],
            mode="lines+markers",
            name=label_of(trial),
            legendrank=rank,
            showlegend=named,
            line=style,
            marker={"opacity": 1, **marker},
            hovertext=[_epoch_text(trial, row) for row in trial.curve],
        )
    for state, (symbol, words) in ENDS.items():
        if any(trial.state == state for trial in measured):
            marker = {"symbol": symbol, "color": "#606060", "size": 8}
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=words)
    for rung in rungs:
        figure.add_vline(rung, line={"color": "#999999", "width": 1, "dash": "dot"})
    values = [shown_value(row) for trial in measured for row in trial.curve]
    y = value_axis(measured, [min(most, value) for value in values])
    if max(values) > most:
        y["title"] = f"{ranking_name(measured)} (above 100% at the edge)"
    return styled(figure, 540, {"title": unit}, y)


def _epoch_text(trial: TrialRecord, row: Mapping[str, Any]) -> str:
    text = f"trial {trial.number}, epoch {row['epoch']}: {objective_text(row)}"
    if row["epoch"] != trial.curve[-1]["epoch"]:
        return text
    end = ENDS[trial.state][1] + (f": {trial.reason}" if trial.reason else "")
    return f"{text}<br>{html.escape(shortened(end, LONGEST_REASON), quote=False)}"


# Losses


def losses(data: ReportData) -> Figure | str:
    """Figure with the training and validation loss of the best trial after each epoch."""
    if data.best is None:
        return NOTHING_YET
    rows = [row for row in data.best.curve if "train_loss" in row and "val_loss" in row]
    if not rows:
        return "No losses of the best trial are on record."
    lowest = min(rows, key=lambda row: row["val_loss"])
    conclusion = f"The validation loss is lowest after epoch {lowest['epoch']} of {rows[-1]['epoch']}."
    if lowest is rows[-1]:
        conclusion += " It still fell at the end, so longer training may help."
    caption = f"Loss of trial {data.best.number}, the best, after each epoch."
    note = "The training loss is the mean over the epoch, with dropout, augmentation and label smoothing."
    return Figure(draw_losses(rows), caption, conclusion, note)


def draw_losses(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Training and validation loss after each epoch."""
    figure = go.Figure()
    for key, name, colour in (("train_loss", "training", COLOURS[1]), ("val_loss", "validation", COLOURS[0])):
        figure.add_scatter(
            x=[row["epoch"] for row in rows],
            y=[row[key] for row in rows],
            mode="lines+markers",
            name=name,
            line={"color": colour},
            hovertext=[f"epoch {row['epoch']}: {name} loss {row[key]:.3f}" for row in rows],
        )
    x = {"title": "epoch", "tickformat": "d"} | ({"dtick": 1} if len(rows) <= 12 else {})
    return styled(figure, 340, x, {"title": "loss"})


# Optimisation history


def history(data: ReportData) -> Figure | str:
    """Figure with the best epoch of every trial in the order of proposals, and the best trial so far."""
    if not data.measured:
        return NOTHING_YET
    best, start = data.measured[0], data.space.start
    from_start = best.number < len(start) and all(
        best.params.get(key) == value for key, value in start[best.number].items()
    )
    origin = ", a start configuration of the space" if from_start else ""
    later = counted(len(data.trials) - 1 - best.number, "trial")
    sampled = next((trial for trial in data.measured if trial.number >= len(start)), None)
    conclusion = f"The best trial is number {best.number}{origin}; {later} after it brought no improvement."
    if from_start and sampled:
        conclusion += f" The best trial that the sampler proposed is {label_of(sampled)}."
    caption = f"Best {data.metric} of each trial in the order of proposals."
    return Figure(draw_history(data.trials), caption, conclusion)


def draw_history(trials: Sequence[TrialRecord]) -> go.Figure:
    """Best epoch of every trial by trial number, and the best so far."""
    measured = sorted((trial for trial in trials if trial.best), key=lambda trial: trial.number)
    frame = trial_frame(measured)
    symbols = {words: symbol for symbol, words in ENDS.values()}
    figure = px.scatter(frame, x="trial", y="value", symbol="end", symbol_map=symbols, hover_name="label")
    figure.update_traces(marker={"color": ACCENT, "size": 9})
    values = dict(zip(frame.trial, frame.value, strict=True))
    numbers = list(range(measured[0].number, len(trials)))
    figure.add_scatter(
        x=numbers,
        y=list(accumulate((values.get(number, math.inf) for number in numbers), min)),
        mode="lines",
        name="the best so far",
        line={"shape": "hv", "color": COLOURS[1], "width": 1.5},
    )
    x = {"title": "trial, in the order of proposals", "tickformat": "d", "range": [-0.5, len(trials) - 0.5]}
    return styled(figure, 400, x | ({"dtick": 1} if len(trials) <= 12 else {}), value_axis(measured, frame.value))


# Parameter importances


def importances(data: ReportData) -> Figure | str:
    """Figure with the parameter importances, or the reason why there are none."""
    found = data.importances
    if not found.shares:
        return found.basis
    caption = f"Share of the variance in {data.metric} that each key explains alone (fANOVA); the rest is interaction."
    most, share = next(iter(found.shares.items()))
    conclusion = f"The most important key is {most}: it explains {share:.0%}. {found.basis}"
    reasons = "; ".join(f"{key}: {reason}" for key, reason in found.not_judged.items())
    return Figure(draw_importances(found.shares), caption, conclusion, reasons and f"Not judged: {reasons}")


def draw_importances(shares: Mapping[str, float]) -> go.Figure:
    """Bar chart of the importance (0 to 1) of each key, from top to bottom in the given order."""
    keys = [key.replace(".", ".<br>") for key in shares]  # long keys are broken for phones
    values = [100 * share for share in shares.values()]
    figure = px.bar(x=values[::-1], y=keys[::-1], text=[f"{value:.1f}%" for value in values[::-1]])
    figure.update_traces(textposition="outside", marker_color=ACCENT, width=0.6)
    x = {"title": "share of variance", "ticksuffix": "%", "range": [0, 1.4 * max(values)]}
    return styled(figure, 90 + 34 * len(keys), x, {"title": "", "automargin": True})


# Shared by all figures


def shown_value(row: Mapping[str, Any]) -> float:
    """Ranking metric of an epoch for figures: a CER in percent, with a lower bound for logarithmic axes."""
    value = objective_value(row)
    return 100 * max(value, LOWEST) if "val_cer" in row else value


def trial_frame(trials: Sequence[TrialRecord], intervals: Mapping[int, CerInterval] = NO_INTERVALS) -> pandas.DataFrame:
    """Trials with a finished epoch as rows: number, ranking metric with error bars, how the trial ended, label."""
    rows = []
    for trial in trials:
        value, cer = shown_value(trial.best or {}), intervals.get(trial.number)
        above = 100 * cer.interval.high - value if cer else 0
        below = value - 100 * max(LOWEST, cer.interval.low) if cer else 0
        rows.append((trial.number, value, above, below, ENDS[trial.state][1], label_of(trial)))
    return pandas.DataFrame(rows, columns=["trial", "value", "above", "below", "end", "label"])


def label_of(trial: TrialRecord) -> str:
    """Number and ranking metric of a trial, such as `trial 3: 2.00%`."""
    return f"trial {trial.number}: {objective_text(trial.best or {})}"


def value_axis(trials: Sequence[TrialRecord], values: Iterable[float]) -> dict[str, Any]:
    """Axis of the ranking metric: logarithmic with ticks at 1, 2 and 5, or linear if the values are close together."""
    suffix = "%" if ranking_metric(trials) == "val_cer" else ""
    axis: dict[str, Any] = {"title": ranking_name(trials), "ticksuffix": suffix}
    if max(values) > NARROW_RANGE * min(values):
        ticks = [digit * 10.0**power for power, digit in product(range(-2, 5), (1, 2, 5))]
        axis |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}{suffix}" for tick in ticks]}
    return axis


def styled(figure: go.Figure, height: int, x: dict[str, Any], y: dict[str, Any]) -> go.Figure:
    """The figure with the report's style, a height in pixels, and these axes."""
    figure.update_traces(
        hovertemplate="%{hovertext}<extra></extra>", selector=lambda trace: trace.hovertext is not None
    )
    figure.update_traces(hovertemplate=None, hoverinfo="skip", selector=lambda trace: trace.hovertext is None)
    figure.update_traces(cliponaxis=False)
    figure.update_layout(template=STYLE, height=height, margin=MARGIN, legend_title="", xaxis=x, yaxis=y)
    return figure


def shortened(text: str, most: int) -> str:
    """The text, cut to at most `most` characters with an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"
