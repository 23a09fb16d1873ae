"""Tokenizers by SentencePiece: characters, byte-pair merges and unigram models.

Five token ids are fixed in every tokenizer: padding, unknown, start, end, and the blank of CTC.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sentencepiece

from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.text.transcripts import RESERVED, SPACE, unusable
from trainables.errors import InputError
from trainables.folders import replaced_file

if TYPE_CHECKING:
    from trainables.data.corpus import Corpus, Split

PAD, UNK, SOS, EOS, BLANK = SPECIAL_IDS = tuple(range(5))

FOLDER = "tokenizers"  # of a corpus, with tokenizers and what they make of its texts
LONGEST_LINE = 1000  # characters; longer ones are split, since unigram training is quadratic in repetitive lines
UNLIMITED = 2**20  # vocabulary size beyond SentencePiece's 1,000,000 seed pieces


class Vocabulary(NamedTuple):
    """Sizes of a tokenizer's vocabulary, on which the sizes of a model depend.

    Args:
        tokens: number of tokens, special ones included.
        characters: number of tokens of one character, special ones excluded.
    """

    tokens: int
    characters: int


class Tokenizer:
    """A trained SentencePiece model.

    `decode(encode([text])[0]) == text` for every text of training characters, leading, trailing and repeated spaces
    included. Subword models add a space before each text, which `decode` removes, so that a word is encoded
    alike at the start of a text and inside it.

    Args:
        model: content of a model file that `train` made.
        source: name of the file in errors.

    Raises:
        InputError: `model` is not such a file.
    """

    kind: str
    vocab_size: int
    vocabulary: Vocabulary
    content_hash: str

    def __init__(self, model: bytes, source: str = "tokenizer") -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        except (RuntimeError, UnicodeDecodeError):
            raise InputError(f"{source}: not a SentencePiece model", "Make the file again, from its text.") from None
        kinds = [kind for kind in ("char", "bpe", "unigram") if pieces[: len(SPECIAL_IDS)] == _special_pieces(kind)]
        if not kinds:
            raise InputError(
                f"{source}: a SentencePiece model that was not trained here: its special tokens differ",
                "Train a tokenizer on the corpus instead.",
            )
        self._model = model
        self.kind = kinds[0]
        self.vocab_size = len(pieces)
        self.content_hash = hashlib.sha256(model).hexdigest()
        self._texts = [piece.replace(SPACE, " ") for piece in pieces]
        characters = sorted(text for text in self._texts if len(text) == 1)
        self._characters = {character: number for number, character in enumerate(characters, start=1)}
        self.vocabulary = Vocabulary(len(pieces), len(characters))
        self._unknown = re.compile(f"[^{''.join(re.escape(character) for character in characters)}]")

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
        """Trains a tokenizer on `texts`; equal texts in equal order give equal bytes.

        Raises:
            InputError: the texts are empty, have characters that no tokenizer can keep, or cannot give
                `config.vocab_size` tokens; the message names the largest or smallest possible size.
        """
        lines = list(_training_lines(texts, _prefix(config.kind)))
        if not lines:
            raise InputError("the training text is empty", "Give a training split that has transcripts.")
        if config.vocab_size is None:
            return cls(_train(lines, config.kind, use_all_vocab=True))
        asked = f"tokenizer.vocab_size={config.vocab_size} with kind={config.kind}"
        smallest = len(SPECIAL_IDS) + len(set().union(*lines))
        if config.vocab_size < smallest:
            raise InputError(
                f"{asked}: too small for the characters of the training text: the smallest possible is {smallest}",
                f"Set tokenizer.vocab_size to {smallest} or more.",
            )
        try:
            return cls(_train(lines, config.kind, vocab_size=config.vocab_size))
        except RuntimeError:
            # A model trained without a size to reach has as many tokens as the text can give.
            unlimited = _train(lines, config.kind, vocab_size=UNLIMITED, hard_vocab_limit=False)
            largest = cls(unlimited).vocab_size
            if config.vocab_size <= largest:
                raise
        raise InputError(
            f"{asked}: more than the training text can give: the largest possible is {largest}",
            f"Set tokenizer.vocab_size to {largest} or less, or use kind=char.",
        )

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads a tokenizer from the file that `save` wrote.

        Raises:
            InputError: the file is missing, or is not a tokenizer of this platform.
        """
        try:
            return cls(path.read_bytes(), str(path))
        except OSError as error:
            raise InputError(f"{path}: no tokenizer: {error.strerror}", "Restore the file or make it again.") from None

    def save(self, path: Path) -> None:
        """Writes the SentencePiece model to `path`, whole or not at all."""
        with replaced_file(path) as partial:
            partial.write_bytes(self._model)

    @property
    def texts(self) -> Sequence[str]:
        """Text of each token by id; those of special tokens are not of any transcript."""
        return self._texts

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without SOS and EOS; every character unseen in training is one UNK."""
        return [self._encode(_prefix(self.kind) + text) for text in texts]

    def _encode(self, text: str) -> list[int]:
        first, *others = (self._processor.encode(part) for part in self._unknown.split(text))
        return first + [token for part in others for token in (UNK, *part)]

    def spellings(self) -> list[list[int]]:
        """The characters of each token as numbers from 1 on, in sorted order; none for special tokens."""
        spelled = [[self._characters[character] for character in text] for text in self._texts[len(SPECIAL_IDS) :]]
        return [[] for _ in SPECIAL_IDS] + spelled

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a token sequence without its special tokens; decoding does not stop at EOS."""
        text = "".join(self._texts[i] for i in ids if i not in SPECIAL_IDS)
        return text.removeprefix(_prefix(self.kind))

    def names(self, ids: Iterable[int]) -> list[str]:
        """Text of each token for display; special tokens are shown as `<sos>` etc."""
        return [f"<{self._texts[i].strip(RESERVED)}>" if i in SPECIAL_IDS else self._texts[i] for i in ids]


def corpus_tokenizer(corpus: Corpus, split: Split, config: TokenizerConfig) -> Tokenizer:
    """Tokenizer of a training split, read from the corpus's folder or else trained on the split's transcripts.

    All folds of a split have the tokenizer of the whole split, so that their models and language models fit together.
    """
    split = corpus.undivided(split)
    key = hashlib.sha256(f"{corpus.hash}/{split.name}".encode()).hexdigest()
    return cached_tokenizer(corpus.path, key, lambda: split.texts or [], config)


def cached_tokenizer(folder: Path, key: str, texts: Callable[[], Iterable[str]], config: TokenizerConfig) -> Tokenizer:
    """Tokenizer for `texts` of a kind and size: trained once and kept in `folder/tokenizers`.

    Concurrent processes write equal files.

    Args:
        folder: folder of the corpus.
        key: hash that identifies `texts`.
        texts: returns the training transcripts; called only if the tokenizer must be trained.
    """
    size = "all" if config.vocab_size is None else config.vocab_size
    path = folder / FOLDER / f"{config.kind}-{size}-{key[:16]}.model"
    if path.exists():
        return Tokenizer.load(path)
    tokenizer = Tokenizer.train(texts(), config)
    with contextlib.suppress(OSError):  # a read-only corpus: every trial trains its own
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
    return tokenizer


def _prefix(kind: str) -> str:
    return "" if kind == "char" else " "


def _special_pieces(kind: str) -> list[str]:
    """Pieces of the special tokens, which no transcript can contain; the last one names the kind."""
    return [f"{RESERVED}{name}{RESERVED}" for name in ("pad", "unk", "sos", "eos", f"blank:{kind}")]


def _training_lines(texts: Iterable[str], prefix: str) -> Iterator[str]:
    """Lines for SentencePiece: the prefix and the text, split where they are too long."""
    for text in texts:
        found = ", ".join(unusable(text))
        if found:
            raise InputError(
                f"the training text {text[:80]!r} holds characters that a tokenizer cannot keep: {found}",
                "Remove control characters, U+2581 and U+2585 from the transcripts and prepare the corpus again.",
            )
        if text:
            line = prefix + text
            yield from (line[start : start + LONGEST_LINE] for start in range(0, len(line), LONGEST_LINE))


def _train(lines: list[str], kind: str, **options: Any) -> bytes:
    """Content of a model file, trained on unchanged lines in one thread: more threads would change the bytes."""
    pad, unk, sos, eos, blank = _special_pieces(kind)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=kind,
        pad_id=PAD,
        unk_id=UNK,
        bos_id=SOS,
        eos_id=EOS,
        pad_piece=pad,
        unk_piece=unk,
        bos_piece=sos,
        eos_piece=eos,
        control_symbols=[blank],  # takes the first free id, BLANK
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        character_coverage=1.0,
        max_sentence_length=8 * LONGEST_LINE,  # in bytes
        input_sentence_size=0,  # all of them
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()
