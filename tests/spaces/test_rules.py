"""Rules of the course: what keeps them, what breaks them, and a space that breaks them is not read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import course
import numpy as np
import pytest
import tiny
from reading import mistakes

from search_spaces.reader import load_space, parse_space
from search_spaces.rules import BUDGET, Facts, check_rules, findings, violations
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.errors import InputError

RULES = ["budget", "architecture", "data", "validation", "weights"]
PARAMETERS = 1000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return course.write_corpus(tmp_path_factory.mktemp("corpora") / "hw4")


@pytest.fixture(scope="module")
def language(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of language models: `own` of the corpus, `other` of another one, `text` of other text beside it."""
    folder = tmp_path_factory.mktemp("language_models")
    course.save_language_model(corpus, folder / "own")
    course.save_language_model(corpus, folder / "other", corpus_hash="f" * 64)
    text = tiny.config({"model.kind": "language_model", "data.text": "/books.txt"})
    course.save_language_model(corpus, folder / "text", config=text.model_dump(mode="json"))
    return folder


def facts(corpus: Corpus, **changes: Any) -> Facts:
    return replace(Facts(corpus, corpus.hash, PARAMETERS), **changes)


def broken(leaves: dict[str, Any], known: Facts) -> dict[str, str]:
    """Reasons of the broken rules, by name of the rule."""
    found = findings("hw4p2", tiny.config(leaves), known)
    assert [one.rule for one in found] == RULES
    assert all(one.evidence for one in found)
    return {one.rule: "; ".join(one.violations) for one in found if not one.holds}


@pytest.mark.parametrize(
    "leaves",
    [
        {},
        {"data.train": "train-clean-100", "data.validation": "dev-clean"},
        {"model.kind": "language_model", "data.text": "/data/hw4p1_data"},
        {"model.kind": "language_model", "data.text": "/data/hw4p1_data/train"},
        {"pretrained.decoder": "own", "decoding.language_model": "own"},
        {"model.kind": "transcript_editor"},
        {"model.norm": "rms", "model.gated": True, "model.encoder_positions": "rotary", "model.reduction": "lstm"},
    ],
)
def test_what_keeps_the_rules(leaves: dict[str, Any], corpus: Corpus, language: Path) -> None:
    located = {key: str(language / value) if value == "own" else value for key, value in leaves.items()}
    assert broken(located, facts(corpus)) == {}
    assert broken(located, Facts()) == {}
    check_rules("hw4p2", tiny.config(located), facts(corpus))


@pytest.mark.parametrize(
    ("leaves", "rule", "reason"),
    [
        ({"data.train": "dev-clean", "data.validation": "test-clean"}, "data",
         "data.train: dev-clean, but only train-clean-100 is allowed"),
        ({"model.encoder_block": "conformer"}, "architecture", "model.encoder_block: conformer, but only the pre-norm"),
        ({"model.kind": "transcript_editor", "model.encoder_block": "conformer"}, "architecture",
         "model.encoder_block: conformer, but only"),
        ({"data.validation": "train-clean-100"}, "validation", "data.validation: train-clean-100, which is trained on"),
        ({"model.kind": "language_model", "data.text": "/books.txt"}, "data", "data.text: /books.txt, but only"),
        ({"model.kind": "language_model", "data.text": "/hw4p1_data/val"}, "data", "data.text: /hw4p1_data/val"),
    ],
)  # fmt: skip
def test_a_configuration_that_breaks_a_rule(leaves: dict[str, Any], rule: str, reason: str, corpus: Corpus) -> None:
    """The name of a split or of a text is enough; a corpus is not needed."""
    for known in (facts(corpus), Facts()):
        found = broken(leaves, known)
        assert list(found) == [rule] and found[rule].startswith(reason)
    with pytest.raises(InputError, match=rf"{reason}.*\(rules: hw4p2, {rule}\)"):
        check_rules("hw4p2", tiny.config(leaves), Facts())


def test_the_budget_counts_the_language_model_of_the_search(corpus: Corpus, language: Path) -> None:
    full = facts(corpus, parameters=BUDGET)
    assert broken({}, full) == {}
    assert (
        "30,000,001 parameters of the model, but at most 30,000,000"
        in broken({}, facts(corpus, parameters=BUDGET + 1))["budget"]
    )
    searched = {"decoding.method": "beam", "decoding.language_model": str(language / "own")}
    assert broken(searched, full) == {}, "without a weight it takes no part"
    reason = broken({**searched, "decoding.lm_weight": 0.3}, full)["budget"]
    assert reason.startswith("30,000,000 parameters of the model and ") and "language model in its search" in reason


@pytest.mark.parametrize("key", ["pretrained.decoder", "decoding.language_model"])
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("other", "was trained on another corpus, of hash ffffffffffff, but only"),
        ("text", "was trained with data.text: /books.txt, but only"),
        ("absent", "what it was trained on is not known: "),
    ],
)
def test_weights_from_elsewhere(key: str, model: str, reason: str, corpus: Corpus, language: Path) -> None:
    leaves = {key: str(language / model)}
    found = broken(leaves, facts(corpus))
    assert list(found) == ["weights"]
    assert found["weights"].startswith(key) and reason in found["weights"]
    assert broken(leaves, Facts(corpus_hash=corpus.hash)) == found, "a model directory records this hash"


@pytest.mark.parametrize(
    ("splits", "source", "rule", "reason"),
    [
        (course.SPLITS, "manifest", "data", "was prepared from manifest, but only the course's data are allowed"),
        ({**course.SPLITS, "train-clean-360": ["CAB"]}, "hw4", "data", "train-clean-100, train-clean-360, but only"),
    ],
)
def test_other_data(splits: dict[str, list[str]], source: str, rule: str, reason: str, tmp_path: Path) -> None:
    corpus = course.write_corpus(tmp_path / "corpus", splits, source)
    leaves = {"data.train": "train-clean-100"}
    found = broken(leaves, facts(corpus))
    assert list(found) == [rule] and reason in found[rule]
    (violation,) = violations("hw4p2", tiny.config(leaves), facts(corpus))
    assert violation.key == "", "the corpus breaks the rule, not a key"


def test_a_corpus_in_which_validation_is_trained_on(tmp_path: Path) -> None:
    features = tiny.utterance("A BAD CAB", np.random.default_rng(0))
    with CorpusWriter(tmp_path / "corpus", tiny.RECIPE, "hw4") as writer:
        for split, id in (("train-clean-100", "a"), ("dev-clean", "renamed")):
            writer.add(split, id, "A BAD CAB", 1.0, features)
        corpus = writer.finish()
    found = broken({}, facts(corpus))
    assert found == {"validation": "1 utterances of dev-clean, such as renamed, are in train-clean-100 too"}


def test_a_model_of_another_corpus_than_the_one_given(corpus: Corpus) -> None:
    found = broken({}, facts(corpus, corpus_hash="f" * 64))
    assert list(found) == ["data"] and "trained on the corpus of hash ffffffffffff" in found["data"]


def test_the_write_up_is_not_silently_widened(corpus: Corpus) -> None:
    """Parts of a block that the write-up does not have are named beside the verdict."""
    _, usual, *_ = findings("hw4p2", tiny.config(), facts(corpus))
    assert usual.evidence == "model.encoder_block: transformer"
    _, other, *_ = findings("hw4p2", tiny.config({"model.norm": "rms", "model.gated": True}), facts(corpus))
    assert other.evidence.endswith("neither has nor forbids model.norm: rms, model.gated: True")
    leaves = {"model.kind": "transcript_editor", "model.editor.kv_heads": 1, "model.editor.norm": "layer"}
    _, editor, *_ = findings("hw4p2", tiny.config(leaves), facts(corpus))
    parts = "model.editor.gated: True, model.editor.kv_heads: 1, model.editor.positions: rotary"
    assert editor.evidence.endswith(f"neither has nor forbids model.kind: transcript_editor, {parts}")
    _, without, *_ = findings("hw4p2", tiny.config({"model.editor.kv_heads": 1}), facts(corpus))
    assert without.evidence == usual.evidence, "an encoder-decoder has no editor"


def test_without_rules_everything_goes(corpus: Corpus) -> None:
    known = facts(corpus, parameters=10**9)
    check_rules(None, tiny.config({"data.train": "dev-clean"}), known)
    assert violations(None, tiny.config(), known) == []


# Spaces

BREAKING = """\
base:
  data:
    train: train-clean-360
vary:
  model.dropout: {float: [0, 0.2]}
  data.validation: {choice: [null, train-clean-100]}
start:
  - {model.dropout: 0.1}
  - model.dropout: 0.1
    data.validation: train-clean-100
rules: hw4p2
budget: 30000001
"""


def test_a_space_that_breaks_the_rules_is_refused_with_its_lines() -> None:
    assert mistakes(BREAKING) == [
        "  line 12: budget: at most 30,000,000 with rules: hw4p2, but got 30,000,001",
    ]
    within = BREAKING.replace("30000001", "30000000")
    reason = "train-clean-360, but only train-clean-100 is allowed (rules: hw4p2, data)"
    assert mistakes(within) == [f"  line 3: base.data.train: {reason}"]
    reason = "train-clean-100, which is trained on (rules: hw4p2, validation)"
    named = within.replace("train-clean-360", "train-clean-100")
    assert mistakes(named) == [f"  line 10: start.1.data.validation: {reason}"]
    parse_space(BREAKING.replace("rules: hw4p2\n", ""), "free.yaml")


def test_a_key_that_can_only_break_a_rule_is_refused_with_its_line() -> None:
    text = "rules: hw4p2\nvary:\n  model.dropout: {float: [0, 0.2]}\n  model.encoder_block: {choice: [conformer]}\n"
    (found,) = mistakes(text)
    assert found.startswith("  line 4: vary.model.encoder_block: conformer, but only the pre-norm transformer")
    both = parse_space(text.replace("[conformer]", "[transformer, conformer]"), "both.yaml")
    assert set(both.vary) == {"model.dropout", "model.encoder_block"}, "proposals with a conformer are refused"


def test_there_is_no_other_rule_set() -> None:
    (found,) = mistakes("rules: hw5p2\n")
    assert found.startswith("  line 1: rules: ") and "hw4p2" in found


def test_the_course_space_keeps_its_rules() -> None:
    assert load_space("hw4p2").settings.rules == "hw4p2"
    assert load_space("digits").settings.rules is None
