"""A report's figures: Optuna's own where there is one, drawn from a study that shows what people read.

Optuna shows finished trials alone, by their raw values. So it is given a copy of the ledger in which every trial with
an epoch counts as finished, with what the leaderboard ranks it by: a CER in percent. What its figures lack is added:
how trials ended, rungs, the line of a front, names of axes. Importances are those of `importances.py`: Optuna would
compute others. Parallel coordinates are in report_parallel.py.

Texts in a figure are markup to Plotly, so whatever a trial brings along is escaped.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import TrialState
from optuna.visualization import plot_intermediate_values, plot_optimization_history, plot_pareto_front

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.error_breakdown import LengthGroup
from asr_platform.analysis.leaderboard import ranked
from asr_platform.reporting.plots import COLOURS, GREY, HIGHEST, LOWEST
from asr_platform.study.ledger import TrialRecord
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text, objective_value

ACCENT, PALE, INK = COLOURS[0], "#9db8cc", "#333333"
DASHES = ["solid", "dash", "dashdot", "dot"]
ENDS = {  # how a trial ended: the mark, and words
    "complete": ("circle", "trained to the end"),
    "pruned": ("x", "stopped early"),
    "failed": ("triangle-down", "failed"),
    "running": ("circle-open", "not ended"),
}
NARROW_RANGE = 4  # times the lowest value: up to there an axis is linear
MOST_NUMBERED = 30  # trials that have their numbers beside their marks
LEGEND = {"orientation": "h", "xref": "container", "x": 0.02, "yref": "container", "y": 0, "yanchor": "bottom",
          "entrywidth": 95, "font": {"size": 11}}  # fmt: skip
MARGIN = {"l": 64, "r": 16, "t": 12, "b": 48}  # pixels


@dataclass(frozen=True)
class Shown:
    """A sweep's trials as figures show them.

    Args:
        trials: those that have an epoch, by number.
        study: all of them; those with an epoch are complete, with the value that they are ranked by.
        distributions: of the keys.
        name: what that value is; a CER is in percent.
        suffix: behind a figure of that kind.
    """

    trials: list[TrialRecord]
    study: optuna.Study
    distributions: Mapping[str, BaseDistribution]
    name: str
    suffix: str

    @classmethod
    def of(cls, trials: Sequence[TrialRecord], distributions: Mapping[str, BaseDistribution]) -> Shown:
        """The figures' view of a ledger.

        Args:
            distributions: of the space's keys; a width that is fitted has none.
        """
        key = next((objective(trial.best) for trial in trials if trial.best), "val_cer")
        distributions = _with_fitted(trials, distributions)
        study = optuna.create_study()
        for trial in trials:
            study.add_trial(_copy(trial, distributions))
        suffix = "%" if key == "val_cer" else ""
        return cls([trial for trial in trials if trial.best], study, distributions, OBJECTIVES[key], suffix)

    def numbers(self, values: Sequence[float]) -> dict[str, Any]:
        """An axis for such values: logarithmic with ticks at 1, 2 and 5, or linear where they lie close together."""
        if max(values) <= NARROW_RANGE * min(values):
            return {"title": {"text": self.name}, "ticksuffix": self.suffix}
        ticks = [digit * 10.0**power for power, digit in product(range(-2, 5), (1, 2, 5))]
        texts = [f"{tick:g}{self.suffix}" for tick in ticks]
        return {"title": {"text": self.name}, "type": "log", "tickvals": ticks, "ticktext": texts}


def value_of(row: Mapping[str, Any]) -> float:
    """What an epoch is ranked by, as figures show it: not below what a logarithmic axis can."""
    value = objective_value(row)
    return 100 * max(value, LOWEST) if objective(row) == "val_cer" else value


def _copy(trial: TrialRecord, distributions: Mapping[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    if trial.best is None:
        return optuna.create_trial(state=TrialState.FAIL)
    return optuna.create_trial(
        value=value_of(trial.best),
        params=trial.params,
        distributions={key: distributions[key] for key in trial.params},
        intermediate_values={row["epoch"]: value_of(row) for row in trial.curve},
    )


def _with_fitted(trials: Sequence[TrialRecord], known: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """The distributions with those of widths that no sampler was asked for."""
    widths: dict[str, list[int]] = {}
    for key, value in ((key, value) for trial in trials for key, value in trial.params.items() if key not in known):
        widths.setdefault(key, []).append(value)
    return {**known, **{key: IntDistribution(min(values), max(values)) for key, values in widths.items()}}


# Figures


def learning_curves(shown: Shown, progress: str, unit: str, rungs: Sequence[float]) -> go.Figure:
    """Every trial's curve with its end, the best in colour, and the rungs.

    Args:
        progress: the key of an epoch's place on the axis, which counts in `unit`; as the rungs do.
    """
    figure = plot_intermediate_values(shown.study)
    ranks = {trial.number: rank for rank, trial in enumerate(ranked(shown.trials))}
    most = 100 * HIGHEST if shown.suffix else math.inf
    for trace, trial in zip(figure.data, shown.trials, strict=True):
        x, y = [row[progress] for row in trial.curve], [min(most, value_of(row)) for row in trial.curve]
        trace.update(x=x, y=y, cliponaxis=False, **_curve(trial, ranks[trial.number]))
    figure.data = sorted(figure.data, key=lambda trace: -trace.legendrank)  # the best on top of the others
    _legend_of_ends(figure, shown.trials)
    for rung in rungs:
        figure.add_vline(rung, line={"color": "#999999", "width": 1, "dash": "dot"})
    values = [value_of(row) for trial in shown.trials for row in trial.curve]
    axis = shown.numbers([min(most, value) for value in values])
    if max(values) > most:
        axis["title"] = {"text": f"{shown.name} (above 100% at the edge)"}
    return dressed(figure, 540, {"title": {"text": unit}}, axis)


def _curve(trial: TrialRecord, rank: int) -> dict[str, Any]:
    """How a trial's curve looks: thin and grey, but for the best."""
    named, last = rank < len(COLOURS), len(trial.curve) - 1
    colour, dash = (COLOURS[rank], DASHES[rank % len(DASHES)]) if named else (GREY, "solid")
    return {
        "name": f"trial {trial.number}: {best_text(trial)}",
        "legendrank": rank,
        "showlegend": named,
        "line": {"color": colour, "dash": dash, "width": 2 if named else 1},
        "marker": {
            "symbol": ["circle"] * last + [ENDS[trial.state][0]],
            "size": [0] * last + [9 if named else 6],
            "opacity": 1,
            "maxdisplayed": 0,
        },
        "text": [_epoch_text(trial, row) for row in trial.curve],
        "hovertemplate": "%{text}<extra></extra>",
    }


def history(shown: Shown) -> go.Figure:
    """Every trial's best epoch in the order of proposals, and the best so far."""
    figure = plot_optimization_history(shown.study)
    marks, best = figure.data[:2]
    marks.update(
        name=shown.name,
        showlegend=False,
        marker={"color": ACCENT, "size": 9, "symbol": [ENDS[trial.state][0] for trial in shown.trials]},
        text=[f"trial {trial.number}: {best_text(trial)}" for trial in shown.trials],
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
    )
    so_far = [(x, y) for x, y in zip(best.x, best.y, strict=True) if math.isfinite(y)]
    best.update(x=[x for x, _ in so_far], y=[y for _, y in so_far], name="the best so far")
    best.update(line={"shape": "hv", "color": COLOURS[1], "width": 1.5}, hoverinfo="skip")
    figure.data = [best, marks]
    _legend_of_ends(figure, shown.trials)
    x = {"title": {"text": "trial, as they were proposed"}, **_whole(len(shown.study.trials))}
    return dressed(figure, 400, x, shown.numbers(list(marks.y)))


def against(
    shown: Shown, measure: Callable[[TrialRecord], float | None], name: str, intervals: Mapping[int, CerInterval]
) -> go.Figure:
    """What every trial is ranked by against another measure, lower being better in both, with the Pareto front."""
    study, trials = optuna.create_study(directions=["minimize"] * 2), []
    for trial in shown.trials:
        other = measure(trial)
        if trial.best is not None and other is not None:
            study.add_trial(optuna.create_trial(values=[other, value_of(trial.best)]))
            trials.append(trial)
    figure = plot_pareto_front(study, target_names=[name, shown.name])
    numbered = len(trials) <= MOST_NUMBERED
    others, front = figure.data
    for trace, colour in ((others, PALE), (front, ACCENT)):
        there = [trials[json.loads(text.replace("<br>", "\n"))["number"]] for text in trace.text]
        trace.update(
            name="Pareto front" if trace is front else "other trials",
            mode="markers+text" if numbered or trace is front else "markers",
            marker={"color": colour, "size": 9, "colorscale": None, "showscale": False, "line": {"width": 0}},
            text=[str(trial.number) for trial in there],
            textposition="top right",
            textfont={"size": 11},
            customdata=[f"trial {trial.number}: {best_text(trial)}, {measure(trial):,.5g} {name}" for trial in there],
            hovertemplate="%{customdata}<extra></extra>",
            error_y=_bars(there, trace.y, intervals, colour) if shown.suffix else None,
            showlegend=True,
            cliponaxis=False,
        )
    line = {"color": ACCENT, "width": 1.5, "shape": "hv"}
    corners = sorted(zip(front.x, front.y, strict=True))
    x, y = zip(*corners, strict=True)
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    along = [*others.x, *front.x]
    from_zero = {"rangemode": "tozero"} if max(along) > 2 * min(along) else {}
    return dressed(figure, 420, {"title": {"text": name}, **from_zero}, shown.numbers([*others.y, *front.y]))


def importance_bars(shares: Mapping[str, float]) -> go.Figure:
    """The share of each key, the largest on top."""
    keys = [key.replace(".", ".<br>") for key in shares][::-1]  # a phone has no room for them in one line
    values = [100 * share for share in shares.values()][::-1]
    text = [f"{value:.1f}%" for value in values]
    bars = go.Bar(x=values, y=keys, orientation="h", text=text, textposition="outside", cliponaxis=False)
    figure = go.Figure(bars.update(marker={"color": ACCENT}, hoverinfo="skip", width=0.6))
    x = {"title": {"text": "share of variance"}, "ticksuffix": "%", "range": [0, 1.4 * max(values)]}
    return dressed(figure, 90 + 34 * len(keys), x, {"automargin": True})


def length_bars(groups: Sequence[LengthGroup]) -> go.Figure:
    """The CER of each group of utterances with its interval."""
    values = [100 * group.cer for group in groups]
    figure = go.Figure(
        go.Bar(
            x=[_between(group) for group in groups],
            y=values,
            error_y={
                "type": "data",
                "array": [100 * group.interval.high - value for group, value in zip(groups, values, strict=True)],
                "arrayminus": [value - 100 * group.interval.low for group, value in zip(groups, values, strict=True)],
                "color": INK,
                "thickness": 1.2,
            },
            marker={"color": ACCENT},
            text=[f"CER {group.cer:.2%}, {group.utterances:,} utterances" for group in groups],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            width=0.6,
        )
    )
    x = {"title": {"text": "characters in the reference"}, "type": "category"}
    return dressed(figure, 360, x, {"title": {"text": "CER"}, "ticksuffix": "%", "rangemode": "tozero"})


# Parts of them


def best_text(trial: TrialRecord) -> str:
    return objective_text(trial.best) if trial.best else ""


def _epoch_text(trial: TrialRecord, row: Mapping[str, Any]) -> str:
    text = f"trial {trial.number}, epoch {row['epoch']}: {objective_text(row)}"
    if row is not trial.curve[-1]:
        return text
    words = ENDS[trial.state][1] + (f": {trial.reason}" if trial.reason else "")
    return f"{text}<br>{html.escape(cut(words, 80), quote=False)}"


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _between(group: LengthGroup) -> str:
    return f"{group.shortest}–{group.longest}" if group.longest > group.shortest else f"{group.shortest}"


def _bars(
    trials: Sequence[TrialRecord], values: Sequence[float], intervals: Mapping[int, CerInterval], colour: str
) -> dict[str, Any]:
    """Intervals of CERs in percent; none where none is known."""
    known = [intervals[trial.number].interval if trial.number in intervals else None for trial in trials]
    pairs = list(zip(known, values, strict=True))
    return {
        "type": "data",
        "array": [100 * one.high - value if one else 0 for one, value in pairs],
        "arrayminus": [value - 100 * max(LOWEST, one.low) if one else 0 for one, value in pairs],
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def _legend_of_ends(figure: go.Figure, trials: Sequence[TrialRecord]) -> None:
    for state, (symbol, words) in ENDS.items():
        if any(trial.state == state for trial in trials):
            figure.add_scatter(
                x=[None], y=[None], mode="markers", marker={"symbol": symbol, "color": "#606060", "size": 8}, name=words
            )


def _whole(count: int) -> dict[str, Any]:
    """An axis of trials' numbers, which are whole."""
    return {"dtick": 1 if count <= 12 else None, "tickformat": "d", "range": [-0.5, count - 0.5]}


def dressed(
    figure: go.Figure, height: int, x: dict[str, Any], y: dict[str, Any], margin: Mapping[str, int] = MARGIN
) -> go.Figure:
    """The look that all figures share; on a phone a drag scrolls the page, and does not zoom."""
    axis = {"gridcolor": "#e6e6e6", "linecolor": "#999999", "zeroline": False, "showline": True, "ticks": "outside"}
    figure.update_layout(
        template="none",
        title=None,
        height=height,
        autosize=True,
        margin=dict(margin),
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend=dict(LEGEND),
        showlegend=any(trace.showlegend is not False and trace.name for trace in figure.data),
        hovermode="closest",
        dragmode=False,
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    figure.update_xaxes({**axis, "automargin": True, "title": {"standoff": 8}})
    figure.update_xaxes(x)
    figure.update_yaxes({**axis, **y})
    return figure
