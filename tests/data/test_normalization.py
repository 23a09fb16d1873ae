"""Normalisation of transcripts: case, punctuation, numbers, and where it is applied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ready import Ready

from trainables.data.corpus import Corpus
from trainables.data.features import FeatureRecipe
from trainables.data.prepare import prepare
from trainables.data.text.normalization import TextRule
from trainables.data.utterance import Utterance
from trainables.errors import InputError

PLAIN = TextRule(punctuation="remove")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "Hello world"),
        ("It’s 'quoted' – isn´t it?", "It's quoted isn't it"),
        ("the dogs' well-known (sic) bone …", "the dogs well known sic bone"),
        ("«L'été» — ¿qué? „Nun“", "L'été qué Nun"),
        ("al·lot; צה״ל.", "al·lot צה״ל"),
        ("3.5% of R&D at 12:30, 1,000.", "3.5% of R&D at 12:30 1,000"),
        ("a_b $5 + 2 = 7", "a b $5 + 2 = 7"),
        ("...", ""),
    ],
)
def test_punctuation(text: str, expected: str) -> None:
    assert PLAIN.apply([text]) == [expected]


def test_case() -> None:
    assert TextRule(case="upper").apply(["Straße, é"]) == ["STRASSE, É"]
    assert TextRule(case="lower").apply(["ÉCOLE  A"]) == ["école a"]
    assert TextRule().apply(["Left  as it IS… "]) == ["Left  as it IS… "]


@given(st.text(), st.sampled_from(["keep", "upper", "lower"]), st.sampled_from(["keep", "remove"]))
def test_twice_is_once(text: str, case: str, punctuation: str) -> None:
    rule = TextRule.model_validate({"case": case, "punctuation": punctuation})
    once = rule.apply([text])
    assert rule.apply(once) == once


def test_what_each_step_changed() -> None:
    texts = ["ALL RIGHT", "Not, quite", "not quite."]
    done, changes = TextRule(case="upper", punctuation="remove").apply_counting(texts)
    assert done == ["ALL RIGHT", "NOT QUITE", "NOT QUITE"]
    assert [(change.step, change.texts, change.before, change.after) for change in changes] == [
        ("punctuation removed", 2, "Not, quite", "Not quite"),
        ("upper case", 2, "Not quite", "NOT QUITE"),
    ]
    assert TextRule(case="upper").apply_counting(["A"])[1][0].model_dump() == {
        "step": "upper case", "texts": 0, "before": "", "after": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "21 cats, 3.5 dogs and 1,000 mice", "twenty-one cats, three point five dogs and one thousand mice"),
        ("de", "1.000 und 2,5", "eintausend und zwei Komma fünf"),
        ("en", "1st A4 2020-02 v1.2.3 7%", "1st A4 two thousand and twenty-two v1.2.3 seven%"),
    ],
)
def test_numbers(language: str, text: str, expected: str) -> None:
    pytest.importorskip("num2words", reason="num2words is not installed (extra: numbers)")
    assert TextRule(numbers=language).apply([text]) == [expected]


def test_numbers_in_no_language() -> None:
    pytest.importorskip("num2words", reason="num2words is not installed (extra: numbers)")
    with pytest.raises(InputError, match=r"(?s)--numbers xx: num2words has no such language.*en"):
        TextRule(numbers="xx").apply(["1"])


def test_numbers_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "num2words", None)
    with pytest.raises(InputError, match=r"(?s)not installed.*pip install num2words"):
        TextRule(numbers="en").apply(["1"])


def test_a_corpus_keeps_its_rule_and_what_it_changed(tmp_path: Path) -> None:
    utterances = [Utterance("a", "train", "Hi, you", Ready()), Utterance("b", "test", None, Ready())]
    rule = TextRule(case="lower", punctuation="remove")
    corpus = prepare(utterances, FeatureRecipe(), tmp_path / "corpus", "test", text=rule)
    assert corpus.split("train").texts == ["hi you"] and corpus.split("test").texts is None
    kept = Corpus.open(tmp_path / "corpus").preparation
    assert kept.text == rule and [change.texts for change in kept.changes] == [1, 1] and kept.dev is None
    with pytest.raises(InputError, match=re.escape("train/a: empty transcript")):
        prepare([Utterance("a", "train", "…", Ready())], FeatureRecipe(), tmp_path / "none", "test", text=PLAIN)
