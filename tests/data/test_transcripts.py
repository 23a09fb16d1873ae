"""One normal form for all texts, and the characters that training has never seen."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ready import Ready

from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.corpus import Corpus
from trainables.data.features import FeatureRecipe
from trainables.data.prepare import prepare
from trainables.data.text.token_batches import read_texts
from trainables.data.text.tokenizer import Tokenizer
from trainables.data.text.transcripts import single_spaced, unseen_characters, unusable
from trainables.data.utterance import Utterance
from trainables.errors import InputError
from trainables.evaluation.metrics import character_error_rate, word_error_rate

COMPOSED, DECOMPOSED = "CAFÉ À LA CRÈME", unicodedata.normalize("NFD", "CAFÉ À LA CRÈME")


def corpus_of(out: Path, **texts: list[str]) -> Corpus:
    utterances = [
        Utterance(str(number), split, text, Ready(), f"{split}.txt:{number + 1}")
        for split in texts
        for number, text in enumerate(texts[split])
    ]
    return prepare(utterances, FeatureRecipe(), out, "test", jobs=1)


@given(st.text())
def test_a_transcript_is_normal_and_stays_as_it_is(text: str) -> None:
    once = single_spaced(text)
    assert single_spaced(once) == once
    assert unicodedata.is_normalized("NFC", once) and "\ufeff" not in once
    assert "  " not in once and once.strip(" ") == once
    assert set(unusable(once)) == set(unusable(text)) - {"U+0009", "U+000A", "U+000D"}


@given(st.text(alphabet=st.characters(exclude_categories=()), min_size=1, max_size=8))
def test_what_is_usable_is_what_a_tokenizer_keeps(text: str) -> None:
    config = TokenizerConfig(kind="char")
    if unusable(text):
        with pytest.raises(InputError, match="cannot keep"):
            Tokenizer.train([text], config)
    else:
        tokenizer = Tokenizer.train([text], config)
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_control_characters_are_unusable() -> None:
    assert unusable("A\0B\a\x85\u2581") == ["U+0000", "U+0007", "U+0085", "U+2581"]
    assert unusable(f"{COMPOSED} ’\u200b") == []


def test_a_corpus_has_one_normal_form(tmp_path: Path) -> None:
    one = corpus_of(tmp_path / "one", train=[COMPOSED], dev=["\ufeff" + DECOMPOSED])
    assert one.split("dev").texts == one.split("train").texts == [COMPOSED]
    assert unseen_characters(one) == {}
    assert one.hash == corpus_of(tmp_path / "other", train=[DECOMPOSED], dev=[COMPOSED]).hash


def test_letters_that_look_the_same_are_no_errors() -> None:
    """Also in corpora that were prepared before there was one form."""
    assert character_error_rate([DECOMPOSED], [COMPOSED]) == word_error_rate([COMPOSED], [DECOMPOSED]) == 0


@pytest.mark.parametrize("character", ["\0", "\a", "\x85", "\x1c", "\t", "\u2581"])
def test_unusable_characters_are_refused_with_their_place(tmp_path: Path, character: str) -> None:
    with pytest.raises(InputError) as caught:
        corpus_of(tmp_path / "corpus", train=["A", f"A{character}B"])
    code = f"U+{ord(character):04X}"
    assert caught.value.problem == f"train.txt:2: train/1: characters that no tokenizer can keep: {code}"


def test_characters_that_training_lacks_are_counted_by_utterances(tmp_path: Path) -> None:
    corpus = corpus_of(
        tmp_path / "corpus", train=["DON'T"], train_b=["STOP"], dev=["DON’T ’", "STOP’", "DON'T"], test=["STOP"]
    )
    assert unseen_characters(corpus) == {"dev": {"’": 2, " ": 1}}
    assert unseen_characters(corpus_of(tmp_path / "tests", test=["A"])) == {}


def test_texts_for_language_models_have_the_same_form(tmp_path: Path) -> None:
    (tmp_path / "lm.txt").write_text(f"\ufeffONE  TWO\n\n{DECOMPOSED}\tX\n", encoding="utf-8")
    assert read_texts(tmp_path / "lm.txt") == ["ONE TWO", f"{COMPOSED} X"]
    (tmp_path / "lm.txt").write_text("ONE\nT\aWO\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.text: .*lm\.txt:2: characters that no tokenizer can keep: U\+0007"):
        read_texts(tmp_path / "lm.txt")
