"""Text batches for language models, of a split's transcripts and of text files.

Shapes: N texts, B batch, U tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.data.batch_plan import Rows
from trainables.data.files import load_array, read_lines, visible
from trainables.data.text.tokenizer import EOS, PAD, SOS, Tokenizer
from trainables.data.text.transcripts import normalized, single_spaced, unusable
from trainables.errors import InputError
from trainables.masking import length_mask

REMEDY = "Set data.text to a text file with a sentence a line, or to a folder of .npy files with a text each."


def read_texts(path: Path) -> list[str]:
    """Texts of a UTF-8 file (one a line), or of a folder of `.npy` files (one a file, sorted by name).

    Texts are normalised like a corpus's transcripts. If the folder has a folder `train`, such as `hw4p1_data` of CMU
    11-785, only `train` is read.

    Raises:
        InputError: `path` does not exist, has no text, or a file of another kind; or a text has characters that no
            tokenizer can keep.
    """
    if (path / "train").is_dir():
        path = path / "train"
    if path.is_dir():
        found = ((str(file), _read_array(file)) for file in visible(path.glob("*.npy")))
    else:
        found = ((f"{path}:{number}", single_spaced(line)) for number, line in read_lines(path))
    try:
        texts = [_usable(text, place) for place, text in found if text]
    except InputError as error:
        raise InputError(f"data.text: {error.problem}", REMEDY) from None
    if not texts:
        raise InputError(f"data.text: {path}: no text in it", REMEDY)
    return texts


def _read_array(path: Path) -> str:
    """Text of a `.npy` file: an array of one string, or of one character an element."""
    array = load_array(path)
    if array.dtype.kind != "U":
        raise InputError(f"{path}: holds {array.dtype}, not text", REMEDY)
    return normalized("".join(array.ravel().tolist()))


def _usable(text: str, place: str) -> str:
    characters = unusable(text)
    if characters:
        raise InputError(f"{place}: characters that no tokenizer can keep: {', '.join(characters)}", REMEDY)
    return text


@dataclass(frozen=True)
class TextBatch:
    """A padded batch of token sequences; sequences with a weight of 0 only fill the batch."""

    inputs_BU: Tensor  # SOS and the text ("shifted" in CMU 11-785)
    targets_BU: Tensor  # the text and EOS ("golden" in CMU 11-785)
    target_lengths_B: Tensor  # including EOS
    weights_B: Tensor


class DeviceTexts:
    """Tokens of texts as one flat buffer on a device."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, device: torch.device) -> None:
        self.texts = texts
        self.device = device
        tokens = tokenizer.encode(texts)
        self.token_counts = np.array([len(ids) for ids in tokens], dtype=np.int64)
        flat = np.concatenate([np.array(ids, dtype=np.int64) for ids in tokens] or [np.zeros(0, dtype=np.int64)])
        self.tokens = torch.from_numpy(np.append(flat, PAD)).to(device)
        self.counts = torch.from_numpy(self.token_counts).to(device)
        self.offsets = torch.from_numpy(np.cumsum(self.token_counts) - self.token_counts).to(device)

    def gather(self, rows: Rows, edge: int) -> TextBatch:
        """Batch of the texts `rows`, padded to `edge` tokens including EOS."""
        index_B = rows.index_B
        counts_B = self.counts[index_B]
        tokens_BU = gather_rows(self.tokens, self.offsets[index_B], counts_B, edge)
        tokens_BU = torch.where(length_mask(counts_B, edge), tokens_BU, PAD)
        sos_B1 = torch.full_like(tokens_BU[:, :1], SOS)
        return TextBatch(
            inputs_BU=torch.cat([sos_B1, tokens_BU[:, :-1]], dim=1),
            targets_BU=tokens_BU.scatter(1, counts_B[:, None], EOS),
            target_lengths_B=counts_B + 1,
            weights_B=rows.weights_B,
        )


def gather_rows(flat: Tensor, offsets_B: Tensor, lengths_B: Tensor, width: int) -> Tensor:
    """Rows `offset .. offset + length - 1` of a flat buffer, (B, width, ...), each padded with its last element."""
    position_BW = torch.minimum(torch.arange(width, device=flat.device), (lengths_B - 1).clamp(min=0)[:, None])
    return flat[offsets_B[:, None] + position_BW]
