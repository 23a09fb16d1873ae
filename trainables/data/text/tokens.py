"""Tokens of a split's texts, kept beside the tokenizer: encoding 281,241 transcripts takes seconds in every trial."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainables.data.text.tokenizer import FOLDER, Tokenizer
from trainables.folders import replaced_file


class Tokens(NamedTuple):
    """Tokens of N texts without SOS and EOS.

    Attributes:
        ids: tokens of all texts, one text after the other, in the smallest type that has room for the vocabulary.
        counts_N: number of tokens of each text.
    """

    ids: npt.NDArray[np.unsignedinteger[Any]]
    counts_N: npt.NDArray[np.int64]


def tokens_of(texts: Sequence[str], tokenizer: Tokenizer, folder: Path | None = None) -> Tokens:
    """Tokens of texts, read from the folder of a corpus if they are there, else computed and written there.

    The file's name has the hashes of tokenizer and texts, so the parts of a split have files of their own, and so has
    any further text. Concurrent processes write equal files. A damaged file is written again.

    Args:
        folder: folder of the corpus; None, or one that cannot be written to: nothing is kept.
    """
    if folder is None:
        return _encoded(texts, tokenizer)
    path = folder / FOLDER / f"{tokenizer.content_hash[:16]}-{_hash(texts)[:16]}.npz"
    tokens = _read(path, len(texts))
    if tokens is None:
        tokens = _encoded(texts, tokenizer)
        _write(path, tokens)
    return tokens


def _encoded(texts: Sequence[str], tokenizer: Tokenizer) -> Tokens:
    rows = tokenizer.encode(texts)
    counts_N = np.array([len(row) for row in rows], dtype=np.int64)
    kind = np.min_scalar_type(tokenizer.vocab_size)
    return Tokens(np.fromiter(chain.from_iterable(rows), kind, int(counts_N.sum())), counts_N)


def _hash(texts: Sequence[str]) -> str:
    """Hash of texts, each with its length in bytes."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode(errors="surrogatepass")
        digest.update(b"%d:%b" % (len(content), content))
    return digest.hexdigest()


def _read(path: Path, texts: int) -> Tokens | None:
    """Tokens of so many texts in a file; None where there are none, or where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            tokens = Tokens(arrays["ids"], arrays["counts"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return tokens if len(tokens.counts_N) == texts and tokens.counts_N.sum() == len(tokens.ids) else None


def _write(path: Path, tokens: Tokens) -> None:
    with contextlib.suppress(OSError):  # a read-only corpus, or a full disk: every trial encodes for itself
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as partial, partial.open("wb") as file:
            np.savez(file, ids=tokens.ids, counts=tokens.counts_N)
