"""Pictures and pages are made of whatever a trial may have kept, and tell it right."""

from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import records
import seen
from matplotlib.figure import Figure
from matplotlib.image import imread

from asr_platform.reporting import plots
from asr_platform.reporting.plots import (
    cross_attention,
    draw_sweep,
    draw_trial,
    self_attention,
    sweep_curves,
    trial_curves,
)
from asr_platform.reporting.transcripts import WIDTH, aligned_lines, aligned_words, html_page, text_page
from asr_platform.study.ledger import TrialRecord, TrialStatus

PICTURES = {plots.LEARNING_CURVES, plots.CROSS_ATTENTION, plots.SELF_ATTENTION}


def kept_in(folder: Path, state: TrialStatus = "complete") -> TrialRecord:
    """A trial of three epochs whose best checkpoint, the second, has examples."""
    trial = records.trial(3, state, [3.5, 0.25, 0.3])
    trial.curve[1]["checkpoint"] = seen.checkpoint(folder)
    return trial


def tick_labels(figure: Figure, axis: str) -> list[list[str]]:
    """What stands along each panel's axis."""
    return [[label.get_text() for label in getattr(axes, f"get_{axis}ticklabels")()] for axes in figure.axes]


# Files


def test_a_trial_is_drawn_from_its_best_checkpoint(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would land in the middle of the live table
        draw_trial(kept_in(tmp_path / "checkpoint"), tmp_path / "plots")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {*PICTURES, plots.PAGE, plots.TEXT}
    for name in PICTURES:
        picture = imread(tmp_path / "plots" / name)
        assert picture.shape[0] > 100 and picture.shape[1] > 100
        assert picture[..., :3].std() > 0.01, f"{name} is empty"


@pytest.mark.parametrize("checkpoint", [None, "/gone", "s3://bucket/1"])
def test_without_examples_there_are_only_curves(checkpoint: str | None, tmp_path: Path) -> None:
    """A checkpoint from before they were kept, one that was removed, and one on remote storage."""
    trial = records.trial(0, "pruned", [0.5])
    trial.curve[0]["checkpoint"] = checkpoint
    draw_trial(trial, tmp_path / "plots")
    assert [path.name for path in (tmp_path / "plots").iterdir()] == [plots.LEARNING_CURVES]


def test_a_trial_without_an_epoch_has_nothing_to_see(tmp_path: Path) -> None:
    failed = records.trial(0, "failed", reason="no")
    draw_trial(failed, tmp_path / "trial")
    draw_sweep([failed], tmp_path / "sweep")
    assert list((tmp_path / "trial").iterdir()) == []
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("count", [1, 3, 150])
def test_few_and_many_trials_are_drawn(count: int, tmp_path: Path) -> None:
    states: list[TrialStatus] = ["complete", "pruned", "failed", "running"]
    trials = [records.trial(n, states[n % 4], [4.0, 0.5 + n / 1000, 0.0 if n == 1 else 0.1]) for n in range(count)]
    draw_sweep([*trials, records.trial(count, "running")], tmp_path)
    assert imread(tmp_path / plots.SWEEP_CURVES).shape[0] > 300


# Curves


def test_a_trials_curves_are_its_metrics() -> None:
    trial = records.trial(3, "complete", [1.5, 0.25, 0.5])
    for row in trial.curve:
        row["learning_rate"] = 0.001 * row["epoch"]
    figure = trial_curves(trial)
    found = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    assert list(found["CER"].get_xdata()) == [1, 2, 3]
    assert list(found["CER"].get_ydata()) == [100, 25, 50], "in percent, above 100 at the edge"
    assert list(found["WER"].get_ydata()) == [100, 50, 100]
    assert list(found["training"].get_ydata()) == [1.5] * 3
    assert list(found["at the epoch's end"].get_ydata()) == [0.001, 0.002, 0.003]
    assert figure.get_suptitle() == "trial 3: val CER 25.00% at epoch 2"


def test_metrics_that_old_runs_lack_are_left_out() -> None:
    figure = trial_curves(records.trial(0, "complete", [0.5]))
    assert [axes.get_title() for axes in figure.axes] == [plots.PANELS[0][0], plots.PANELS[1][0]]


def test_the_best_trials_stand_out_and_high_rates_do_not_hide_them() -> None:
    trials = [records.trial(n, "pruned" if n % 2 else "complete", [5.0, 0.5 + n / 100]) for n in range(20)]
    figure = sweep_curves(trials)
    best = figure.legends[0]
    named = [text.get_text() for text in best.get_texts()]
    assert named[:2] == ["trial 0: 50.00%", "trial 1: 51.00%"] and len(named) == len(plots.COLOURS)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert len(curves) == 20
    assert {line.get_ydata()[0] for line in curves} == {1.0}
    assert len({line.get_color() for line in curves}) == len(plots.COLOURS) + 1
    assert axes.get_ylim()[1] < 1.2
    assert {text.get_text() for text in figure.legends[1].get_texts()} == {"complete", "pruned"}


def test_language_models_are_drawn_by_perplexity(tmp_path: Path) -> None:
    trials = []
    for number in range(3):
        trial = records.trial(number, "complete", [0.0, 0.0])
        for row in trial.curve:
            for key in ("val_cer", "val_wer", "val_ctc_cer"):
                del row[key]
            row |= {"val_perplexity": 50.0, "val_character_perplexity": 5.0 - row["epoch"] + number / 10}
        trials.append(trial)
    figure = sweep_curves(trials)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "val perplexity"
    assert {tuple(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 2} == {
        (4.0, 3.0), (4.1, 3.1), (4.2, 3.2),
    }  # fmt: skip
    assert figure.legends[0].get_texts()[0].get_text() == "trial 0: 3.000"
    figure = trial_curves(trials[0])
    assert figure.get_suptitle() == "trial 0: val perplexity 3.000 at epoch 2"
    assert [axes.get_title() for axes in figure.axes] == ["loss (nats a token)", "validation perplexity"]


# Attention


def test_axes_have_tokens_and_seconds() -> None:
    attention = seen.attention(["H", "I", " ", "$"], states=50)
    figure = cross_attention(attention)
    figure.draw_without_rendering()
    assert [axes.get_title().partition(" (")[0] for axes in figure.axes] == [
        "layer 1, mean of heads", "layer 2, mean of heads", "layer 2, head 1", "layer 2, head 2",
    ]  # fmt: skip
    assert tick_labels(figure, "y")[0] == ["H", "I", "▁", "$", "<eos>"]
    assert figure.axes[0].get_xlim() == (0, pytest.approx(50 * 0.04))
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "seconds", "seconds"]
    figure = self_attention(attention)
    assert tick_labels(figure, "y")[0] == ["H", "I", "▁", "$", "<eos>"]
    assert tick_labels(figure, "x")[2] == ["<sos>", "H", "I", "▁", "$"]


def test_an_editors_rows_are_text_positions_with_what_it_changes() -> None:
    """It sees later positions too, and those of an utterance too long for all labels are its words."""
    positions = [("·", "·"), ("H", "H"), ("·", "I"), ("E", "·"), ("·", "·"), (" ", " "), ("·", "·"), ("A", "$")]
    attention = seen.editor_attention(positions, audio=9)
    for figure in (cross_attention(attention), self_attention(attention)):
        figure.draw_without_rendering()
        assert tick_labels(figure, "y")[0] == ["·", "H", "·→I", "E→·", "·", "▁", "·", "A→$"]
        assert figure.get_supylabel() == "text position: draft→edited (slots: ·)"
    assert tick_labels(figure, "x")[2] == ["·", "H", "·", "E", "·", "▁", "·", "A"]
    assert not any(np.ma.getmaskarray(axes.images[0].get_array()).any() for axes in figure.axes)
    assert "text positions" in figure.get_suptitle()
    words = [pair for letter in "QUILTER IS " * 12 for pair in (("·", "·"), (letter, letter))]
    labels = tick_labels(cross_attention(seen.editor_attention(words, audio=9)), "y")[0]
    assert set(labels) == {"QUILTER", "IS"}


@pytest.mark.parametrize("kind", ["char", "bpe", "one long word"])
def test_long_utterances_have_as_many_labels_as_there_is_room(kind: str) -> None:
    words = ["MISTER", "QUILTER", "IS", "A", "MAN"] * 30
    tokens = {
        "char": list(" ".join(words)),
        "bpe": [piece for word in words for piece in (f" {word[:3]}", word[3:]) if piece],
        "one long word": ["A"] * 300,
    }[kind]
    figure = cross_attention(seen.attention(tokens, states=400))
    labels = tick_labels(figure, "y")[0]
    places = list(figure.axes[0].get_yticks())
    assert 1 <= len(labels) <= plots.LABELS
    assert all(b - a >= len(tokens) / plots.LABELS for a, b in pairwise(places))
    if kind != "one long word":
        assert set(labels) <= {*words, "<eos>"} and len(labels) > 10
        assert labels[0] == "MISTER"
        for place, label in zip(places, labels, strict=True):
            assert label == "<eos>" or "".join(tokens[int(place) :]).strip().startswith(label)


def test_a_large_model_is_drawn_within_bounds(tmp_path: Path) -> None:
    attention = seen.attention(["A", " "] * 20, states=100, layers=12, heads=16)
    figure = self_attention(attention)
    assert len(figure.axes) == plots.MOST_PANELS
    assert max(figure.get_size_inches()) < 40


# The page


class Reader(HTMLParser):
    """Collects the text inside each kind of tag."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag = self.open[-1] if self.open else ""
        self.texts[tag] = self.texts.get(tag, "") + data


def read(page: str) -> dict[str, str]:
    reader = Reader()
    reader.feed(page)
    assert reader.open == [], "every tag is closed"
    return reader.texts


def test_every_error_is_marked_once() -> None:
    examples = seen.examples()
    for item in examples.transcripts:
        section = read(html_page(seen.examples([(item.reference, item.hypothesis)])))
        legend = {"b": len("substituted"), "ins": len("inserted"), "del": len("deleted")}
        marks = {tag: len(section[tag]) - length for tag, length in legend.items()}
        assert marks["b"] % 2 == 0, "a substitution is marked on both lines"
        assert marks["b"] // 2 + marks["ins"] + marks["del"] == item.errors
    letters = "".join(re.findall(r"^ {7}([SID ]+)$", text_page(examples), re.MULTILINE)).replace(" ", "")
    assert len(letters) == sum(item.errors for item in examples.transcripts)


def test_the_edits_of_a_draft_are_marked_below_it() -> None:
    pairs = [("A CAT SAT", "A CAT SAX"), ("ONE", "ONE"), ("ONE", "TWO")]
    examples = seen.examples(pairs, drafts=["A BAT SATS", "ONE", ""])
    page, text = read(html_page(examples)), text_page(examples)
    marks = {tag: len(page[tag]) - len(name) for tag, name in {"ins": "inserted", "del": "deleted"}.items()}
    assert marks == {"ins": 3, "del": 1}, "an empty draft has insertions alone"
    assert page["small"].count("; in the draft, 2 errors") == page["small"].count("; in the draft, 3 errors") == 1
    assert page["small"].count("as drafted") == 1 and page["p"].count("edits of the draft") == 2
    assert "  OLD: A BAT SATS\n  NEW: A CAT SAX*\n         S     SD\n" in text
    assert text.count("OLD:") == 2 and text.count("REF:") == 3
    assert examples.columns()["draft"] == ["A BAT SATS", "ONE", ""]


def test_models_without_drafts_have_no_word_about_them() -> None:
    examples = seen.examples()
    assert "draft" not in text_page(examples) and "of the draft" not in html_page(examples)
    assert "draft" not in examples.columns()


def test_markup_in_transcripts_is_text() -> None:
    page = html_page(seen.examples())
    assert "<script" not in page and "<i>BOLD" not in page
    own = "html|head|meta|title|style|body|h1|h2|p|b|ins|del|i|pre|span|section|small|table|tr|th|td"
    assert all(re.fullmatch(own, tag) for tag in re.findall(r"<([a-z0-9]+)", page))
    assert "http" not in page, "nothing is fetched"
    assert "001<i>" in read(page)["h2"]


def test_lines_are_aligned_and_no_longer_than_they_may_be() -> None:
    for reference, hypothesis in seen.PAIRS:
        words = aligned_words(reference, hypothesis)
        for side, text in (("reference", reference), ("hypothesis", hypothesis)):
            assert "".join(getattr(pair, side) for word in words for pair in word) == text.strip()
        assert all(word[-1] == (" ", " ") for word in words[:-1]), "where a browser may break the line"
        assert all(len(line) <= WIDTH + 2 for line in aligned_lines(reference, hypothesis))


def test_the_text_page_reads_well() -> None:
    page = text_page(seen.examples([("THE CAT SAT", "THE BAT HAS SAT"), ("A", "A")]))
    assert page.splitlines()[-8:] == [
        "000<i>   1.5 s, 5 errors, CER 45.5%",
        "  REF: THE CAT**** SAT",
        "  HYP: THE BAT HAS SAT",
        "           S  IIII",
        "",
        "001<i>   1.5 s, 0 errors, CER 0.0%",
        "  REF: A",
        "  HYP: A",
    ]


def test_a_faultless_validation_has_a_page_too() -> None:
    page = html_page(seen.examples([("A", "A")]))
    assert "none" in read(page)["p"]
