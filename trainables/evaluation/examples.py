"""What a validation saw, as plain data to be drawn: transcripts with their errors, and where the decoder looked.

A checkpoint carries it in three files, which no model needs: `examples.json`, `attention.safetensors`, and
`errors.json` with every utterance of the split (utterance_errors.py).

Shapes: L decoder layers, H heads, U tokens, S subsampled frames, E head width.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.data.batching import DeviceSplit
from trainables.data.text.tokenizer import EOS, SOS
from trainables.evaluation.metrics import Piece, align_words
from trainables.evaluation.utterance_errors import ERRORS, UtteranceErrors
from trainables.inference.recognizer import Recognizer
from trainables.models.decoder import Decoder

EXAMPLES, ATTENTION = "examples.json", "attention.safetensors"
WORST, SPREAD = 50, 50  # utterances kept: those with the most errors, and some evenly spread over the rest
COMMONEST = 20  # word errors kept


@dataclass(frozen=True)
class Transcript:
    """One utterance: what was said, what was understood, and in how many characters they differ."""

    id: str
    seconds: float
    reference: str
    hypothesis: str
    errors: int


@dataclass(frozen=True)
class WordError:
    """An error that occurred `count` times in the split; one side is empty where a word was left out or added."""

    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True)
class Attention:
    """Where the decoder looked in one utterance while it was given the reference, token by token.

    Args:
        id: the utterance.
        inputs: the U tokens given, from SOS on.
        targets: the token to say after each, up to EOS.
        seconds_per_state: the time that an encoder state stands for.
        tokens_LHUU: attention to the inputs; each row sums to 1.
        states_LHUS: attention to the encoder's states; each row sums to 1.
    """

    id: str
    inputs: list[str]
    targets: list[str]
    seconds_per_state: float
    tokens_LHUU: Tensor
    states_LHUS: Tensor


@dataclass(frozen=True)
class Examples:
    """What the validation after an epoch saw.

    Args:
        transcripts: the utterances with the most errors, then others evenly spread; by falling number of errors.
        word_errors: the commonest of the whole split.
        errors: those of every utterance.
    """

    epoch: int
    split: str
    transcripts: list[Transcript]
    word_errors: list[WordError]
    attention: Attention
    errors: UtteranceErrors

    def save(self, folder: Path) -> None:
        """Writes the three files into an existing folder."""
        attention = {key: value for key, value in vars(self.attention).items() if not isinstance(value, Tensor)}
        about = {
            "epoch": self.epoch,
            "split": self.split,
            "transcripts": [asdict(item) for item in self.transcripts],
            "word_errors": [asdict(item) for item in self.word_errors],
            "attention": attention,
        }
        (folder / EXAMPLES).write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
        # Pictures need no more than half precision.
        tensors = {"tokens": self.attention.tokens_LHUU.half(), "states": self.attention.states_LHUS.half()}
        save_file(tensors, str(folder / ATTENTION))
        self.errors.save(folder / ERRORS)

    def columns(self) -> dict[str, list[Any]]:
        """The transcripts as a table: a list for each column."""
        return {field.name: [getattr(item, field.name) for item in self.transcripts] for field in fields(Transcript)}

    @classmethod
    def load(cls, folder: Path) -> Examples | None:
        """Reads what `save` wrote; None where it is not there, or not whole: nothing depends on it."""
        errors = UtteranceErrors.load(folder / ERRORS)
        if errors is None:
            return None
        try:
            about: dict[str, Any] = json.loads((folder / EXAMPLES).read_text(encoding="utf-8"))
            tensors = load_file(str(folder / ATTENTION))
            return cls(
                about["epoch"],
                about["split"],
                [Transcript(**item) for item in about["transcripts"]],
                [WordError(**item) for item in about["word_errors"]],
                Attention(
                    **about["attention"],
                    tokens_LHUU=tensors["tokens"].float(),
                    states_LHUS=tensors["states"].float(),
                ),
                errors,
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None


def collect(
    recognizer: Recognizer, data: DeviceSplit, epoch: int, indices: Sequence[int], hypotheses: Sequence[str]
) -> Examples:
    """What is kept of a validation.

    The attention is that of the utterance of median length, to its reference: the same one after every epoch of every
    trial, so that pictures can be laid side by side.

    Args:
        data: the validation split.
        indices: its utterances in the order of `hypotheses`.
    """
    split = data.split
    median = int(np.argsort(split.frames, kind="stable")[len(split) // 2])
    order = sorted(zip(indices, hypotheses, strict=True))
    rows, heard = [index for index, _ in order], [hypothesis for _, hypothesis in order]
    texts = [(split.texts or [])[row] for row in rows]
    errors = UtteranceErrors.of(split.name, epoch, [split.ids[row] for row in rows], texts, heard)
    return Examples(
        epoch,
        split.name,
        chosen(transcripts(errors, split.seconds[rows])),
        commonest(align_words(texts, heard)),
        decoder_attention(recognizer, data, median),
        errors,
    )


def transcripts(errors: UtteranceErrors, seconds_N: np.ndarray) -> list[Transcript]:
    """All utterances by falling number of errors."""
    columns = errors.ids, map(float, seconds_N), errors.references, errors.hypotheses, errors.character_errors
    return sorted(map(Transcript, *columns), key=lambda row: (-row.errors, row.id))


def chosen(rows: list[Transcript]) -> list[Transcript]:
    """The first `WORST`, then at most `SPREAD` at even distances through the rest."""
    rest = rows[WORST:]
    places = np.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).round().astype(int)
    return rows[:WORST] + [rest[place] for place in places]


def commonest(aligned: list[list[Piece]]) -> list[WordError]:
    """The commonest word errors; of a substitution of several words, each with the one in its place."""
    counts: Counter[tuple[str, str]] = Counter()
    for piece in (piece for pieces in aligned for piece in pieces if piece.kind != "equal"):
        width = piece.errors
        reference, hypothesis = piece.reference or ("",) * width, piece.hypothesis or ("",) * width
        counts.update(zip(reference, hypothesis, strict=True))
    ranking = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [WordError(*words, count) for words, count in ranking[:COMMONEST]]


@torch.no_grad()
def decoder_attention(recognizer: Recognizer, data: DeviceSplit, index: int) -> Attention:
    """The decoder's attention weights for one utterance of a split; the model must be in evaluation mode."""
    edge = int(data.split.frames[index])
    batch = data.gather(np.array([index]), edge, np.ones(1, dtype=np.float32))
    model = recognizer.model
    with recognizer.autocast(), watched(model.decoder) as (to_tokens, to_states):
        states_BSD, state_lengths_B = model.encoder(batch.features_BTF, batch.lengths_B)
        model.decoder(batch.inputs_BU, states_BSD, state_lengths_B)
    count = int(state_lengths_B)
    tokens = batch.inputs_BU[0, 1:].tolist()
    return Attention(
        data.split.ids[index],
        recognizer.tokenizer.names([SOS, *tokens]),
        recognizer.tokenizer.names([*tokens, EOS]),
        recognizer.recipe.hop_seconds * recognizer.config.model.reduction_factor,
        torch.cat([attention_weights(query, key, causal=True) for query, key in to_tokens]).cpu(),
        torch.cat([attention_weights(query, key[:, :, :count]) for query, key in to_states]).cpu(),
    )


Seen = list[tuple[Tensor, Tensor]]


@contextlib.contextmanager
def watched(decoder: Decoder) -> Iterator[tuple[Seen, Seen]]:
    """Notes queries and keys of each layer that tokens pass through: of its self-attention, and its cross-attention.

    The fused kernels that the model runs do not give the weights themselves.
    """
    to_tokens: Seen = []
    to_states: Seen = []

    def note_tokens(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        query, key, _ = module.project(arguments[0])  # type: ignore[operator]
        to_tokens.append((query, key))

    def note_states(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x_BUD, (key, _) = arguments[:2]
        to_states.append((module.project_query(x_BUD), key))  # type: ignore[operator]

    with contextlib.ExitStack() as hooks:
        for layer in decoder.stack:
            hooks.enter_context(layer.self_attention.register_forward_pre_hook(note_tokens))
            if layer.cross_attention is not None:
                hooks.enter_context(layer.cross_attention.register_forward_pre_hook(note_states))
        yield to_tokens, to_states


def attention_weights(query_BHQE: Tensor, key_BHKE: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(E)), (B, H, Q, K) in float32 (Vaswani et al., 2017, arXiv 1706.03762, equation 1)."""
    scores_BHQK = query_BHQE.float() @ key_BHKE.float().transpose(-1, -2) / query_BHQE.shape[-1] ** 0.5
    if causal:
        hidden_QK = torch.ones(scores_BHQK.shape[-2:], dtype=torch.bool, device=scores_BHQK.device).triu(1)
        scores_BHQK = scores_BHQK.masked_fill(hidden_QK, -torch.inf)
    return scores_BHQK.softmax(-1)
