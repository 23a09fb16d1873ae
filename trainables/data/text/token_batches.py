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
from trainables.data.text.tokens import tokens_of
from trainables.data.text.transcripts import normalized, single_spaced, unusable
from trainables.errors import InputError
from trainables.masking import positions

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
    """Tokens of texts as one flat buffer on a device.

    Args:
        folder: folder of the corpus in which their tokens are kept (see `tokens_of`); None: they are not.

    Attributes:
        token_counts: (N,) tokens of each text, without EOS.
        ctc_frames: (N,) states that CTC needs for each text: its tokens, and a blank between equal neighbours.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: Tokenizer, device: torch.device, folder: Path | None = None
    ) -> None:
        self.texts = texts
        self.device = device
        ids, self.token_counts = tokens_of(texts, tokenizer, folder)
        # Each text between SOS and EOS, and a PAD that is read again and again.
        ends_N = np.cumsum(self.token_counts + 3)
        flat = np.full(len(ids) + 3 * len(texts), -1)
        for special, places_N in ((SOS, ends_N - self.token_counts - 3), (EOS, ends_N - 2), (PAD, ends_N - 1)):
            flat[places_N] = special
        flat[flat < 0] = ids
        extents_N3 = np.stack([ends_N - self.token_counts - 3, ends_N - 1, self.token_counts + 1], 1)
        self.flat, self.extents_N3 = torch.from_numpy(flat).to(device), torch.from_numpy(extents_N3).to(device)
        repeats = np.append(0, np.cumsum(flat[1:] == flat[:-1]))  # PAD, SOS and EOS repeat none
        self.ctc_frames = self.token_counts + repeats[ends_N - 2] - repeats[ends_N - self.token_counts - 3]

    def gather(self, rows: Rows, edge: int) -> TextBatch:
        """Batch of the texts `rows`, padded to `edge` tokens including EOS."""
        first_B, last_B, lengths_B = self.extents_N3[rows.index_B].unbind(1)
        places_BU = torch.minimum(first_B[:, None] + positions(edge + 1, self.device), last_B[:, None])
        tokens_BU = self.flat[places_BU]
        return TextBatch(
            inputs_BU=tokens_BU[:, :-1].masked_fill(tokens_BU[:, :-1] == EOS, PAD),
            targets_BU=tokens_BU[:, 1:].contiguous(),
            target_lengths_B=lengths_B,
            weights_B=rows.weights_B,
        )


def gather_rows(flat: Tensor, offsets_B: Tensor, lengths_B: Tensor, width: int) -> Tensor:
    """Rows `offset .. offset + length - 1` of a flat buffer, (B, width, ...), each padded with its last element."""
    position_BW = torch.minimum(positions(width, flat.device), (lengths_B - 1).clamp(min=0)[:, None])
    return flat[offsets_B[:, None] + position_BW]
