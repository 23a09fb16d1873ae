"""Examples of a validation for people to look at: transcripts with errors, and the attention of the decoder.

A checkpoint has them in three files, which loading a model does not need: `examples.json`, `attention.safetensors`, and
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
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.data.batch_plan import Rows
from trainables.data.batching import DeviceSplit
from trainables.data.text.tokenizer import EOS, SOS
from trainables.evaluation.metrics import Alignment, align_words
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_files import ERRORS
from trainables.inference.recognizer import Recognizer
from trainables.models.attention import attention_weights
from trainables.models.decoder import Decoder
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.models.speech_transformer import SpeechTransformer

EXAMPLES, ATTENTION = "examples.json", "attention.safetensors"
SLOT = "·"  # name of an editor's slots
WORST, SPREAD = 50, 50  # utterances kept: those with the most errors, and others evenly spread over the rest
MOST_FREQUENT = 20  # word errors kept


@dataclass(frozen=True)
class Example:
    """Reference and hypothesis of one utterance, and the number of character errors.

    Args:
        draft: the text that a transcript editor corrected; None for other models.
    """

    id: str
    seconds: float
    reference: str
    hypothesis: str
    errors: int
    draft: str | None = None


@dataclass(frozen=True)
class WordError:
    """A word error and its count in the split; `hypothesis` is empty for a deletion, `reference` for an insertion."""

    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True)
class Attention:
    """Attention weights for one utterance: of a decoder with the reference as its input, or of an editor's first step.

    Args:
        id: utterance ID.
        inputs: the U input tokens, from SOS on; of an editor, its text positions.
        targets: the token to predict after each input, up to EOS; of an editor, what it writes at each position.
        seconds_per_state: duration of an encoder state, or of an audio position.
        tokens_LHUU: self-attention weights over tokens; each row sums to 1, of an editor with that of `states_LHUS`.
        states_LHUS: attention weights over encoder states or audio positions.
        edits: whether it is of an editor.
    """

    id: str
    inputs: list[str]
    targets: list[str]
    seconds_per_state: float
    tokens_LHUU: Tensor
    states_LHUS: Tensor
    edits: bool = False


@dataclass(frozen=True)
class Examples:
    """Examples from the validation after an epoch.

    Args:
        transcripts: utterances with the most errors, and a sample of the others, by falling number of errors.
        word_errors: the most frequent word errors of the whole split.
        errors: error counts of every utterance of the split.
    """

    epoch: int
    split: str
    transcripts: list[Example]
    word_errors: list[WordError]
    attention: Attention
    errors: UtteranceErrors

    def save(self, folder: Path) -> None:
        """Writes `examples.json`, `attention.safetensors` and `errors.json` into an existing folder."""
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
        """The transcripts as a table: a list of values for each column name; drafts only where there are any."""
        table = {field.name: [getattr(item, field.name) for item in self.transcripts] for field in fields(Example)}
        return {name: values for name, values in table.items() if name != "draft" or any(values)}

    @classmethod
    def load(cls, folder: Path) -> Examples | None:
        """Examples saved in a folder; None where a file is missing or damaged."""
        errors = UtteranceErrors.load(folder / ERRORS)
        if errors is None:
            return None
        try:
            about: dict[str, Any] = json.loads((folder / EXAMPLES).read_text(encoding="utf-8"))
            tensors = load_file(str(folder / ATTENTION))
            return cls(
                about["epoch"],
                about["split"],
                [Example(**item) for item in about["transcripts"]],
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
    data: DeviceSplit,
    epoch: int,
    indices: Sequence[int],
    hypotheses: Sequence[str],
    attention: Attention,
    drafts: Sequence[str] | None = None,
) -> Examples:
    """Examples from a validation.

    Args:
        data: the validation split.
        indices: numbers of the split's utterances, in the order of `hypotheses` and `drafts`.
        drafts: the texts that a transcript editor corrected; None for other models.
    """
    split = data.split
    unknown: list[str | None] = [None] * len(indices)
    order = sorted(zip(indices, hypotheses, unknown if drafts is None else drafts, strict=True))
    rows, ordered = [index for index, *_ in order], [hypothesis for _, hypothesis, _ in order]
    texts = [(split.texts or [])[row] for row in rows]
    speakers = split.speakers and [split.speakers[row] for row in rows]
    aligned = align_words(texts, ordered)
    errors = UtteranceErrors.of(split.name, epoch, [split.ids[row] for row in rows], texts, ordered, speakers, aligned)
    return Examples(
        epoch,
        split.name,
        select(by_errors(errors, split.seconds[rows], [draft for *_, draft in order])),
        most_frequent(aligned),
        attention,
        errors,
    )


def median_utterance(data: DeviceSplit) -> int:
    """Number of the utterance of median length: plots of all epochs and trials show the same one."""
    return int(np.argsort(data.split.frames, kind="stable")[len(data.split) // 2])


def by_errors(errors: UtteranceErrors, seconds_N: np.ndarray, drafts: Sequence[str | None]) -> list[Example]:
    """All utterances by falling number of character errors; `seconds_N` are their durations."""
    columns = errors.ids, map(float, seconds_N), errors.references, errors.hypotheses, errors.character_errors, drafts
    return sorted(map(Example, *columns), key=lambda row: (-row.errors, row.id))


def select(rows: list[Example]) -> list[Example]:
    """The first `WORST` rows, then at most `SPREAD` rows at equal distances in the rest."""
    rest = rows[WORST:]
    places = np.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).round().astype(int)
    return rows[:WORST] + [rest[place] for place in places]


def most_frequent(alignments: list[Alignment]) -> list[WordError]:
    """The `MOST_FREQUENT` most frequent word errors of aligned utterances, by falling count."""
    counts = Counter(pair for alignment in alignments for pair in alignment if pair.operation != "equal")
    ranking = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [WordError(*pair, count) for pair, count in ranking[:MOST_FREQUENT]]


@torch.no_grad()
def decoder_attention(recognizer: Recognizer, data: DeviceSplit, index: int) -> Attention:
    """Attention weights for utterance number `index` of a split; the model must be in evaluation mode."""
    edge = int(data.split.frames[index])
    batch = data.gather(Rows.of(np.array([index]), data.device), edge)
    model = cast(SpeechTransformer, recognizer.model)
    with recognizer.autocast(), captured_attention(model.decoder) as (to_tokens, to_states):
        states_BSD, state_lengths_B = model.encoder(batch.features_BTF, batch.lengths_B)
        model.decoder(batch.inputs_BU, states_BSD, state_lengths_B)
    count = int(state_lengths_B)
    tokens = batch.inputs_BU[0, 1:].tolist()
    return Attention(
        data.split.ids[index],
        recognizer.tokenizer.names([SOS, *tokens]),
        recognizer.tokenizer.names([*tokens, EOS]),
        recognizer.recipe.hop_seconds * recognizer.config.model.reduction_factor,
        torch.cat([attention_weights(query, key, causal_mask(query)) for query, key in to_tokens]).cpu(),
        torch.cat([attention_weights(query, key[:, :, :count]) for query, key in to_states]).cpu(),
    )


@torch.no_grad()
def editor_attention(recognizer: Recognizer, data: DeviceSplit, index: int) -> Attention:
    """Attention weights of the first editing step for utterance number `index` of a split, in evaluation mode.

    A row is a text position: `inputs` are tokens of the draft and slots (`SLOT`), `targets` what the editor writes
    there. The weights of a row, those over text and those over audio positions together, sum to 1.
    """
    batch = data.gather(Rows.of(np.array([index]), data.device), int(data.split.frames[index]))
    model, weights = cast(TranscriptEditor, recognizer.model), []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights.append(attention_weights(query, key).cpu())
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    with recognizer.autocast():
        draft = model.encode(batch.features_BTF, batch.lengths_B)
        positions = model.positions(model.tokens(draft))
        audio_BAD, audio_lengths_B = model.projector(draft.states, draft.lengths_B)
        x_1ND, layout = model.editor.join(audio_BAD, audio_lengths_B, positions)
        y_1ND = model.editor.run(x_1ND, layout.position_N, attend)
    text_N = layout.text_N.cpu()
    weights_LHPN = torch.cat(weights)[:, :, text_N]
    shape, rows = recognizer.config.model, [positions.lists()[0]]
    rows.append(model.best(model.editor.logits(y_1ND[0, layout.text_N])).tolist())
    inputs, targets = (
        [SLOT if id == model.slot else name for id, name in zip(ids, recognizer.tokenizer.names(ids), strict=True)]
        for ids in rows
    )
    return Attention(
        data.split.ids[index],
        inputs,
        targets,
        recognizer.recipe.hop_seconds * shape.reduction_factor * shape.projector.reduction_factor,
        weights_LHPN[..., text_N],
        weights_LHPN[..., ~text_N],
        edits=True,
    )


QueriesAndKeys = list[tuple[Tensor, Tensor]]


@contextlib.contextmanager
def captured_attention(decoder: Decoder) -> Iterator[tuple[QueriesAndKeys, QueriesAndKeys]]:
    """Two lists that receive queries and keys of the self-attention and the cross-attention of each active layer.

    The fused attention kernels return no weights: `attention_weights` computes them from queries and keys.
    """
    to_tokens: QueriesAndKeys = []
    to_states: QueriesAndKeys = []

    def capture_self(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        query, key, _ = module.project(arguments[0])  # type: ignore[operator]
        to_tokens.append((query, key))

    def capture_cross(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x_BUD, (key, _) = arguments[:2]
        to_states.append((module.project_query(x_BUD), key))  # type: ignore[operator]

    with contextlib.ExitStack() as hooks:
        for layer in decoder.stack:
            hooks.enter_context(layer.self_attention.register_forward_pre_hook(capture_self))
            if layer.cross_attention is not None:
                hooks.enter_context(layer.cross_attention.register_forward_pre_hook(capture_cross))
        yield to_tokens, to_states


def causal_mask(query_BHQE: Tensor) -> Tensor:
    """Mask (Q, Q) to add to the scores of self-attention that does not look ahead."""
    count = query_BHQE.shape[2]
    return torch.full((count, count), -torch.inf, device=query_BHQE.device).triu(1)
