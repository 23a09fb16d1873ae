"""Parallel coordinates of the report: every trial as a line across one horizontal scale per key.

Plotly's and Optuna's figures place the scales side by side, too many for a phone or paper; and Optuna's figure mixes
up the order of trials if choices are numbers.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from plotly.colors import sample_colorscale

from asr_platform.analysis.leaderboard import ranked, ranking_metric, ranking_name
from asr_platform.analysis.text import enumerated, short_value
from asr_platform.reporting.figures import shortened, shown_value, styled
from asr_platform.reporting.page import Figure
from asr_platform.reporting.plots import COLOURS
from asr_platform.reporting.report_data import ReportData, keys_of, value_of
from asr_platform.study.ledger import TrialRecord
from asr_platform.study.samplers import distributions_of
from trainables.evaluation.metrics import objective_text

TOP = 3  # trials whose common values are looked for, if no trials are tied with the best
LONGEST_TICK = 16  # characters
ROW, LEAST_ROW, ROWS_HEIGHT = 52, 34, 920  # pixels: all rows must fit on a printed page
PALEST, DARKEST = "rgb(190, 205, 216)", "rgb(8, 48, 107)"
MISSING = object()  # value of a key whose condition does not hold
MOST_TICKS = 7  # of integers that a scale names one by one
WITHOUT = 0.24  # share of a scale's width left of its values, where trials without a value lie


def parallel_coordinates(data: ReportData) -> Figure | str:
    """Figure with the values of all trials, and a sentence on what the best trials have in common."""
    keys = keys_of(data.measured)
    if len(data.measured) < 2 or not keys:
        why = "fewer than two trials have finished an epoch, or nothing varied"
        return f"There is nothing to compare: {why}."
    caption = (
        f"Every line is a trial: its {data.metric} on the uppermost scale, its values on the others. Dark lines have "
        "low values; the best trial is orange. Stopped trials are drawn with the best value that they had reached."
    )
    figure = draw_parallel_coordinates(data.measured, distributions_of(data.space))
    return Figure(figure, caption, _in_common(data, keys))


def _in_common(data: ReportData, keys: Sequence[str]) -> str:
    """Sentence that names the values common to all of the best trials, but not to all other trials."""
    top = [data.measured[0], *data.tied] if data.tied else data.measured[:TOP]
    rest = [trial for trial in data.measured if trial not in top]
    if len(top) < 2 or not rest:
        return "There are too few trials to ask what the best have in common."
    common = []
    for key in keys:
        value = value_of(top[0], key)
        others = sum(value_of(trial, key) == value for trial in rest)
        if all(value_of(trial, key) == value for trial in top) and others < len(rest):
            common.append(f"{key} {value} (as have {others} of the other {len(rest)})")
    who = f"The {len(top)} best trials" + (", which do not differ significantly," if data.tied else "")
    if not common:
        return f"{who} have no value in common that the others have not."
    return f"{who} all have {enumerated(common)}. In few trials that may be chance."


def draw_parallel_coordinates(
    measured: Sequence[TrialRecord], distributions: Mapping[str, BaseDistribution]
) -> go.Figure:
    """Values of the trials from the lowest CER (or perplexity), dark, to the highest; the best trial is orange.

    Args:
        distributions: distributions of the searched keys; the width that fills the budget has none.
    """
    trials = ranked(measured)[::-1]  # the best on top of the others
    scales = _scales(trials, distributions)
    figure = go.Figure()
    for place, trial in enumerate(trials):
        best = place == len(trials) - 1
        shade = sample_colorscale([PALEST, DARKEST], 1 - scales[0].shares[place])[0]
        ranking = f"{scales[0].name} {objective_text(trial.best or {})}"
        texts = [ranking, *(f"{scale.name} {scale.texts[place]}" for scale in scales[1:])]
        figure.add_scatter(
            x=[scale.shares[place] for scale in scales],
            y=list(range(len(scales))),
            mode="lines+markers",
            line={"color": COLOURS[1] if best else shade, "width": 3 if best else 1.3},
            marker={"size": 6 if best else 4},
            hovertext=[f"trial {trial.number}: {text}" for text in texts],
            showlegend=False,
        )
    label = {"showarrow": False, "bgcolor": "rgba(255, 255, 255, 0.75)", "borderpad": 0, "font": {"size": 11}}
    for row, scale in enumerate(scales):
        figure.add_shape(type="line", x0=0, x1=1, y0=row, y1=row, line={"color": "#999999", "width": 1}, layer="below")
        name = f"<b>{scale.name}</b>"
        figure.add_annotation(x=0, y=row, text=name, xanchor="left", yanchor="bottom", yshift=3, **label)
        for share, text in scale.ticks:
            side = "left" if share < 0.1 else "right" if share > 0.9 else "center"
            figure.add_annotation(x=share, y=row, text=text, xanchor=side, yanchor="top", yshift=-3, **label)
    height = max(LEAST_ROW, min(ROW, ROWS_HEIGHT // len(scales)))
    hidden = {"visible": False, "fixedrange": True}
    y = {"range": [len(scales) - 0.5, -0.5], **hidden}
    styled(figure, height * len(scales), {"range": [-0.01, 1.01], **hidden}, y)
    return figure.update_layout(margin={"l": 8, "r": 8, "t": 4, "b": 4})


def _scales(trials: Sequence[TrialRecord], distributions: Mapping[str, BaseDistribution]) -> list[Scale]:
    """Scales (axes of the plot): the ranking metric first, then each key that has a value in any trial."""
    values: list[Any] = [shown_value(trial.best or {}) for trial in trials]
    suffix = "%" if ranking_metric(trials) == "val_cer" else ""
    ranking = FloatDistribution(min(values), max(values), log=True)
    scales = [Scale.of(ranking_name(trials), ranking, values, suffix)]
    varied = {key for trial in trials for key in trial.params}
    for key in [*(key for key in distributions if key in varied), *sorted(varied - {*distributions})]:
        values = [trial.params.get(key, MISSING) for trial in trials]
        known: list[Any] = [value for value in values if value is not MISSING]
        distribution = distributions.get(key) or IntDistribution(min(known), max(known))
        scales.append(Scale.of(key, distribution, values))
    return scales


@dataclass(frozen=True)
class Scale:
    """Horizontal scale of one key.

    Args:
        ticks: positions (0 to 1 of the width) and their labels.
        shares: position of each trial (0 to 1 of the width).
        texts: value of each trial, as text.
    """

    name: str
    ticks: list[tuple[float, str]]
    shares: list[float]
    texts: list[str]

    @classmethod
    def of(cls, name: str, distribution: BaseDistribution, values: Sequence[Any], suffix: str = "") -> Scale:
        """Scale (axis of the plot) over all values that a key can have.

        Args:
            values: value of the key in each trial; trials with `MISSING` are drawn left of all values.
            suffix: text after each value in a label, such as "%".
        """
        ticks = _ticks(distribution)
        number: Callable[[Any], float] = math.log if getattr(distribution, "log", False) else float
        if isinstance(distribution, CategoricalDistribution):
            number = ticks.index
        low, high = number(ticks[0]), number(ticks[-1])
        start = WITHOUT if MISSING in values else 0.0

        def share(value: Any) -> float:
            if value is MISSING:
                return 0.0
            return start + (1 - start) * ((number(value) - low) / (high - low) if high > low else 0.5)

        def text(value: Any) -> str:
            if value is MISSING:
                return "not used"
            return html.escape(shortened(short_value(value), LONGEST_TICK), quote=False) + suffix

        named = [*([MISSING] if start else []), *ticks]
        return cls(name, [(share(tick), text(tick)) for tick in named], [*map(share, values)], [*map(text, values)])


def _ticks(distribution: BaseDistribution) -> list[Any]:
    """Values with a label on the scale, from left to right."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    if low == high:
        return [low]
    if isinstance(distribution, FloatDistribution):
        return [low, math.sqrt(low * high) if distribution.log else (low + high) / 2, high]
    every = list(range(distribution.low, distribution.high + 1, distribution.step))
    return every if len(every) <= MOST_TICKS else [low, every[len(every) // 2], high]
