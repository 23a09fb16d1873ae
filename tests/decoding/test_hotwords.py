"""Hotwords: the bonus of a text is that of the hotwords in it, and a search that is given one finds it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import Path, Rules, Table, letters

from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.text.tokenizer import EOS, SOS, Tokenizer
from trainables.decoding import beam_search
from trainables.decoding.hotwords import Hotwords, HotwordScorer
from trainables.errors import InputError

TEXTS = ["ABBA CAB ABC", "CAB BAC A", "ABC ABBA BA", "CC BA CAB", "ABA BAB"]
TOKENIZERS = {
    kind: Tokenizer.train(TEXTS * 5, TokenizerConfig(kind=kind, vocab_size=size))
    for kind, size in (("char", None), ("bpe", 18), ("unigram", 14))
}
words = st.text("ABC", min_size=1, max_size=4)
kinds = st.sampled_from(list(TOKENIZERS))


def bonus(phrases: list[str], text: str, kind: str) -> float:
    """Bonus of a whole text, its end included."""
    scorer, total = HotwordScorer(Hotwords.of(phrases, TOKENIZERS[kind])), 0.0
    latest, own = torch.tensor([[SOS]]), torch.tensor([[0]])
    for token in [*TOKENIZERS[kind].encode([text])[0], EOS]:
        total += float(scorer.step(latest, own)[0, 0, token])
        latest = torch.tensor([[token]])
    return total


def length(phrase: str, kind: str) -> int:
    return len(TOKENIZERS[kind].encode([phrase])[0])


@given(kinds, st.lists(words, max_size=4), st.lists(words, max_size=8))
def test_a_text_has_the_bonus_of_its_whole_words(kind: str, hotwords: list[str], text: list[str]) -> None:
    """One unit for each token of a word that is a hotword; beginnings and parts of words give nothing."""
    expected = sum(length(word, kind) for word in text if word in hotwords)
    assert bonus(hotwords, " ".join(text), kind) == expected


@given(kinds, st.lists(st.sampled_from(["AB CA", "A A B", "C C", "BB"]), unique=True), st.lists(words, max_size=8))
def test_phrases(kind: str, hotwords: list[str], text: list[str]) -> None:
    """A phrase of several words counts wherever all of them follow each other."""
    spoken = f" {' '.join(text)} "
    found = [phrase for phrase in hotwords for place in range(len(spoken)) if spoken.startswith(f" {phrase} ", place)]
    assert bonus(hotwords, " ".join(text), kind) == sum(length(phrase, kind) for phrase in found)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_phrase_and_its_beginning(kind: str) -> None:
    """The longer phrase counts alone; where it is left unfinished, its beginning counts."""
    both = ["AB", "AB CAB"]
    assert bonus(both, "AB CAB", kind) == length("AB CAB", kind)
    assert bonus(both, "AB CABA", kind) == bonus(both, "AB C", kind) == bonus(both, "AB", kind) == length("AB", kind)
    assert bonus(both, "ABB CAB", kind) == 0


def test_unknown_characters() -> None:
    with pytest.raises(InputError, match="'AXE' has 'EX', which the model never writes"):
        Hotwords.of(["AB", "AXE"], TOKENIZERS["char"])


class Bonuses(Table):
    """The bonuses of hotwords as a table, by a walk over the whole path."""

    def __init__(self, hotwords: Hotwords, count: int) -> None:
        super().__init__(0, count, 1)
        self.hotwords = hotwords

    def row(self, utterance: int, path: Path) -> torch.Tensor:
        node = self.hotwords.start
        for token in path:
            node = int(self.hotwords.next_NV[node, token])
        return self.hotwords.bonus_NV[node]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    phrases=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=3),
    limits=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    weight=st.sampled_from([0.3, 2.0]),
    length_penalty=st.sampled_from([0.0, 1.0]),
)
def test_a_wide_beam_finds_what_exhaustive_search_finds(
    seed: int, phrases: list[list[int]], limits: list[int], weight: float, length_penalty: float
) -> None:
    """Every token begins a word; the whole list of best hypotheses in order."""
    table = Table(seed, 3, len(limits))
    begins_word_V = torch.ones(table.vocabulary, dtype=torch.bool)
    hotwords = Hotwords.of_tokens([tuple(letters(3)[place] for place in phrase) for phrase in phrases], begins_word_V)
    rules = Rules(((1.0, table), (weight, Bonuses(hotwords, 3))), length_penalty=length_penalty)
    wide = 4 ** max(limits)
    found = beam_search(
        [(1.0, table), (weight, HotwordScorer(hotwords))],
        torch.tensor(limits),
        wide,
        length_penalty=length_penalty,
        exact=wide,
        bonus=weight * hotwords.longest,
    ).lists()
    for utterance, limit in enumerate(limits):
        expected = sorted(rules.exhaustive(utterance, limit), key=lambda item: -item[0])
        assert [one.score for one in found[utterance]] == pytest.approx([score for score, _ in expected], abs=1e-4)
        assert {tuple(one.tokens) for one in found[utterance]} == {path for _, path in expected}
