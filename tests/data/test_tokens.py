"""Tokens kept beside the tokenizer are those that encoding gives, for these texts and this tokenizer alone."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.corpus import Corpus
from trainables.data.text.token_batches import DeviceTexts
from trainables.data.text.tokenizer import EOS, FOLDER, PAD, SOS, Tokenizer
from trainables.data.text.tokens import tokens_of
from trainables.training.loop import train

TEXTS = [*tiny.SENTENCES, "", " A  B ", "Z"]
CHARACTERS = Tokenizer.train(tiny.SENTENCES, TokenizerConfig(kind="char"))
SUBWORDS = Tokenizer.train(tiny.SENTENCES * 9, TokenizerConfig(kind="bpe", vocab_size=20))


def rows(texts: Sequence[str], tokenizer: Tokenizer, folder: Path | None) -> list[list[int]]:
    ids, counts_N = tokens_of(texts, tokenizer, folder)
    return [part.tolist() for part in np.split(ids, np.cumsum(counts_N)[:-1])] if len(texts) else []


def files(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).iterdir())


class Untouchable:
    """A tokenizer that must not encode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.content_hash = tokenizer.content_hash


@pytest.mark.parametrize("tokenizer", [CHARACTERS, SUBWORDS], ids=["char", "bpe"])
def test_texts_are_encoded_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert rows(TEXTS, tokenizer, tmp_path) == tokenizer.encode(TEXTS)
    assert len(files(tmp_path)) == 1
    assert rows(TEXTS, Untouchable(tokenizer), tmp_path) == tokenizer.encode(TEXTS)  # type: ignore[arg-type]


def test_other_texts_and_other_tokenizers_have_files_of_their_own(tmp_path: Path) -> None:
    """Also texts that are the same once they are joined, and the same ones in another order."""
    others = [["AB", "C"], ["A", "BC"], ["ABC"], ["C", "AB"], ["AB", "C", ""], []]
    for number, texts in enumerate(others, start=1):
        for tokenizer in (CHARACTERS, SUBWORDS):
            assert rows(texts, tokenizer, tmp_path) == tokenizer.encode(texts)
        assert len(files(tmp_path)) == 2 * number


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "pickled", "other"])
def test_a_damaged_file_is_written_again(damage: str, tmp_path: Path) -> None:
    tokens_of(TEXTS, CHARACTERS, tmp_path)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "short":
            path.write_bytes(whole[: len(whole) // 2])
        case "flipped":
            ids = tokens_of(TEXTS, CHARACTERS).ids.tobytes()
            place = whole.index(ids) + 3
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        case "pickled":
            np.savez(path, ids=np.array([None]), counts=np.array([1]))
        case "other":
            np.savez(path, ids=np.arange(3), counts=np.full(len(TEXTS), 1))
    assert path.read_bytes() != whole
    assert rows(TEXTS, CHARACTERS, tmp_path) == CHARACTERS.encode(TEXTS)
    assert path.read_bytes() == whole and files(tmp_path) == [path]


def test_a_corpus_that_cannot_be_written_to_has_tokens_too(tmp_path: Path) -> None:
    (tmp_path / FOLDER).touch()  # a file where the folder should be
    assert rows(TEXTS, CHARACTERS, tmp_path) == CHARACTERS.encode(TEXTS)


def encoded(folder: Path) -> list[list[int]]:
    return rows(TEXTS * 300, SUBWORDS, folder)


def test_processes_that_write_at_once_agree(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(encoded, [tmp_path] * 6))
    assert all(one == SUBWORDS.encode(TEXTS * 300) for one in found)
    assert len(files(tmp_path)) == 1


@given(st.lists(st.text("ABCDEF Z", max_size=12), max_size=12))
def test_texts_on_a_device_lie_between_their_special_tokens(texts: list[str]) -> None:
    found, expected = DeviceTexts(texts, SUBWORDS, torch.device("cpu")), SUBWORDS.encode(texts)
    assert found.flat.tolist() == [token for ids in expected for token in (SOS, *ids, EOS, PAD)]
    assert found.token_counts.tolist() == [len(ids) for ids in expected]
    repeats = [sum(one == other for one, other in pairwise(ids)) for ids in expected]
    assert (found.ctc_frames - found.token_counts).tolist() == repeats


@pytest.mark.parametrize("leaves", [{}, {"model.kind": "language_model"}], ids=["recogniser", "language_model"])
def test_a_second_trial_reads_the_tokens_of_the_first(
    leaves: dict[str, str], tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """With the same curve; the folder of the corpus has two files: of the training split, and of the validation's."""
    shutil.copytree(tiny_corpus.path, tmp_path / "corpus", ignore=shutil.ignore_patterns(FOLDER))
    corpus, config, curves = Corpus.open(tmp_path / "corpus"), tiny.config({"training.epochs": 1, **leaves}), []
    for _ in range(2):
        recorder = tiny.Recorder()
        train(config, corpus, recorder)
        curves.append(recorder.comparable())
        kept = [path.stat().st_mtime_ns for path in files(corpus.path) if path.suffix == ".npz"]
        assert len(kept) == 2
        curves[-1].append({"written": kept})
    assert curves[0] == curves[1]
