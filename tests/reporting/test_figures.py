"""A report's figures show what is on record: every trial, in percent, under its own name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from asr_platform.analysis.bootstrap import CerInterval, ConfidenceInterval
from asr_platform.analysis.error_breakdown import LengthGroup
from asr_platform.analysis.leaderboard import pareto_front
from asr_platform.reporting.error_figures import draw_groups
from asr_platform.reporting.figures import (
    ENDS,
    draw_history,
    draw_importances,
    draw_learning_curves,
    draw_losses,
)
from asr_platform.reporting.parallel import MISSING, Scale, draw_parallel_coordinates
from asr_platform.reporting.pareto import MOST_NUMBERED, draw_against
from asr_platform.reporting.plots import COLOURS
from asr_platform.study.ledger import TrialRecord

KEYS = {
    "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
    "model.norm": CategoricalDistribution(("layer", "rms", "<b>&")),
    "model.d_model": CategoricalDistribution((128, 32, 64)),
}
TRIALS = [
    records.trial(0, "pruned", [2.5, 0.8], {"optimizer.lr": 1e-3, "model.d_model": 64}, "rung <at> 2", parameters=50),
    records.trial(1, "complete", [0.5, 0.04, 0.05], {"optimizer.lr": 1e-2, "model.norm": "rms", "model.d_model": 32},
                  parameters=100),
    records.trial(2, "failed", [], {"optimizer.lr": 1e-4}, "no", parameters=10),
    records.trial(3, "failed", [0.9], {"optimizer.lr": 1e-4, "model.norm": "<b>&", "model.d_model": 128},
                  parameters=50),
    records.trial(4, "running", [0.6], {"optimizer.lr": 1e-4, "model.norm": "layer", "model.d_model": 128},
                  parameters=30),
]  # fmt: skip


def language(number: int, values: Sequence[float]) -> TrialRecord:
    curve = [{"epoch": epoch, "val_character_perplexity": value} for epoch, value in enumerate(values, start=1)]
    return TrialRecord(number, "complete", {"optimizer.lr": 1e-3}, curve, {"parameters": 7}, "")


def named(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


# Losses


def test_both_losses_are_there_after_every_epoch() -> None:
    rows = [{"epoch": 1, "train_loss": 3.0, "val_loss": 2.5}, {"epoch": 2, "train_loss": 2.0, "val_loss": 2.25}]
    traces = named(draw_losses(rows))
    assert {name: list(trace.y) for name, trace in traces.items()} == {
        "training": [3.0, 2.0],
        "validation": [2.5, 2.25],
    }
    assert [list(trace.x) for trace in traces.values()] == [[1, 2]] * 2
    assert list(traces["validation"].hovertext) == ["epoch 1: validation loss 2.500", "epoch 2: validation loss 2.250"]


# Learning curves


def test_every_trial_with_an_epoch_has_a_curve_with_its_end() -> None:
    figure = draw_learning_curves(TRIALS, "epoch", "epoch", [2, 2.5])
    traces = named(figure)
    best = traces["trial 1: 4.00%"]
    assert (list(best.x), list(best.y)) == ([1, 2, 3], [50, 4, 5]), "in percent"
    assert list(traces["trial 0: 80.00%"].y) == [100, 80], "above 100% at the edge"
    curves = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert len(curves) == 4, "a failed trial's among them"
    ends = {name: trace.marker.symbol[-1] for name, trace in curves.items()}
    assert ends == {
        "trial 1: 4.00%": ENDS["complete"][0],
        "trial 4: 60.00%": ENDS["running"][0],
        "trial 0: 80.00%": ENDS["pruned"][0],
        "trial 3: 90.00%": ENDS["failed"][0],
    }
    assert {words for _, words in ENDS.values()} <= set(traces), "what the marks mean"
    assert [shape.x0 for shape in figure.layout.shapes] == [2, 2.5]
    assert traces["trial 0: 80.00%"].hovertext[-1] == "trial 0, epoch 2: 80.00%<br>stopped early: rung &lt;at&gt; 2"
    assert (best.line.color, best.legendrank) == (COLOURS[0], 0)


def test_of_many_curves_the_best_have_colours_and_names() -> None:
    figure = draw_learning_curves([records.trial(n, "complete", [0.9 - n / 100]) for n in range(20)])
    curves = [trace for trace in figure.data if trace.mode == "lines+markers"]
    legend = [trace.name for trace in sorted(curves, key=lambda trace: trace.legendrank) if trace.showlegend]
    assert legend == [f"trial {n}: {90 - n}.00%" for n in range(19, 19 - len(COLOURS), -1)]
    assert curves[-1].name == "trial 19: 71.00%", "on top of the others"


def test_curves_may_count_updates() -> None:
    figure = draw_learning_curves(TRIALS, "updates", "updates", [150])
    assert list(named(figure)["trial 1: 4.00%"].x) == [100, 200, 300]
    assert figure.layout.xaxis.title.text == "updates"


# History


def test_the_history_has_every_trial_and_the_best_so_far() -> None:
    figure = draw_history(TRIALS)
    for state, number, value in (("pruned", 0, 80), ("complete", 1, 4), ("failed", 3, 90), ("running", 4, 60)):
        symbol, words = ENDS[state]
        marks = named(figure)[words]
        assert (list(marks.x), list(marks.y), marks.marker.symbol) == ([number], [value], symbol)
    best = named(figure)["the best so far"]
    assert (list(best.x), list(best.y)) == ([0, 1, 2, 3, 4], [80, 4, 4, 4, 4])


def test_a_first_trial_without_an_epoch_has_no_best_yet() -> None:
    figure = draw_history([records.trial(0, "failed"), TRIALS[1]])
    assert list(named(figure)["the best so far"].x) == [1]


# Fronts

points = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=12)


@given(points)
@settings(max_examples=25)
def test_the_front_is_the_leaderboards(drawn: list[tuple[int, int]]) -> None:
    trials = [records.trial(n, "pruned", [cer / 10], parameters=size) for n, (cer, size) in enumerate(drawn)]
    figure = draw_against(trials, "parameters", "parameters", {})
    traces = named(figure)
    front = {int(number) for number in traces["Pareto front"].text}
    assert front == pareto_front(trials, ("val_cer", "parameters"))
    others = [trace for name, trace in traces.items() if name == "other trials"]
    assert {int(number) for trace in others for number in trace.text} == {trial.number for trial in trials} - front
    for trace in (traces["Pareto front"], *others):
        for number, x, y in zip(trace.text, trace.x, trace.y, strict=True):
            cer, size = drawn[int(number)]
            assert (x, y) == (size, pytest.approx(max(0.01, 10 * cer)))


def test_what_was_not_measured_is_left_out_and_intervals_are_bars() -> None:
    intervals = {1: CerInterval(ConfidenceInterval(0.01, 0.06), None)}
    trials = [records.trial(n, "complete", [cer], speed=speed) for n, cer, speed in ((0, 0.8, 3.0), (1, 0.04, 2.0))]
    figure = draw_against([*trials, TRIALS[3]], "speed", "real-time factor", intervals)
    front = named(figure)["Pareto front"]
    assert (list(front.x), list(front.y), list(front.text)) == ([2.0], [4], ["1"])
    assert (front.error_y.array[0], front.error_y.arrayminus[0]) == (pytest.approx(2), pytest.approx(3))
    assert list(named(figure)["other trials"].text) == ["0"]
    assert front.hovertext[0] == "trial 1: 4.00%, 2 real-time factor"


def test_of_many_trials_only_those_on_the_front_are_numbered() -> None:
    trials = [records.trial(n, "complete", [0.1 + n / 100], parameters=9 + n) for n in range(MOST_NUMBERED + 1)]
    traces = named(draw_against(trials, "parameters", "parameters", {}))
    assert (traces["Pareto front"].mode, traces["other trials"].mode) == ("markers+text", "markers")


# Parallel coordinates


def test_every_trial_is_a_line_through_its_own_values() -> None:
    """Choices that are numbers among the keys: Optuna's own figure mixes the trials up then."""
    figure = draw_parallel_coordinates([trial for trial in TRIALS if trial.best], KEYS)
    lines = {trace.hovertext[0].split(":")[0]: trace for trace in figure.data}
    assert list(lines) == ["trial 3", "trial 0", "trial 4", "trial 1"], "the best on top"
    assert list(lines["trial 1"].hovertext) == [
        f"trial 1: {text}" for text in ("val CER 4.00%", "optimizer.lr 0.01", "model.norm rms", "model.d_model 32")
    ]
    assert list(lines["trial 3"].hovertext) == [
        f"trial 3: {text}"
        for text in ("val CER 90.00%", "optimizer.lr 0.0001", "model.norm &lt;b&gt;&amp;", "model.d_model 128")
    ]
    assert lines["trial 0"].hovertext[2] == "trial 0: model.norm not used"
    assert lines["trial 1"].x[0] == 0 and lines["trial 3"].x[0] == 1, "the lowest CER on the left"
    assert lines["trial 0"].x[1] == pytest.approx(0.5), "a rate lies where its logarithm does"
    assert list(lines["trial 1"].y) == [0, 1, 2, 3]
    assert lines["trial 1"].line.color == COLOURS[1]
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert [text for text in texts if text.startswith("<b>")] == [
        "<b>val CER</b>", "<b>optimizer.lr</b>", "<b>model.norm</b>", "<b>model.d_model</b>",
    ]  # fmt: skip
    assert "not used" in texts and "&lt;b&gt;&amp;" in texts


@pytest.mark.parametrize(
    ("distribution", "values", "ticks", "shares"),
    [
        (IntDistribution(1, 4), [1, 4, 2], ["1", "2", "3", "4"], [0, 1, 1 / 3]),
        (IntDistribution(512, 4096), [512, 4096], ["512", "2304", "4096"], [0, 1]),
        (IntDistribution(3, 3), [3], ["3"], [0.5]),
        (FloatDistribution(0, 0.2), [0.05], ["0", "0.1", "0.2"], [0.25]),
        (FloatDistribution(1e-4, 1e-2, log=True), [1e-3], ["0.0001", "0.001", "0.01"], [0.5]),
        (CategoricalDistribution((None, False, "a" * 40)), [False], ["None", "False", "a" * 15 + "…"], [0.5]),
        (CategoricalDistribution(("only",)), ["only", MISSING], ["not used", "only"], [0.62, 0]),
        (IntDistribution(1, 2), [MISSING, 1, 2], ["not used", "1", "2"], [0, 0.24, 1]),
    ],
)
def test_a_scale_is_all_that_a_key_could_have_been(
    distribution: Any, values: list[Any], ticks: list[str], shares: list[float]
) -> None:
    scale = Scale.of("key", distribution, values)
    assert [text for _, text in scale.ticks] == ticks
    assert scale.shares == pytest.approx(shares)


def test_a_width_that_was_fitted_has_a_scale_too() -> None:
    trials = [records.trial(n, "complete", [0.5 - n / 10], {"model.feed_forward": 100 + n}) for n in range(2)]
    assert draw_parallel_coordinates(trials, KEYS).data[-1].hovertext[1] == "trial 1: model.feed_forward 101"


# Others


def test_perplexities_are_no_percentages() -> None:
    both = [language(0, [12.5, 4.25]), language(1, [9.0, 4.5])]
    curve = named(draw_learning_curves(both))["trial 0: 4.250"]
    assert list(curve.y) == [12.5, 4.25]
    figure = draw_history(both)
    assert list(named(figure)[ENDS["complete"][1]].y) == [4.25, 4.5]
    assert figure.layout.yaxis.title.text == "val perplexity" and not figure.layout.yaxis.ticksuffix
    assert draw_parallel_coordinates(both, KEYS).data[-1].hovertext[0] == "trial 0: val perplexity 4.250"


def test_an_error_rate_of_nothing_can_be_drawn() -> None:
    perfect = [records.trial(0, "complete", [0.5, 0.0], {"optimizer.lr": 1e-3})]
    assert min(draw_learning_curves(perfect).data[0].y) == 0.01
    assert draw_parallel_coordinates(perfect, KEYS).data[0].hovertext[0] == "trial 0: val CER 0.00%"


def test_bars_are_the_figures_they_stand_for() -> None:
    bars = draw_importances({"optimizer.lr": 0.6, "model.norm": 0.05}).data[0]
    assert (list(bars.y), list(bars.x)) == (["model.<br>norm", "optimizer.<br>lr"], [5, 60])
    groups = [
        LengthGroup(1, 9, 30, 0.01, ConfidenceInterval(0.005, 0.02)),
        LengthGroup(10, 10, 31, 0.02, ConfidenceInterval(0.01, 0.05)),
    ]
    bars = draw_groups(groups, ["1–9", "10"], "characters").data[0]
    assert (list(bars.x), list(bars.y)) == (["1–9", "10"], [1, 2])
    assert list(bars.error_y.array) == pytest.approx([1, 3])
    assert list(bars.error_y.arrayminus) == pytest.approx([0.5, 1])
