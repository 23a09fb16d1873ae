"""Every kind of tokenizer keeps the same promises."""

from __future__ import annotations

import io
import multiprocessing
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.text.tokenizer import BLANK, EOS, PAD, SOS, UNK, Tokenizer, cached_tokenizer
from trainables.errors import InputError

TEXTS = [
    "SHE HAD YOUR DARK SUIT IN GREASY WASH WATER ALL YEAR",
    "DON'T ASK ME TO CARRY AN OILY RAG LIKE THAT",
    "HER DARK SUIT WAS THERE ALL THE YEAR",
    "THE WATER IN THE DARK WASH WAS GREASY AND OILY",
]
CONFIGS = [
    TokenizerConfig(kind="char"),
    TokenizerConfig(kind="bpe", vocab_size=45),
    TokenizerConfig(kind="unigram", vocab_size=32),
]
every_kind = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
subwords = pytest.mark.parametrize("kind", ["bpe", "unigram"])


def round_trip(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    return [tokenizer.decode(ids) for ids in tokenizer.encode(texts)]


def limit(kind: str, vocab_size: int, texts: Iterable[str]) -> int:
    """The number at the end of the error that this size gives."""
    with pytest.raises(InputError) as error:
        Tokenizer.train(texts, TokenizerConfig.model_validate({"kind": kind, "vocab_size": vocab_size}))
    assert "tokenizer.vocab_size" in error.value.problem
    found = re.search(r"possible is (\d+)$", error.value.problem)
    assert found and found[1] in error.value.remedy
    return int(found[1])


def test_special_ids() -> None:
    assert (PAD, UNK, SOS, EOS, BLANK) == (0, 1, 2, 3, 4)


@every_kind
def test_vocabulary_counts_everything(config: TokenizerConfig) -> None:
    tokenizer = Tokenizer.train(TEXTS, config)
    assert tokenizer.vocab_size == (config.vocab_size or len(set("".join(TEXTS))) + 5)
    assert tokenizer.kind == config.kind
    assert tokenizer.vocabulary == (tokenizer.vocab_size, len(set("".join(TEXTS))))
    ids = {token for sequence in tokenizer.encode(TEXTS) for token in sequence}
    assert ids <= set(range(5, tokenizer.vocab_size))


@every_kind
def test_round_trip_of_text(config: TokenizerConfig) -> None:
    tokenizer = Tokenizer.train(TEXTS, config)
    texts = [
        *TEXTS,
        "",
        " ",
        "   ",
        " DARK",
        "  DARK",
        "DARK ",
        "DARK  SUIT",
        "'",
        "KRAD",
        *sorted(set("".join(TEXTS))),
    ]
    assert round_trip(tokenizer, texts) == texts


# Control characters, surrogates and the two characters that SentencePiece needs are refused, as tested below.
characters = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="▁▅")
training_texts = st.lists(st.text(st.one_of(st.sampled_from("ab <>"), characters), max_size=20), max_size=5)


@settings(max_examples=60, deadline=None)
@given(texts=training_texts, kind=st.sampled_from(["char", "bpe", "unigram"]), data=st.data())
def test_round_trip_of_every_string_of_training_characters(texts: list[str], kind: str, data: st.DataObject) -> None:
    texts = [*texts, "a b"]
    size = None if kind == "char" else 5 + len(set("".join(texts)))
    tokenizer = Tokenizer.train(texts, TokenizerConfig.model_validate({"kind": kind, "vocab_size": size}))
    assert tokenizer.vocab_size == 5 + len(set("".join(texts)))
    text = data.draw(st.text(sorted(set("".join(texts))), max_size=30))
    assert round_trip(tokenizer, [text, *texts]) == [text, *texts]
    assert UNK not in tokenizer.encode([text])[0]


@every_kind
def test_names_of_special_tokens_are_ordinary_text(config: TokenizerConfig) -> None:
    texts = [*TEXTS, "<unk> <s> </s> <pad> <blank>"]
    size = None if config.kind == "char" else 50
    tokenizer = Tokenizer.train(texts, config.model_copy(update={"vocab_size": size}))
    assert round_trip(tokenizer, texts) == texts


@every_kind
def test_each_unknown_character_is_one_unknown_token(config: TokenizerConfig) -> None:
    tokenizer = Tokenizer.train(TEXTS, config)
    for text in ["SHE ÉÉ HAD", "ÉSHE", "SHEÉ", "S▁E", "S▅E", "S\nE\t\x00", "S\ud800E", "É"]:
        unknown = [character for character in text if character not in "".join(TEXTS)]
        assert tokenizer.encode([text])[0].count(UNK) == len(unknown)
        assert round_trip(tokenizer, [text]) == ["".join(c for c in text if c not in unknown)]


@every_kind
def test_decode_drops_special_tokens(config: TokenizerConfig) -> None:
    tokenizer = Tokenizer.train(TEXTS, config)
    ids = tokenizer.encode(["DARK SUIT"])[0]
    assert tokenizer.decode([SOS, ids[0], BLANK, UNK, *ids[1:], EOS, PAD, PAD]) == "DARK SUIT"


@subwords
def test_a_word_has_the_same_pieces_everywhere(kind: str) -> None:
    tokenizer = Tokenizer.train(TEXTS, next(config for config in CONFIGS if config.kind == kind))
    first, second = tokenizer.encode(["DARK", "DARK DARK"])
    assert second == first + first


@subwords
@pytest.mark.parametrize("texts", [TEXTS, ["A B", "A", "BA  AB"], ["ABCDEF" * 10, "FED CBA"]], ids=range(3))
def test_limits_of_the_vocabulary_are_exact(kind: str, texts: list[str]) -> None:
    largest = limit(kind, 100_000, texts)
    assert limit(kind, largest + 1, texts) == largest
    smallest = len(set("".join(texts))) + 5
    for size in {smallest, (smallest + largest) // 2, largest}:
        config = TokenizerConfig.model_validate({"kind": kind, "vocab_size": size})
        tokenizer = Tokenizer.train(texts, config)
        assert tokenizer.vocab_size == size
        assert round_trip(tokenizer, texts) == texts
    if smallest > 8:  # the configuration itself refuses sizes below
        assert limit(kind, smallest - 1, texts) == smallest


@every_kind
@pytest.mark.parametrize("bad", ["▁", "▅", "\n", "\t", "\x00", "\x1f", "\ud800"])
def test_characters_that_cannot_be_kept_are_refused(config: TokenizerConfig, bad: str) -> None:
    with pytest.raises(InputError, match=rf"U\+{ord(bad):04X}"):
        Tokenizer.train([*TEXTS, f"A {bad}B"], config)


@every_kind
@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_an_error(config: TokenizerConfig, texts: list[str]) -> None:
    with pytest.raises(InputError, match="empty"):
        Tokenizer.train(texts, config)


@every_kind
def test_training_is_quiet_and_deterministic(config: TokenizerConfig, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = (Tokenizer.train(iter(TEXTS), config) for _ in range(2))
    assert first.content_hash == second.content_hash
    assert Tokenizer.train(TEXTS[1:], config).content_hash != first.content_hash
    assert capfd.readouterr() == ("", "")


@every_kind
def test_long_and_many_lines_all_count(config: TokenizerConfig) -> None:
    texts = [" ".join(TEXTS * 500) + " É", "Z" * 70_000 + "Ü", *TEXTS * 5000, "LAST Ñ"]
    tokenizer = Tokenizer.train(texts, config)
    for text in ["É", "Ü", "Ñ", texts[0]]:
        assert round_trip(tokenizer, [text]) == [text]


@every_kind
def test_save_and_load(config: TokenizerConfig, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, config)
    path = tmp_path / "tokenizer.model"
    path.write_text("what lay here before")
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert (loaded.kind, loaded.vocab_size, loaded.content_hash) == (
        config.kind,
        tokenizer.vocab_size,
        tokenizer.content_hash,
    )
    assert loaded.encode(TEXTS) == tokenizer.encode(TEXTS)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer.model"
    folder.mkdir()
    (folder / "file").touch()
    with pytest.raises(OSError):
        Tokenizer.train(TEXTS, CONFIGS[0]).save(folder)
    assert list(tmp_path.iterdir()) == [folder]


def foreign_model() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, model_type="char", vocab_size=30, minloglevel=2
    )
    return model.getvalue()


@pytest.mark.parametrize(
    "content", [None, b"", b"not a model", foreign_model()], ids=["missing", "empty", "text", "foreign"]
)
def test_a_file_that_is_no_tokenizer_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        Tokenizer.load(path)


@every_kind
def test_a_cached_tokenizer_is_trained_once(config: TokenizerConfig, tmp_path: Path) -> None:
    calls = []

    def texts() -> list[str]:
        calls.append(1)
        return TEXTS

    hashes = {cached_tokenizer(tmp_path, "0123456789abcdefGHI", texts, config).content_hash for _ in range(3)}
    assert hashes == {Tokenizer.train(TEXTS, config).content_hash}
    assert len(calls) == 1
    size = config.vocab_size or "all"
    assert list((tmp_path / "tokenizers").iterdir()) == [
        tmp_path / "tokenizers" / f"{config.kind}-{size}-0123456789abcdef.model"
    ]
    cached_tokenizer(tmp_path, "another corpus' hash", texts, config)
    assert len(calls) == 2


def test_a_corpus_that_cannot_be_written_to_has_tokenizers_too(tmp_path: Path) -> None:
    (tmp_path / "tokenizers").touch()  # a file where the folder should be
    assert cached_tokenizer(tmp_path, "key", lambda: TEXTS, CONFIGS[0]).kind == "char"


def content_hash(arguments: tuple[Path, Any]) -> str:
    folder, config = arguments
    return cached_tokenizer(folder, "key", lambda: TEXTS * 1000, config).content_hash


def test_processes_that_race_for_one_tokenizer_agree(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        assert len(set(pool.map(content_hash, [(tmp_path, CONFIGS[2])] * 8))) == 1
    assert len(list((tmp_path / "tokenizers").iterdir())) == 1


@pytest.mark.parametrize(
    "config", [CONFIGS[0], *(TokenizerConfig(kind=kind, vocab_size=100) for kind in ("bpe", "unigram"))]
)
def test_real_transcripts(config: TokenizerConfig, speech_data: Path) -> None:
    files = sorted((speech_data / "librispeech").rglob("*.trans.txt"))
    texts = [line.split(" ", 1)[1] for path in files for line in path.read_text().splitlines()]
    tokenizer = Tokenizer.train(texts, config)
    assert round_trip(tokenizer, texts) == texts
