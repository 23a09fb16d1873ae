"""Two models are compared on the same utterances or not at all, and told apart only where the utterances can."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import babbler
import pytest
import records
from click.testing import CliRunner
from rich.console import Console

from asr_platform.analysis.comparison import SHOWN, Comparison, Measure
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.cli.main import cli
from asr_platform.cli.tables.comparison import print_comparison
from asr_platform.inference.compare import compare
from asr_platform.inference.evaluate import evaluate_model
from asr_platform.storage.home import Home
from trainables.data.corpus import Corpus
from trainables.data.text.normalization import TextRule
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_files import ERRORS
from trainables.inference.recognizer import Recognizer

SAID = ["A BAD CAB", "BEAD", "A FACE", "CAFE"] * 30
WORSE = ["A BAD CAB", "BED", "A FACE", "CAFFEE"] * 30


def heard(hypotheses: list[str], ids: str = "u", epoch: int | None = 1) -> UtteranceErrors:
    names = [f"{ids}{number:03}" for number in range(len(hypotheses))]
    return UtteranceErrors.of("dev", epoch, names, SAID[: len(hypotheses)], hypotheses)


def comparison(a: list[str], b: list[str]) -> Comparison:
    one, other = heard(a), heard(b)
    return Comparison(("one", "other"), one, other, Measure.of(one, other, False), Measure.of(one, other, True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a sweep, `good` and `bad` model directories, and one whose model says something to a corpus."""
    place = tmp_path_factory.mktemp("place")
    for name, hypotheses in {"good": SAID, "bad": WORSE, "short": SAID[:5]}.items():
        (place / name).mkdir()
        heard(hypotheses).save(place / name / ERRORS)
    babbler.save_model(babbler.write_corpus(place / "corpus"), place / "babbler")
    home = Home.at(place / "mlruns")
    ledger = records.ledger_in(home.path)
    store = RecordedErrors(home.sweep("small"))
    for hypotheses in (WORSE, SAID, None):
        if hypotheses is not None:
            (place / "checkpoint").mkdir(exist_ok=True)
            heard(hypotheses).save(place / "checkpoint" / ERRORS)
        trial = records.add(ledger, "complete", [0.5 if hypotheses is WORSE else 0.1 if hypotheses else 0.9])
        record = ledger.trial(trial)
        if hypotheses is not None and record.best:
            record.best["checkpoint"] = str(place / "checkpoint")
            store.on_epoch_end(record)
    return place


@pytest.mark.parametrize(("a", "b"), [("good", "bad"), ("small:1", "bad"), ("good", "small:0"), ("small", "small:0")])
def test_models_and_trials_are_compared_by_their_validations(
    a: str, b: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    found = compare(Path("mlruns"), a, b, None, None)
    assert (found.cer.a, found.cer.b) == (0, heard(WORSE).cer)
    assert found.cer.difference.value == -found.cer.b
    assert found.cer.difference.interval.high < 0 and not found.cer.difference.tied
    assert found.wer.b_interval.low <= found.wer.b <= found.wer.b_interval.high
    for measure in (found.cer, found.wer):
        assert measure.a_interval == (0, 0)


def test_both_transcribe_a_split_where_one_is_asked_for(place: Path) -> None:
    """And what they are then said to have is what `evaluate` says."""
    model = place / "babbler"
    found = compare(place / "mlruns", str(model), str(model), place / "corpus", "dev")
    scores = evaluate_model(model, place / "corpus", "dev")
    assert (found.cer.a, found.wer.b) == (scores["cer"], scores["wer"])
    assert found.a.ids == Corpus.open(place / "corpus").split("dev").ids
    assert found.cer.difference.tied and found.most_different == []


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ("good short", "good and short were validated on different utterances", "--data and --split"),
        ("good babbler", "babbler: no errors of its validation are kept", "--data and --split"),
        ("good small:2", "small:2: no errors of its validation are kept", "--data and --split"),
        ("good small:9", "no trial 9 in the sweep small", "It has 3"),
        ("good small:x", "small:x: x is no trial's number", "NAME:TRIAL"),
        ("good absent", "no sweep named absent", "small"),
        ("good bad --split dev", "--data and --split go together", "neither"),
        ("small:0 babbler --data corpus --split dev", "small:0: none of its checkpoints is there", "without --data"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    words: str, problem: str, remedy: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    error = CliRunner().invoke(cli, ["compare", *words.split()]).exception
    assert isinstance(error, InputError)
    assert problem in error.problem and remedy in error.remedy


def test_other_utterances_of_the_same_names_are_no_pairs(place: Path, tmp_path: Path) -> None:
    one = heard(SAID)
    replace(one, references=[text + "!" for text in one.references]).save(tmp_path / ERRORS)
    with pytest.raises(InputError, match=r"120 of 120 differ, such as 'A BAD CAB' and 'A BAD CAB!'"):
        compare(place / "mlruns", str(place / "good"), str(tmp_path), None, None)


def test_models_whose_training_texts_were_normalised_differently_are_told_so(place: Path, tmp_path: Path) -> None:
    """Two models with the same utterances, whose references differ since their corpora were normalised differently."""
    rule = TextRule(case="lower", punctuation="remove")
    (tmp_path / "model").mkdir()
    replace(Recognizer.load(place / "babbler"), text=rule).save(tmp_path / "model")
    with pytest.raises(InputError, match="scored against different references") as error:
        compare(place / "mlruns", str(place / "babbler"), str(tmp_path / "model"), place / "corpus", "dev")
    reference = (Corpus.open(place / "corpus").split("dev").texts or [])[0]
    assert f"{reference!r} and {rule.apply([reference])[0]!r}" in error.value.problem
    assert "--punctuation" in error.value.remedy


def test_the_utterances_that_differ_most_come_first() -> None:
    best = ["A BAD CAB", "", "A FACE", "CAFE", "A BAD CAB"]
    found = comparison(best, ["A BAD CABS", "BEAD", "A FACE", "", "A BAD CAB"])
    assert found.most_different == [1, 3, 0], "those that do not differ are not among them"
    assert len(comparison(SAID, ["X"] * len(SAID)).most_different) == SHOWN


def test_it_is_told_for_machines(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    tree = json.loads(CliRunner().invoke(cli, ["compare", "bad", "good", "--json"]).stdout)
    assert (tree["a"], tree["b"], tree["split"], tree["utterances"]) == ("bad", "good", "dev", 120)
    cer = tree["cer"]
    assert cer["b"] == 0 and cer["difference"] == cer["a"] > 0
    assert cer["difference_interval"][0] > 0 and cer["tied"] is False and cer["a_better"] == 0
    assert tree["most_different"][0] == {
        "id": "u003", "reference": "CAFE", "a": "CAFFEE", "a_errors": 2, "b": "CAFE", "b_errors": 0,
    }  # fmt: skip


def shown(found: Comparison) -> str:
    target = Console(file=io.StringIO(), width=80, color_system=None, _environ={})
    print_comparison(target, found)
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_it_is_told_for_people() -> None:
    text = shown(comparison(WORSE, SAID))
    lines = [line.split() for line in text.splitlines()]
    rate = heard(WORSE).cer
    assert ["A", "one"] in lines and ["B", "other"] in lines
    assert [line[:2] for line in lines if line[:1] == ["A"]][1] == ["A", f"{rate:.2%}"]
    assert [line[3] for line in lines if line[:3] == ["A", "-", "B"]] == [f"{rate:+.2%}"]
    assert "B has a significantly lower CER (paired bootstrap, 95%)." in text
    assert "\nu003   A 2 errors, B 0\n  REF: CA" in text
    assert "\n  A:   CAFFEE\n" in text and "\n  REF: CAFE\n  B:   CAFE\n" in text
    assert max(map(len, text.splitlines())) <= 80
    tied = shown(comparison(SAID[:6], [*SAID[:5], "BED"]))
    assert "do not differ significantly" in tied


def test_models_that_say_the_same_have_nothing_to_show() -> None:
    text = shown(comparison(SAID, SAID))
    assert "do not differ significantly" in text and "REF:" not in text
