"""A report says what the ledger knows, and all of it; what is missing it says as well; and nothing in it is code."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import records
import reported
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_platform.analysis.error_breakdown import edits
from asr_platform.analysis.kept_scores import Score, keep_scores
from asr_platform.analysis.leaderboard import ranked
from asr_platform.cli.main import cli
from asr_platform.reporting.report import SECTIONS, report_page, write_report
from asr_platform.reporting.report_data import ReportData
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger, TrialStatus
from trainables.config.tree import Config
from trainables.errors import InputError
from trainables.inference.model_files import ERRORS

IDS = [section.id for section in SECTIONS]
LOADING = {"src", "srcset", "poster", "data", "background", "action", "formaction"}  # attributes that load, or send
OPEN_ENDED = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """What a browser makes of a page.

    Attributes:
        texts: text of each section, with single spaces; before the first one, under an empty name.
        rows: the cells of each section's tables.
        figures: the sections that have one, in order.
        tags: how many there are of each kind.
        loaded: addresses that a browser would ask for.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.section, self.path = "", list[str]()
        self.texts: dict[str, str] = {"": ""}
        self.rows: dict[str, list[list[str]]] = {}
        self.figures: list[str] = []
        self.tags: dict[str, int] = {}
        self.loaded: list[str] = []
        self.feed(text)
        self.texts = {section: " ".join(text.split()) for section, text in self.texts.items()}
        assert self.path == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.loaded += [value or "" for name, value in attrs if name in LOADING or (tag == "link" and name == "href")]
        assert not any(name.startswith("on") for name in given), "no code in attributes"
        if tag == "section":
            self.section = str(given["id"])
            self.texts[self.section], self.rows[self.section] = "", []
        if tag == "tr":
            self.rows[self.section].append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")
        if "plotly-graph-div" in (given.get("class") or ""):
            self.figures.append(self.section)
        if tag not in OPEN_ENDED:
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.path:
            self.loaded += re.findall(r"url\(([^)]*)\)|(@import)", data)
        elif "script" not in self.path:
            self.texts[self.section] += data
            if {"td", "th"} & set(self.path):
                self.rows[self.section][-1][-1] += data


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return reported.furnish(tmp_path_factory.mktemp("reported"))


def gather(home: Home, name: str) -> ReportData:
    return ReportData.gather(home, Ledger.open(home.studies, name))


@pytest.fixture(scope="module")
def pages(home: Home) -> dict[str, Page]:
    names = ("whole", "empty", "failed", "alone", "language", "capped")
    return {name: Page(report_page(gather(home, name))) for name in names}


@pytest.fixture(scope="module")
def whole(home: Home) -> ReportData:
    return gather(home, "whole")


def leaderboard(home: Home, name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(
        CliRunner().invoke(cli, ["--home", str(home.path), "leaderboard", name, "--json"]).stdout
    )
    return found


# What every page is


@pytest.mark.parametrize("name", ["whole", "empty", "failed", "alone", "language", "capped"])
def test_every_sweep_has_every_section_and_its_page_loads_nothing(name: str, pages: dict[str, Page]) -> None:
    page = pages[name]
    assert [section for section in page.texts if section] == IDS
    assert all(page.texts[section].strip() for section in IDS)
    assert all(address.startswith("data:") for address in page.loaded), page.loaded
    assert page.tags["script"] == 2 + len(page.figures), "Plotly, once; the page's own; one a figure"
    assert "iframe" not in page.tags and "object" not in page.tags


def test_what_a_sweep_brings_along_is_text(pages: dict[str, Page]) -> None:
    """In the space's text, its name, a value, a reason and a transcript."""
    page = pages["whole"]
    assert page.tags.get("img", 0) == 2, "attention, twice"
    assert reported.MARKUP in page.texts["leaderboard"], "a reason"
    assert f"# {reported.MARKUP}" in page.texts["reproduce"], "the space"
    assert "made <up>.yaml" in page.texts["searched"]
    assert f"None, {Path('/') / reported.MARKUP}" in page.texts["searched"], "a value"
    assert "<b>SEVEN</b> 2×" in page.texts["words"]


def test_its_leaderboard_is_the_leaderboard(home: Home, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        head, *cells = page.rows["leaderboard"] or [[]]
        expected = leaderboard(home, name)
        for row, told in zip(cells, expected, strict=False):
            shown = dict(zip(head, row, strict=True))
            value = told.get("val_cer") if "val_cer" in told else told.get("val_character_perplexity")
            text = "" if value is None else f"{value:.2%}" if "val_cer" in told else f"{value:.3f}"
            assert shown["val perplexity" if name == "language" else "val CER"] == text
            assert shown["parameters"] == f"{told['parameters']:,}"
            assert (shown["trial"], shown["epochs"]) == (str(told["trial"]), str(told["epochs"]))
            assert shown["state"] == told["state"]
            assert ("=" in shown["rank"]) == bool(told["tied"])
            assert ("*" in shown["rank"]) == bool(told.get("pareto"))
            interval = told["val_cer_interval"]
            assert shown["95% interval"] == (f"{100 * interval[0]:.2f}–{interval[1]:.2%}" if interval else "")
        assert len(cells) >= len(expected)


outcomes = st.tuples(
    st.sampled_from(["complete", "pruned", "failed", "running"]),
    st.lists(st.floats(0, 9), max_size=9),
    st.sampled_from([1e-4, 3e-3, 1e-2]),
    st.none() | st.floats(0, 2),
)


@given(st.lists(outcomes, max_size=12))
@settings(max_examples=10)
def test_every_trial_is_there_once(
    whole: ReportData, drawn: list[tuple[TrialStatus, list[float], float, float | None]]
) -> None:
    """Whatever became of it, and with however little on record."""
    trials = []
    for number, (state, cers, rate, factor) in enumerate(drawn):
        trial = records.trial(number, state, cers, {"optimizer.lr": rate}, reason="so it was")
        for row in trial.curve if factor is not None else ():
            row["real_time_factor"] = factor
        trials.append(trial)
    found = replace(whole, trials=ranked(trials), intervals={}, errors=None, attention=[])
    page = Page(report_page(found))
    assert [section for section in page.texts if section] == IDS
    assert all(address.startswith("data:") for address in page.loaded)
    cells = page.rows["leaderboard"][1 : 1 + len(trials)]
    assert sorted(int(row[1]) for row in cells) == list(range(len(trials)))


# What it concludes


def test_it_says_who_won_and_whether_that_is_certain(whole: ReportData, pages: dict[str, Page]) -> None:
    text = pages["whole"].texts[""]
    assert "The best is trial 0: val CER 2.00% (95% interval " in text
    assert [trial.number for trial in whole.tied] == [2], "it has one error more"
    assert "It is not significantly different from trial 2" in text and "platform confirm whole" in text
    alone = {number: each for number, each in whole.intervals.items() if number != 2}
    alone[0] = alone[0]._replace(tied=False)
    certain = Page(report_page(replace(whole, intervals=alone))).texts[""]
    assert "significantly better than every other trial whose errors are on record (10 of 11)" in certain
    unknown = Page(report_page(replace(whole, intervals={}))).texts[""]
    assert "The errors of its utterances are not on record" in unknown
    assert "nothing to compare it with" in pages["alone"].texts[""]


def test_a_score_on_a_test_split_is_told(whole: ReportData, tmp_path: Path) -> None:
    """Scores on other corpora, and on splits that the model was chosen by, are not told."""
    own = Score(whole.about["corpus_hash"], "test", 9, 0.125, (0.1, 0.15), 0.25, (0.2, 0.3), "method=greedy")
    for score in (own, replace(own, split="dev", cer=0.111), replace(own, corpus_hash="another", cer=0.222)):
        keep_scores(tmp_path, [score])
    text = Page(report_page(replace(whole, model=str(tmp_path)))).texts[""]
    assert f"Its model has {own}." in text
    assert "11.10%" not in text and "22.20%" not in text


def test_errors_in_noise_are_told_where_they_were_measured(whole: ReportData, tmp_path: Path) -> None:
    assert "platform evaluate --robustness scores the best model so" in Page(report_page(whole)).texts["conditions"]
    clean = Score(whole.about["corpus_hash"], "dev", 9, 0.125, (0.1, 0.15), 0.25, (0.2, 0.3), "method=greedy", "clean")
    noisy = replace(clean, condition="white 0 dB", cer=0.75, cer_interval=(0.7, 0.8))
    keep_scores(tmp_path, [clean, noisy, replace(noisy, corpus_hash="another", cer=0.99)])
    page = Page(report_page(replace(whole, model=str(tmp_path))))
    told = "The audio as it is has 12.50%; the worst, white 0 dB, 75.00%."
    assert (
        told in page.texts["conditions"]
        and "of dev whose audio was changed (method=greedy)" in page.texts["conditions"]
    )


def test_it_says_how_far_the_sweep_has_come(home: Home, pages: dict[str, Page]) -> None:
    assert "The sweep is finished: 2 trials." in pages["language"].texts[""]
    capped = pages["capped"].texts[""]
    assert "The sweep is not finished: 1 of 13 trials has ended" in capped
    assert "It stopped because 2 of 2 hours (--max-hours) are spent." in capped
    assert "platform sweep --resume capped" in capped
    with home.lock("capped"):
        running = Page(report_page(gather(home, "capped"))).texts[""]
    assert "The sweep is running: 1 of 13 trials has ended" in running and "--resume" not in running


def test_without_a_finished_epoch_there_is_nothing_to_draw(pages: dict[str, Page]) -> None:
    for name in ("empty", "failed"):
        page = pages[name]
        assert page.figures == []
        assert "No trial has finished an epoch, so there is no model." in page.texts[""]
        assert "There is no model yet." in page.texts["attention"]
    assert "No trial has been begun." in pages["empty"].texts["leaderboard"]
    assert f"worse: {reported.MARKUP}" in pages["failed"].texts["leaderboard"]


def test_a_sweep_of_one_trial_compares_nothing(pages: dict[str, Page]) -> None:
    page = pages["alone"]
    assert page.figures == ["curves", "losses", "history", "size", "speed"]
    assert "Nothing varies in this space" in page.texts["searched"]
    assert "There is nothing to compare" in page.texts["parallel"]


def test_a_language_model_has_a_perplexity_and_no_errors(pages: dict[str, Page]) -> None:
    page = pages["language"]
    assert "The best is trial 0: val perplexity 4.250, " in page.texts[""]
    assert "transcribes nothing" in page.texts["lengths"] and "transcribes nothing" in page.texts["words"]
    assert "no real-time factor" in page.texts["speed"]
    assert page.figures == ["curves", "losses", "history", "parallel", "size"]
    assert "CER" not in "".join(page.texts.values())


def test_the_worst_transcripts_come_first_with_every_error_marked(pages: dict[str, Page]) -> None:
    found = pages["whole"].texts["transcripts"]
    assert "006: 13 errors in 33 characters" in found and "005" not in found, "two of them have errors"
    errors = reported.errors_of(2, 5)
    counts = edits(errors)
    assert f"{errors.cer:.2%} is {counts}, in {sum(errors.characters):,} characters of 120 utterances" in found
    assert pages["whole"].tags["del"] > 1 and pages["whole"].tags["ins"] > 1
    assert "No errors of the best model are on record." in pages["alone"].texts["transcripts"]


def test_what_is_gone_is_said_to_be_gone(pages: dict[str, Page]) -> None:
    page = pages["capped"]
    assert "Its sizes are not known" in page.texts["searched"] and "no corpus here" in page.texts["searched"]
    assert "No errors of the best model are on record." in page.texts["words"]
    assert "The best model is gone" in page.texts["attention"]
    assert "platform evaluate" not in page.texts["reproduce"]


def test_a_corpus_of_the_same_place_may_be_another(home: Home) -> None:
    found = gather(home, "whole")
    ledger = reported.sweep(
        home, "other-corpus", reported.ALONE, [], corpus=found.about["corpus"], corpus_hash="0" * 64
    )
    assert "another corpus by now" in Page(report_page(gather(home, ledger.study.study_name))).texts["searched"]


def test_what_was_searched_is_all_there(pages: dict[str, Page]) -> None:
    rows = {row[0]: row[1:] for row in pages["whole"].rows["searched"] if row}
    assert rows["model.encoder_layers"][0] == "1 to 4"
    default = f"{Config().optimizer.lr:.3g}"
    assert rows["optimizer.lr"] == ["0.0001 to 0.01, on a logarithmic scale", default, "0.002"]
    assert rows["tokenizer.vocab_size"][:2] == ["24, 32; where tokenizer.kind is bpe", "not used"]
    assert rows["dev"] == ["10", "0.00", "65"]
    assert rows["rungs"] == ["2 and 2.5 (epochs); at each, the best 1/3 continue"]
    assert rows["sampler"] == ["tpe, seed 0"]
    assert rows["minimised"] == ["val CER and real-time factor"]


def test_it_says_what_the_best_model_gets_wrong(whole: ReportData, pages: dict[str, Page]) -> None:
    page = pages["whole"]
    assert "overlap, so length need not matter" in page.texts["lengths"]
    many = replace(whole, errors=reported.errors_of(60, 5))
    assert "do not overlap, so length seems to matter" in Page(report_page(many)).texts["lengths"]
    assert ["SEVEN", "17", "2", "11.8%", "<b>SEVEN</b> 2×"] in page.rows["words"]
    assert "WER 0.84%" in page.texts["words"] and "2 substitutions, 2 deletions and 0 insertions" in page.texts["words"]


def test_it_says_how_to_get_the_same_again(home: Home, pages: dict[str, Page]) -> None:
    text = pages["whole"].texts["reproduce"]
    assert "platform sweep 'made <up>.yaml' --data " in text and "--trials 13 --epochs 5" in text
    assert "platform train --from whole:0 --data " in text
    assert "0123abc" in text and "9.8.7" in text and "not on record" not in text
    assert "encoder_layers" in text.split("The whole configuration of trial 0")[1]
    assert "are not on record; this page was written with" in pages["alone"].texts["reproduce"]


# Which model it is about


def test_the_attention_is_that_of_the_best_model(home: Home) -> None:
    """That beside the model, where it is the best trial's, else drawn from what its checkpoint keeps."""
    drawn = gather(home, "whole")
    assert len(drawn.attention) == 2 and drawn.model == drawn.trials[0].model
    model = home.model("whole")
    (model / "plots").mkdir(parents=True)
    (model / "plots" / "cross_attention.png").write_bytes(b"a picture")
    assert drawn.errors is not None
    replace(drawn.errors, epoch=3).save(model / ERRORS)
    assert gather(home, "whole").attention == drawn.attention, "the model is an earlier epoch's"
    drawn.errors.save(model / ERRORS)
    found = gather(home, "whole")
    assert found.attention == [(b"a picture", drawn.attention[0][1])] and found.model == str(model)


# The command


def invoke(home: Home, *words: str) -> str:
    ended = CliRunner().invoke(cli, ["--home", str(home.path), "report", *words], catch_exceptions=False)
    assert ended.exit_code == 0
    return ended.stdout


def test_the_page_is_written_here_or_where_it_is_asked_for(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(home, "alone") == "alone.html: open it in a browser\n"
    invoke(home, "alone", "--out", "other.html")
    assert "Sweep alone" in Path("alone.html").read_text()[:200]
    assert {path.name for path in tmp_path.iterdir()} == {"alone.html", "other.html"}
    assert f"platform --home {home.path} sweep" in Path("other.html").read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [("absent", "no sweep named absent"), ("alone --out absent/page.html", "absent/page.html: cannot be written")],
)
def test_what_cannot_be_written_leaves_nothing(
    words: str, problem: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=problem):
        invoke(home, *words.split())
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_fails_leaves_the_one_before(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = write_report(home, Ledger.open(home.studies, "alone"), None)
    before = page.read_text()
    monkeypatch.setattr("asr_platform.reporting.report.report_page", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(home, Ledger.open(home.studies, "alone"), None)
    assert os.listdir(tmp_path) == ["alone.html"] and page.read_text() == before
