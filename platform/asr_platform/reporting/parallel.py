"""A report's parallel coordinates: every trial as a line across one scale a key.

They stand in for Optuna's, which leave out where stopped trials lie among others, mix up the order of the trials where
choices are numbers, and have their scales side by side: there are as many as keys, and phones and paper are narrow.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from plotly.colors import sample_colorscale

from asr_platform.analysis.leaderboard import ranked
from asr_platform.analysis.text import short_value
from asr_platform.reporting.figures import Shown, best_text, cut, dressed, value_of
from asr_platform.reporting.plots import COLOURS

LONGEST_TICK = 16  # characters
ROW, LEAST_ROW, ROWS_HEIGHT = 52, 34, 920  # pixels: of parallel coordinates, which must fit on a printed page
PALEST, DARKEST = "rgb(190, 205, 216)", "rgb(8, 48, 107)"
MISSING = object()  # the value of a key whose condition does not hold
MOST_STOPS = 7  # of whole numbers that a scale names one by one
WITHOUT = 0.24  # of a scale's width, on whose left the trials lie that have no value there


def parallel_coordinates(shown: Shown) -> go.Figure:
    """What every trial's values were, from the lowest CER (or perplexity), dark, to the highest; the best is orange."""
    trials = ranked(shown.trials)[::-1]  # the best on top of the others
    values = [value_of(trial.best) for trial in trials if trial.best]
    scales = [Scale.of(shown.name, FloatDistribution(min(values), max(values), log=True), values, shown.suffix)]
    for key, distribution in shown.distributions.items():
        if any(key in trial.params for trial in trials):
            scales.append(Scale.of(key, distribution, [trial.params.get(key, MISSING) for trial in trials]))
    rows = list(range(len(scales)))
    figure = go.Figure()
    for place, trial in enumerate(trials):
        best = place == len(trials) - 1
        shade = sample_colorscale([PALEST, DARKEST], 1 - scales[0].shares[place])[0]
        figure.add_scatter(
            x=[scale.shares[place] for scale in scales],
            y=rows,
            mode="lines+markers",
            line={"color": COLOURS[1] if best else shade, "width": 3 if best else 1.3},
            marker={"size": 6 if best else 4},
            text=[f"{shown.name} {best_text(trial)}", *(f"{scale.name} {scale.texts[place]}" for scale in scales[1:])],
            hovertemplate=f"trial {trial.number}: %{{text}}<extra></extra>",
            showlegend=False,
            cliponaxis=False,
        )
    behind = {"showarrow": False, "bgcolor": "rgba(255, 255, 255, 0.75)", "borderpad": 0, "font": {"size": 11}}
    for row, scale in enumerate(scales):
        figure.add_shape(type="line", x0=0, x1=1, y0=row, y1=row, line={"color": "#999999", "width": 1}, layer="below")
        figure.add_annotation(
            x=0, y=row, text=f"<b>{scale.name}</b>", xanchor="left", yanchor="bottom", yshift=3, **behind
        )
        for share, text in scale.ticks:
            side = "left" if share < 0.1 else "right" if share > 0.9 else "center"
            figure.add_annotation(x=share, y=row, text=text, xanchor=side, yanchor="top", yshift=-3, **behind)
    height = max(LEAST_ROW, min(ROW, ROWS_HEIGHT // len(scales)))
    hidden = {"visible": False, "fixedrange": True}
    y = {"range": [len(scales) - 0.5, -0.5], **hidden}
    return dressed(
        figure, height * len(scales), {"range": [-0.01, 1.01], **hidden}, y, {"l": 8, "r": 8, "t": 4, "b": 4}
    )


@dataclass(frozen=True)
class Scale:
    """One key's, from left to right.

    Args:
        ticks: places, as shares of the width, and what stands there.
        shares, texts: each trial's place and value.
    """

    name: str
    ticks: list[tuple[float, str]]
    shares: list[float]
    texts: list[str]

    @classmethod
    def of(cls, name: str, distribution: BaseDistribution, values: Sequence[Any], suffix: str = "") -> Scale:
        """All that the key could have been; on the left of that `MISSING`, where a trial has no value."""
        start = WITHOUT if MISSING in values else 0.0
        place = _place(distribution)

        def share(value: Any) -> float:
            return 0.0 if value is MISSING else start + (1 - start) * place(value)

        def text(value: Any) -> str:
            if value is MISSING:
                return "not used"
            return html.escape(cut(short_value(value), LONGEST_TICK), quote=False) + suffix

        stops = [*([MISSING] if start else []), *_stops(distribution)]
        return cls(name, [(share(stop), text(stop)) for stop in stops], [*map(share, values)], [*map(text, values)])


def _place(distribution: BaseDistribution) -> Callable[[Any], float]:
    """Where a value lies between the first and the last, as a share."""
    if isinstance(distribution, CategoricalDistribution):
        order = list(distribution.choices)
        return lambda value: order.index(value) / (len(order) - 1) if len(order) > 1 else 0.5
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    number = math.log if distribution.log else float
    low, high = number(distribution.low), number(distribution.high)
    return lambda value: (number(value) - low) / (high - low) if high > low else 0.5


def _stops(distribution: BaseDistribution) -> list[Any]:
    """The values that a scale names."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, FloatDistribution):
        low, high = distribution.low, distribution.high
        return [low, math.sqrt(low * high) if distribution.log else (low + high) / 2, high] if high > low else [low]
    assert isinstance(distribution, IntDistribution)
    low, high = distribution.low, distribution.high
    every = list(range(low, high + 1, distribution.step))
    return every if len(every) <= MOST_STOPS else [low, every[len(every) // 2], high]
