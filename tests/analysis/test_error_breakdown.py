"""Errors by length and by word are the errors that CER and WER count, each once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import errors_of

from asr_platform.analysis.bootstrap import error_interval
from asr_platform.analysis.error_breakdown import (
    FEWEST_IN_A_GROUP,
    MOST_GROUPS,
    EditCounts,
    by_length,
    by_noise,
    by_speaker,
    by_word,
    edits,
)
from trainables.evaluation.utterance_errors import UtteranceErrors

texts = st.lists(st.sampled_from(["ONE", "TWO", "THREE"]), max_size=6).map(" ".join)


def recognised(*pairs: tuple[str, str]) -> UtteranceErrors:
    return UtteranceErrors.of("dev", 1, [str(n) for n in range(len(pairs))], *map(list, zip(*pairs, strict=True)))


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=300))
def test_every_utterance_is_in_one_group_of_its_length(pairs: list[tuple[int, int]]) -> None:
    lengths, counts = zip(*pairs, strict=True)
    groups = by_length(errors_of(counts, lengths))
    assert sum(group.utterances for group in groups) == len(pairs)
    assert len(groups) <= max(1, min(MOST_GROUPS, len(pairs) // FEWEST_IN_A_GROUP))
    assert all(one.longest < other.shortest for one, other in pairwise(groups))
    for group in groups:
        there = [(length, count) for length, count in pairs if group.shortest <= length <= group.longest]
        assert group.utterances == len(there)
        assert group.cer == pytest.approx(sum(count for _, count in there) / sum(length for length, _ in there))
        assert group.interval.low <= group.cer <= group.interval.high


def test_groups_are_about_as_large_and_have_the_interval_of_their_own_utterances() -> None:
    lengths = list(range(1, 121))
    short, *_, long = groups = by_length(errors_of([0] * 60 + [2, 0, 5] * 20, lengths))
    assert [group.utterances for group in groups] == [20] * MOST_GROUPS
    assert (short.cer, short.interval) == (0, (0, 0))
    own = errors_of(([2, 0, 5] * 20)[40:], lengths[100:])
    assert (long.cer, long.interval) == (own.cer, error_interval(own))


def test_utterances_of_one_length_are_one_group() -> None:
    assert [group.utterances for group in by_length(errors_of([1] * 200))] == [200]


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 5)), min_size=1, max_size=150))
def test_every_utterance_is_in_one_group_of_its_noise(pairs: list[tuple[float, int]]) -> None:
    ratios, counts = zip(*pairs, strict=True)
    groups = by_noise(errors_of(counts, [10] * len(pairs)), ratios)
    assert sum(group.utterances for group in groups) == len(pairs)
    assert all(one.highest < other.lowest for one, other in pairwise(groups))
    for group in groups:
        there = [count for ratio, count in pairs if group.lowest <= ratio <= group.highest]
        assert group.cer == pytest.approx(sum(there) / (10 * len(there)))


def test_errors_of_each_speaker_and_of_the_unknown() -> None:
    pairs = ("ONE TWO", "ONE TWO"), ("ONE", "TWO"), ("TWO", "TWO"), ("SIX", ""), ("TEN", "TEN")
    errors = replace(recognised(*pairs), speakers=["anna", "ben", "ben", None, "cleo"])
    groups = by_speaker(errors)
    assert [(group.speaker, group.utterances) for group in groups] == [(None, 1), ("ben", 2), ("anna", 1), ("cleo", 1)]
    assert [group.wer for group in groups] == [1, 0.5, 0, 0]
    assert groups[1].cer == 3 / 6
    assert by_speaker(recognised(*pairs)) == []


def test_intervals_of_groups_are_by_speaker() -> None:
    random = np.random.default_rng(0)
    counts = random.binomial(20, np.repeat(random.uniform(0.02, 0.4, 10), 30))
    alone = errors_of(counts.tolist())
    spoken = replace(alone, speakers=[f"s{number // 30}" for number in range(300)])
    assert by_length(spoken)[0].interval == error_interval(spoken) != error_interval(alone)


def test_edits_are_those_of_characters_or_of_words() -> None:
    errors = recognised(("ONE TWO THREE", "ONE TOO"), ("ONE", "ONE SIX"))
    assert edits(errors, words=True) == EditCounts(substitutions=1, deletions=1, insertions=1)
    found = edits(errors)
    assert (found.substitutions, found.insertions) == (1, len(" SIX"))
    assert found.deletions == len(" THREE") and str(found) == "1 substitution, 6 deletions, 4 insertions"


def test_words_are_counted_with_what_was_recognised_instead() -> None:
    found = by_word(recognised(("ONE TWO THREE", "ONE TOO"), ("TWO TWO", "TOO TWO"), ("ONE", "ONE SIX"), ("", "SIX")))
    assert [(word.word, word.occurrences, dict(word.hypotheses)) for word in found.words] == [
        ("TWO", 3, {"TOO": 2}),
        ("THREE", 1, {"": 1}),
        ("ONE", 2, {}),
    ]
    assert (found.substitutions, found.deletions, dict(found.inserted)) == (2, 1, {"SIX": 2})


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=10))
def test_they_are_the_errors_that_wer_counts(pairs: list[tuple[str, str]]) -> None:
    errors = recognised(*pairs)
    found = by_word(errors)
    assert found.substitutions + found.deletions + found.inserted.total() == sum(errors.word_errors)
    assert sum(word.occurrences for word in found.words) == sum(errors.words)
    assert [word.errors for word in found.words] == sorted((word.errors for word in found.words), reverse=True)
