"""Figures of the report with a Pareto front: the ranking metric against a second objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.express as px
import plotly.graph_objects as go

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.leaderboard import columns, pareto_front
from asr_platform.analysis.text import enumerated
from asr_platform.reporting.figures import ACCENT, NOTHING_YET, PALE, styled, trial_frame, value_axis
from asr_platform.reporting.page import Figure
from asr_platform.reporting.report_data import ReportData
from asr_platform.study.ledger import TrialRecord
from trainables.evaluation.metrics import objective_text

MOST_NUMBERED = 30  # trials; if there are more, only those on the Pareto front are labelled with their numbers


def against_parameters(data: ReportData) -> Figure | str:
    """Figure with the ranking metric against the number of parameters, or a sentence why there is none."""
    return _against(data, "parameters")


def against_real_time_factor(data: ReportData) -> Figure | str:
    """Figure with the ranking metric against the real-time factor of decoding, or a sentence why there is none."""
    if not data.transcribes:
        return "A language model transcribes nothing, so it has no real-time factor."
    if not any("real_time_factor" in (trial.best or {}) for trial in data.measured):
        return "No real-time factors are on record."
    note = (
        "Real-time factor: seconds of decoding per second of speech, in the validation after the best epoch. Other "
        "trials ran meanwhile: rough figures."
    )
    return _against(data, "real_time_factor", note)


def _against(data: ReportData, key: str, note: str = "") -> Figure | str:
    trials = [trial for trial in data.measured if _measure(trial, key) is not None]
    if not trials:
        return NOTHING_YET
    column = next(column for column in columns(trials, ["val_cer", key]) if column.key == key)
    front = pareto_front(trials, ("val_cer", key))
    along = sorted((trial for trial in trials if trial.number in front), key=lambda trial: _measure(trial, key))
    points = [
        f"trial {trial.number} ({column.name} {column.text(_measure(trial, key))}, {objective_text(trial.best or {})})"
        for trial in along
    ]
    conclusion = f"On the Pareto front: {enumerated(points)}."
    best = data.measured[0]
    equals = [trial for trial in [best, *data.tied] if _measure(trial, key) is not None]
    least = min(equals, key=lambda trial: _measure(trial, key), default=best)
    if least is not best and _measure(best, key):
        ratio = f"{_measure(least, key) / _measure(best, key):.0%} of the best trial's {column.name}"
        conclusion += f" Trial {least.number} has {ratio}, and its CER is not significantly different."
    bars = " Bars are 95% intervals." if data.intervals else ""
    caption = f"{data.metric} against {column.name}; lower is better in both. The line is the Pareto front.{bars}"
    return Figure(draw_against(trials, key, column.name, data.intervals), caption, conclusion, note)


def draw_against(trials: Sequence[TrialRecord], key: str, name: str, intervals: Mapping[int, CerInterval]) -> go.Figure:
    """The ranking metric of trials against another measure, with the Pareto front; lower is better in both.

    Args:
        key: key of the measure in an epoch's metrics or in `TrialRecord.about`; trials without it are left out.
        name: name of the measure on its axis.
        intervals: CER intervals by trial number, drawn as error bars.
    """
    known = [trial for trial in trials if trial.best and _measure(trial, key) is not None]
    frame = trial_frame(known, intervals)
    frame["measure"] = [_measure(trial, key) for trial in known]
    frame = frame.sort_values("measure")
    frame["label"] += frame.measure.map(f", {{:,.5g}} {name}".format)
    on_front = frame.trial.isin(pareto_front(known, ("val_cer", key)))
    frame["group"] = on_front.map({True: "Pareto front", False: "other trials"})
    figure = px.scatter(
        frame, x="measure", y="value", color="group", text=frame.trial.astype(str), hover_name="label",
        error_y="above", error_y_minus="below",
        color_discrete_map={"other trials": PALE, "Pareto front": ACCENT},
        category_orders={"group": ["other trials", "Pareto front"]},
    )  # fmt: skip
    bars = {"thickness": 1, "width": 3}
    figure.update_traces(marker_size=9, textposition="top right", textfont_size=11, error_y=bars)
    if len(known) > MOST_NUMBERED:
        figure.update_traces(mode="markers", selector={"name": "other trials"})
    front = frame[on_front]
    line = {"color": ACCENT, "width": 1.5, "shape": "hv"}
    figure.add_scatter(x=front.measure, y=front.value, mode="lines", line=line, showlegend=False)
    from_zero = {"rangemode": "tozero"} if frame.measure.max() > 2 * frame.measure.min() else {}
    return styled(figure, 420, {"title": name, **from_zero}, value_axis(known, frame.value))


def _measure(trial: TrialRecord, key: str) -> Any:
    """A metric of the trial's best epoch, or a fact about the trial; None if unknown."""
    return {**(trial.best or {}), **trial.about}.get(key)
