"""Pictures for people: learning curves, and where a decoder looked. Colours are Okabe and Ito's, made for all eyes.

Figures are drawn without a display and without matplotlib's global state, in whichever process asks.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from asr_platform.analysis.leaderboard import ranked
from asr_platform.reporting.transcripts import html_page, text_page
from asr_platform.study.ledger import TrialRecord
from trainables.data.text.transcripts import SPACE
from trainables.evaluation.examples import Attention, Examples
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text, objective_value

PLOTS = "plots"
LEARNING_CURVES, SWEEP_CURVES = "learning_curves.png", "sweep.png"
SELF_ATTENTION, CROSS_ATTENTION = "self_attention.png", "cross_attention.png"
PAGE, TEXT = "examples.html", "examples.txt"

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
DASHES = ["-", "--", "-.", ":"]
GREY = "#b0b0b0"
DOTS_PER_INCH = 110
LABELS = 45  # token labels that an axis has room for
LONGEST_LABEL = 14  # characters
LABEL_HEIGHT = 0.13  # inches
MOST_PANELS = 24
SHADES = colormaps["Blues"].with_extremes(bad="#ece7da")  # pale to dark; beige where there can be nothing
ENDS_COLOUR = "#606060"
ENDS = {"complete": "o", "pruned": "x", "failed": "v", "running": "."}  # how a trial's curve ends
LOWEST, HIGHEST = 1e-4, 1.0  # CERs that the sweep's curves show

# What a trial's panels show: title, a factor, the most that is shown, and the metrics with their names.
PANELS: list[tuple[str, float, float, dict[str, str]]] = [
    ("loss (nats a token)", 1, math.inf, {"train_loss": "training", "val_loss": "validation"}),
    (
        "validation error rates (%; above 100 at the edge)",
        100,
        100,
        {"val_cer": "CER", "val_wer": "WER", "val_ctc_cer": "CER of CTC"},
    ),
    (
        "validation perplexity",
        1,
        math.inf,
        {"val_perplexity": "of a token", "val_character_perplexity": "of a character"},
    ),
    ("learning rate", 1, math.inf, {"learning_rate": "at the epoch's end"}),
]
MOST_DOTS = 40  # epochs that are marked one by one


def draw_trial(trial: TrialRecord, folder: Path) -> None:
    """Everything there is to see of a trial, into a folder: its curves, and what its best checkpoint keeps."""
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
    """The sweep's curves, into a folder; nothing before any trial has finished an epoch."""
    if any(trial.curve for trial in trials):
        folder.mkdir(parents=True, exist_ok=True)
        save(sweep_curves(trials), folder / SWEEP_CURVES)


def save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box says so too
        try:
            figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
        except ValueError as error:  # what cannot be drawn, such as a picture too large, ends no sweep
            logging.getLogger(__name__).warning("%s: not drawn: %s", path, error)


# Learning curves


def trial_curves(trial: TrialRecord) -> Figure:
    """Loss, error rates and learning rate by epoch."""
    panels = [panel for panel in PANELS if any(key in row for row in trial.curve for key in panel[-1])]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    grid: list[Axes] = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for axes, (title, scale, most, names) in zip(grid, panels, strict=True):
        for number, (key, name) in enumerate(names.items()):
            epochs = [row["epoch"] for row in trial.curve if key in row]
            values = [min(most, scale * row[key]) for row in trial.curve if key in row]
            style: dict[str, Any] = {"color": COLOURS[number], "linestyle": DASHES[number], "clip_on": False}
            axes.plot(epochs, values, marker="o" if len(epochs) <= MOST_DOTS else "", markersize=3, label=name, **style)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        _epochs(axes)
        if len(names) > 1:
            axes.legend(fontsize=8, frameon=False)
    if trial.best:
        best = f"{OBJECTIVES[objective(trial.best)]} {objective_text(trial.best)} at epoch {trial.best['epoch']}"
        figure.suptitle(f"trial {trial.number}: {best}", fontsize=11)
    return figure


def sweep_curves(trials: Sequence[TrialRecord]) -> Figure:
    """What every trial is ranked by, by epoch: the best ones in colour, the others grey.

    The scale is logarithmic. A CER above 100% is drawn at the upper edge, so that it does not hide the rest.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    drawn = [trial for trial in ranked(list(trials)) if trial.curve]
    key = objective(drawn[0].curve[0])
    percent = key == "val_cer"
    bounds = (LOWEST, HIGHEST) if percent else (1, math.inf)
    for rank, trial in reversed(list(enumerate(drawn))):
        named = rank < len(COLOURS)
        values = np.clip([objective_value(row) for row in trial.curve], *bounds)
        epochs = [row["epoch"] for row in trial.curve]
        assert trial.best is not None
        axes.plot(
            epochs,
            values,
            color=COLOURS[rank] if named else GREY,
            linestyle=DASHES[rank % len(DASHES)] if named else "-",
            linewidth=1.8 if named else 0.8,
            label=f"trial {trial.number}: {objective_text(trial.best)}" if named else None,
        )
        axes.plot(
            epochs[-1:],
            values[-1:],
            ENDS[trial.state],
            color=COLOURS[rank] if named else ENDS_COLOUR,
            markersize=6 if named else 4,
            clip_on=False,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent if percent else _number))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(OBJECTIVES[key] + (" (above 100% at the edge)" if percent else ""))
    _epochs(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], title="the best", loc="outside right upper", fontsize=9)
    states = {trial.state for trial in drawn}
    ends = [
        axes.plot([], [], marker, color=ENDS_COLOUR, label=state)[0]
        for state, marker in ENDS.items()
        if state in states
    ]
    figure.legend(handles=ends, title="how it ended", loc="outside right lower", fontsize=9)
    return figure


def _percent(value: float, place: int) -> str:
    return f"{100 * value:.3g}%"


def _number(value: float, place: int) -> str:
    return f"{value:.3g}"


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


# Attention


def cross_attention(attention: Attention) -> Figure:
    """To which seconds of the utterance each token's attention goes."""
    weights = attention.states_LHUS.numpy()
    figure, grid = _panels(weights, attention.targets, width=3.4)
    for axes, image, bottom in grid:
        _show(axes, image, (0, image.shape[1] * attention.seconds_per_state))
        axes.tick_params(labelbottom=bottom)
        axes.set_xlabel("seconds" if bottom else "", fontsize=8)
    figure.suptitle(f"{attention.id}: from the token to say to the speech", fontsize=10, parse_math=False)
    return figure


def self_attention(attention: Attention) -> Figure:
    """To which earlier tokens each token's attention goes."""
    weights = attention.tokens_LHUU.numpy()
    weights = np.where(np.tri(weights.shape[-1], dtype=bool), weights, np.nan)  # what is not yet said has no weight
    figure, grid = _panels(weights, attention.targets, width=max(2.4, min(len(attention.inputs), LABELS) * 0.11))
    places, labels = _labels(attention.inputs)
    for axes, image, bottom in grid:
        _show(axes, image, (-0.5, image.shape[1] - 0.5))
        axes.set_xticks(*((places, labels) if bottom else ([], [])), rotation=90, parse_math=False)
    figure.suptitle(f"{attention.id}: from the token to say to those already said", fontsize=10, parse_math=False)
    return figure


def _panels(
    weights_LHUK: npt.NDArray[Any], targets: Sequence[str], width: float
) -> tuple[Figure, list[tuple[Axes, npt.NDArray[Any], bool]]]:
    """A figure with a panel for the mean of each layer's heads, and one for each head of the last layer.

    Returns each panel's axes, which have a title and the targets along the left, its weights (U, K), and whether it is
    the lowest of its column.
    """
    layers = len(weights_LHUK)
    images = [(f"layer {number}, mean of heads", heads.mean(0)) for number, heads in enumerate(weights_LHUK, start=1)]
    images += [(f"layer {layers}, head {number}", head) for number, head in enumerate(weights_LHUK[-1], start=1)]
    images = images[:MOST_PANELS]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height = 0.3 + max(1.4, min(len(targets), LABELS) * LABEL_HEIGHT)
    figure = Figure(figsize=(0.9 + columns * width, 1.0 + rows * height), layout="constrained")
    places, labels = _labels(targets)
    panels = []
    for number, (title, image) in enumerate(images):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_title(f"{title} (up to {np.nanmax(image):.2f})", fontsize=8)
        axes.set_yticks(*((places, labels) if number % columns == 0 else ([], [])), parse_math=False)
        axes.tick_params(length=2, labelsize=6.5)
        panels.append((axes, image, number + columns >= len(images)))
    return figure, panels


def _show(axes: Axes, image_UK: npt.NDArray[Any], x: tuple[float, float]) -> None:
    """One map, shaded by the weights' square roots: small ones count as well."""
    extent = (*x, len(image_UK) - 0.5, -0.5)
    shading = PowerNorm(0.5, vmin=0)
    axes.imshow(image_UK, cmap=SHADES, norm=shading, aspect="auto", interpolation="nearest", extent=extent)


def _labels(tokens: Sequence[str]) -> tuple[list[int], list[str]]:
    """Where an axis has labels, and which: every token; where they are too many, words at their first tokens.

    Of words too close to each other the first has its label.
    """
    room = len(tokens) / LABELS
    places: list[int] = []
    labels: list[str] = []
    for place, label in enumerate(tokens) if room <= 1 else _words(tokens):
        if not places or place - places[-1] >= room:
            places.append(place)
            labels.append(_short(label.replace(" ", SPACE)))
    return places, labels


def _words(tokens: Sequence[str]) -> list[tuple[int, str]]:
    """Words with the number of their first token: a word begins at a special token or at one with a space."""
    words: list[tuple[int, str]] = []
    fresh = True
    for place, token in enumerate(tokens):
        special = token.startswith("<") and token.endswith(">") and len(token) > 2
        if token.strip() == "" and not special:
            fresh = True
            continue
        if fresh or special or token.startswith(" ") or not words:
            words.append((place, token.strip()))
        else:
            words[-1] = (words[-1][0], words[-1][1] + token)
        fresh = special
    return words


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
