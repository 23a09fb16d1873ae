"""Plots as PNG files: learning curves and attention, in the colours of Okabe and Ito (for colour-blind readers).

Matplotlib draws without a display and without its global state.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from asr_platform.analysis.leaderboard import ranked, ranking_metric, ranking_name
from asr_platform.reporting.transcripts import html_page, text_page
from asr_platform.study.ledger import TrialRecord
from trainables.data.text.transcripts import SPACE
from trainables.evaluation.examples import SLOT, Attention, Examples
from trainables.evaluation.metrics import objective_text, objective_value

PLOTS = "plots"
LEARNING_CURVES, SWEEP_CURVES = "learning_curves.png", "sweep.png"
SELF_ATTENTION, CROSS_ATTENTION = "self_attention.png", "cross_attention.png"
PAGE, TEXT = "examples.html", "examples.txt"

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
DASHES = ["-", "--", "-.", ":"]
GREY, DARK_GREY = "#b0b0b0", "#606060"
MARKERS = {"complete": "o", "pruned": "x", "failed": "v", "running": "."}  # at the end of a trial's curve
LOWEST, HIGHEST = 1e-4, 1.0  # CERs that learning curves show; others are drawn at the edge
DOTS_PER_INCH = 110
MOST_DOTS = 40  # a longer curve has no mark at every epoch
LABELS = 45  # token labels that an axis has room for
LONGEST_LABEL = 14  # characters
LABEL_HEIGHT = 0.13  # inches
MOST_PANELS = 24
SHADES = colormaps["Blues"].with_extremes(bad="#ece7da")  # beige: no weight is possible

# Panels of a trial's learning curves: title, factor, highest value drawn, and names of the metrics.
PANELS: list[tuple[str, float, float, dict[str, str]]] = [
    ("loss (nats a token)", 1, math.inf, {"train_loss": "training", "val_loss": "validation"}),
    ("validation error rates (%; above 100 at the edge)", 100, 100,
     {"val_cer": "CER", "val_wer": "WER", "val_ctc_cer": "CER of CTC", "val_one_step_cer": "CER of one step"}),
    ("validation perplexity", 1, math.inf,
     {"val_perplexity": "of a token", "val_character_perplexity": "of a character"}),
    ("learning rate", 1, math.inf, {"learning_rate": "at the epoch's end"}),
]  # fmt: skip


def draw_trial(trial: TrialRecord, folder: Path) -> None:
    """Writes a trial's learning curves into a folder, with the examples and attention of its best checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    if trial.curve:
        save(trial_curves(trial), folder / LEARNING_CURVES)
    examples = Examples.load(Path(trial.checkpoint)) if trial.checkpoint else None
    if examples is not None:
        (folder / PAGE).write_text(html_page(examples), encoding="utf-8")
        (folder / TEXT).write_text(text_page(examples), encoding="utf-8")
        save(cross_attention(examples.attention), folder / CROSS_ATTENTION)
        save(self_attention(examples.attention), folder / SELF_ATTENTION)


def draw_sweep(trials: Sequence[TrialRecord], folder: Path) -> None:
    """Writes the learning curves of all trials into a folder, if any trial has a finished epoch."""
    if any(trial.curve for trial in trials):
        folder.mkdir(parents=True, exist_ok=True)
        save(sweep_curves(trials), folder / SWEEP_CURVES)


def save(figure: Figure, path: Path | BinaryIO) -> None:
    """Writes a figure as PNG to a file; if it cannot be drawn (too large, for example), the error is logged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn instead
        try:
            figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
        except ValueError as error:
            logging.getLogger(__name__).warning("%s: not drawn: %s", path, error)


# Learning curves


def trial_curves(trial: TrialRecord) -> Figure:
    """Loss, error rates (or perplexities) and learning rate of a trial by epoch."""
    panels = [panel for panel in PANELS if any(key in row for row in trial.curve for key in panel[-1])]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    grid: list[Axes] = list(figure.subplots(1, len(panels), squeeze=False)[0])
    marker = "o" if len(trial.curve) <= MOST_DOTS else ""
    for axes, (title, scale, most, names) in zip(grid, panels, strict=True):
        for (key, name), colour, dash in zip(names.items(), COLOURS, DASHES, strict=False):
            epochs = [row["epoch"] for row in trial.curve if key in row]
            values = [min(most, scale * row[key]) for row in trial.curve if key in row]
            axes.plot(epochs, values, dash, color=colour, marker=marker, markersize=3, label=name, clip_on=False)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        _epoch_axis(axes)
        if len(names) > 1:
            axes.legend(fontsize=8, frameon=False)
    if trial.best:
        best = f"{ranking_name([trial])} {objective_text(trial.best)} at epoch {trial.best['epoch']}"
        figure.suptitle(f"trial {trial.number}: {best}", fontsize=11)
    return figure


def sweep_curves(trials: Sequence[TrialRecord]) -> Figure:
    """Ranking metric of every trial by epoch on a logarithmic scale: the best trials in colour, the others grey."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    drawn = [trial for trial in ranked(trials) if trial.curve]
    percent = ranking_metric(drawn) == "val_cer"
    bounds = (LOWEST, HIGHEST) if percent else (1, math.inf)
    for rank, trial in reversed(list(enumerate(drawn))):
        named = rank < len(COLOURS)
        values = np.clip([objective_value(row) for row in trial.curve], *bounds)
        epochs = [row["epoch"] for row in trial.curve]
        colour, dash = (COLOURS[rank], DASHES[rank % len(DASHES)]) if named else (GREY, "-")
        label = f"trial {trial.number}: {objective_text(trial.best or {})}" if named else None
        axes.plot(epochs, values, dash, color=colour, linewidth=1.8 if named else 0.8, label=label)
        end: dict[str, Any] = {"color": colour if named else DARK_GREY, "markersize": 6 if named else 4}
        axes.plot(epochs[-1:], values[-1:], MARKERS[trial.state], clip_on=False, **end)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g}%" if percent else f"{y:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(ranking_name(drawn) + (" (above 100% at the edge)" if percent else ""))
    _epoch_axis(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], title="the best", loc="outside right upper", fontsize=9)
    states = [state for state in MARKERS if any(trial.state == state for trial in drawn)]
    ends = [axes.plot([], [], MARKERS[state], color=DARK_GREY, label=state)[0] for state in states]
    figure.legend(handles=ends, title="how it ended", loc="outside right lower", fontsize=9)
    return figure


def _epoch_axis(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# Attention


def cross_attention(attention: Attention) -> Figure:
    """Attention from each target token, or text position of an editor, to the seconds of the utterance."""
    weights = attention.states_LHUS.numpy()
    seconds = weights.shape[-1] * attention.seconds_per_state
    figure, lowest = _attention_panels(weights, _row_names(attention), (0, seconds), width=3.4)
    for axes in figure.axes:
        axes.tick_params(labelbottom=axes in lowest)
        axes.set_xlabel("seconds" if axes in lowest else "", fontsize=8)
    figure.suptitle(f"{attention.id}: attention to the speech", fontsize=10, parse_math=False)
    figure.supylabel(_row_title(attention), fontsize=8)
    return figure


def self_attention(attention: Attention) -> Figure:
    """Attention from each target token to the input tokens up to its own; of an editor, to all text positions."""
    weights = attention.tokens_LHUU.numpy()
    if not attention.edits:
        weights = np.where(np.tri(weights.shape[-1], dtype=bool), weights, np.nan)  # later tokens have no weight
    width = max(2.4, min(len(attention.inputs), LABELS) * 0.11)
    figure, lowest = _attention_panels(weights, _row_names(attention), (-0.5, len(attention.inputs) - 0.5), width)
    places, labels = _tick_labels(attention.inputs)
    for axes in figure.axes:
        axes.set_xticks(*((places, labels) if axes in lowest else ([], [])), rotation=90, parse_math=False)
    seen = f"the draft's text positions (slots: {SLOT})" if attention.edits else "earlier tokens"
    figure.suptitle(f"{attention.id}: attention to {seen}", fontsize=10, parse_math=False)
    figure.supylabel(_row_title(attention), fontsize=8)
    return figure


def _row_names(attention: Attention) -> list[str]:
    """Names of the rows of attention: target tokens; of an editor, each position's token, with `old→new` if edited."""
    if not attention.edits:
        return attention.targets
    pairs = zip(attention.inputs, attention.targets, strict=True)
    return [old if old == new else f"{old}→{new}" for old, new in pairs]


def _row_title(attention: Attention) -> str:
    return f"text position: draft→edited (slots: {SLOT})" if attention.edits else "output token"


def _attention_panels(
    weights_LHUK: npt.NDArray[Any], targets: Sequence[str], x: tuple[float, float], width: float
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for the mean of each layer's heads, and one for each head of the last layer.

    Colours show square roots of weights, so that small weights are visible.

    Args:
        x: range of the horizontal axis.
        width: width of a panel in inches.

    Returns:
        The figure, and the lowest panel of each column.
    """
    layers = len(weights_LHUK)
    images = [(f"layer {number}, mean of heads", heads.mean(0)) for number, heads in enumerate(weights_LHUK, start=1)]
    images += [(f"layer {layers}, head {number}", head) for number, head in enumerate(weights_LHUK[-1], start=1)]
    images = images[:MOST_PANELS]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height = 0.3 + max(1.4, min(len(targets), LABELS) * LABEL_HEIGHT)
    figure = Figure(figsize=(0.9 + columns * width, 1.0 + rows * height), layout="constrained")
    places, labels = _tick_labels(targets)
    for number, (title, image) in enumerate(images):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_title(f"{title} (up to {np.nanmax(image):.2f})", fontsize=8)
        axes.set_yticks(*((places, labels) if number % columns == 0 else ([], [])), parse_math=False)
        axes.tick_params(length=2, labelsize=6.5)
        extent = (*x, len(image) - 0.5, -0.5)
        axes.imshow(np.sqrt(image), cmap=SHADES, vmin=0, aspect="auto", interpolation="nearest", extent=extent)
    return figure, figure.axes[-columns:]


def _tick_labels(tokens: Sequence[str]) -> tuple[list[int], list[str]]:
    """Positions and labels for an axis of tokens: all tokens or, if these are too many, the first token of each word.

    Labels that would overlap the previous label are left out.
    """
    room = len(tokens) / LABELS
    places: list[int] = []
    labels: list[str] = []
    for place, text in enumerate(tokens) if room <= 1 else _words(tokens):
        if not places or place - places[-1] >= room:
            label = text.replace(" ", SPACE)
            places.append(place)
            labels.append(label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…")
    return places, labels


def _words(tokens: Sequence[str]) -> list[tuple[int, str]]:
    """Words as (index of the first token, text); a word begins at a special token, or at or after a space.

    An editor's slots are left out.
    """
    words: list[tuple[int, str]] = []
    begins = True
    for place, token in enumerate(tokens):
        if token == SLOT:
            continue
        special = token.startswith("<") and token.endswith(">") and len(token) > 2
        if not token.strip():
            begins = True
            continue
        if begins or special or token.startswith(" "):
            words.append((place, token.strip()))
        else:
            words[-1] = (words[-1][0], words[-1][1] + token)
        begins = special
    return words
