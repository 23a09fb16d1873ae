"""The model card: the kind of model, and the verdict on the rules to which a space held its trials."""

from __future__ import annotations

from pathlib import Path

import course
import records
import tiny

from asr_platform.tracking.model_card import ModelCard
from search_spaces.rules import BUDGET
from trainables.data.corpus import Corpus
from trainables.evaluation.utterance_errors import UtteranceErrors

PARAMS = {"tokenizer.kind": "char", "model.d_model": 32, "model.dropout": 0.1, "optimizer.lr": 1e-3}


def card(corpus: Corpus, rules: str, parameters: int = 1000) -> str:
    best = records.trial(0, "complete", [0.5], PARAMS, parameters=parameters)
    return ModelCard("small", records.space(records.SPACE + rules), corpus, [best], best, {}, None, "store").render()


def test_the_verdict_on_each_rule_and_what_it_is_based_on(tmp_path: Path) -> None:
    text = card(course.write_corpus(tmp_path / "hw4"), "rules: hw4p2\n")
    assert "This model keeps the rules `hw4p2`" in text
    rows = [line for line in text.splitlines() if " | holds | " in line]
    assert [row.split(":")[0] for row in rows] == [
        "| budget", "| architecture", "| data", "| validation", "| weights",
    ]  # fmt: skip
    assert "| holds | 1,000 parameters of the model |" in rows[0]


def test_broken_rules_are_named(tmp_path: Path) -> None:
    text = card(course.write_corpus(tmp_path / "own", source="manifest"), "rules: hw4p2\n", BUDGET + 1)
    assert "This model breaks the rules `hw4p2`" in text
    assert "| **broken**: 30,000,001 parameters of the model, but at most 30,000,000 are allowed |" in text
    assert "was prepared from manifest" in text
    assert text.count("**broken**") == 2


EDITORS = "base: {model: {kind: transcript_editor}}\nvary: {optimizer.lr: {log: [1e-4, 1e-2]}}\n"


def test_the_card_of_an_editor_has_its_draft_and_its_steps(tmp_path: Path) -> None:
    best = records.trial(0, "complete", [0.5], {"optimizer.lr": 1e-3})
    best.curve[0] |= {"val_ctc_cer": 0.625, "val_one_step_cer": 0.5625}
    errors = UtteranceErrors.of("dev", 1, ["1"], ["ABCD"], ["ABXX"])
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train": tiny.SENTENCES, "dev": tiny.SENTENCES})
    text = ModelCard("small", records.space(EDITORS), corpus, [best], best, {}, errors, "store").render()
    assert "\nA speech recogniser (transcript editor: a CTC draft, corrected as a whole). 1,234,567 parameters." in text
    assert "\nThe CER above is that after 1 editing step. On the same utterances: draft 62.50%, after one" in text
    assert "after one step 56.25%." in text


def test_a_card_without_drafts_has_no_word_about_them(tmp_path: Path) -> None:
    text = card(course.write_corpus(tmp_path / "hw4"), "")
    assert "encoder-decoder" in text and "draft" not in text


def test_without_rules_there_is_no_verdict(tmp_path: Path) -> None:
    assert "## Rules" not in card(course.write_corpus(tmp_path / "hw4"), "")
