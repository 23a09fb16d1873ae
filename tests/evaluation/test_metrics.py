"""Error rates count edits over the whole split."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.text.tokenizer import Tokenizer
from trainables.evaluation.metrics import character_error_rate, word_error_rate

words = st.lists(st.text("ABC'", min_size=1, max_size=4), max_size=5).map(" ".join)
spoken = words.filter(bool)


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein's distance."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, said in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != said))
    return row[-1]


@given(st.lists(st.tuples(spoken, words), min_size=1, max_size=5))
def test_rates_are_edits_over_reference_length_of_the_whole_split(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    characters = sum(edits(*pair) for pair in pairs) / sum(map(len, references))
    in_words = sum(edits(one.split(), other.split()) for one, other in pairs)
    assert character_error_rate(references, hypotheses) == pytest.approx(characters)
    assert word_error_rate(references, hypotheses) == pytest.approx(in_words / sum(len(r.split()) for r in references))


def test_a_rate_is_not_a_mean_over_utterances() -> None:
    assert character_error_rate(["A", "ABCDEFGHI"], ["B", "ABCDEFGHI"]) == pytest.approx(1 / 10)
    assert word_error_rate(["A", "B C D"], ["B", "B C D"]) == pytest.approx(1 / 4)


def test_an_empty_hypothesis_is_all_deletions_and_a_long_one_exceeds_one() -> None:
    assert character_error_rate(["ABC"], [""]) == 1
    assert word_error_rate(["AB C"], [""]) == 1
    assert character_error_rate(["A"], ["BCD"]) == 3


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_character_that_training_never_saw_is_an_error(kind: str) -> None:
    """The best that a recogniser can do is to leave it out, and the reference still counts it."""
    config = TokenizerConfig.model_validate({"kind": kind, "vocab_size": None if kind == "char" else 12})
    tokenizer = Tokenizer.train(["AB BA", "ABBA"], config)
    reference = "ABÉ BAZ"
    perfect = tokenizer.decode(tokenizer.encode([reference])[0])
    assert perfect == "AB BA"
    assert character_error_rate([reference, "AB"], [perfect, "AB"]) == pytest.approx(2 / 9)
