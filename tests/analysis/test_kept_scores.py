"""Scores that `platform evaluate` keeps in a model's directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asr_platform.analysis.kept_scores import Score, keep_scores, scores_of
from asr_platform.analysis.kept_scores import test_scores as of_tests
from trainables.inference.model_files import SCORES

SCORE = Score("hash", "test", 1200, 0.125, (0.1, 0.15), 0.25, (0.2, 0.3), "method=greedy")


def test_the_latest_score_of_each_split_is_kept(tmp_path: Path) -> None:
    others = [replace(SCORE, split="dev"), replace(SCORE, corpus_hash="another")]
    for score in (SCORE, *others, better := replace(SCORE, cer=0.0625, decoding="method=joint")):
        keep_scores(tmp_path, [score])
    assert scores_of(tmp_path) == [*others, better]
    assert [one.cer for one in of_tests(tmp_path, "hash")] == [0.0625]


def test_a_score_in_words() -> None:
    assert str(SCORE) == (
        "CER 12.50% (95% interval 10.00–15.00%) and WER 25.00% (20.00–30.00%) "
        "on the 1,200 utterances of test, decoded with method=greedy"
    )


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"split": "test"}]'])
def test_a_damaged_file_has_none_and_is_replaced(content: str, tmp_path: Path) -> None:
    (tmp_path / SCORES).write_text(content)
    assert scores_of(tmp_path) == []
    keep_scores(tmp_path, [SCORE])
    assert len(scores_of(tmp_path)) == 1


def test_a_directory_that_cannot_be_written_keeps_none(tmp_path: Path) -> None:
    keep_scores(tmp_path / "gone", [SCORE])
    assert scores_of(tmp_path / "gone") == []
