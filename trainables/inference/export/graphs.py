"""The networks of a recogniser as ONNX graphs; `export.py` lists their inputs and outputs.

Every shape in a graph follows from the shapes of its inputs, never from their values.

Shapes: B batch, T frames, S encoder states, P pooled states, A audio positions, U tokens, N positions of audio and
text, F mel bins, D width, V vocabulary; of a transcript editor: K encoder layers read by its projector; of a decoder:
K hypotheses of an utterance, L twice its layers (keys, then values of each), H heads, E head width.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.data.text.tokenizer import SOS
from trainables.inference.recognizer import Recognizer
from trainables.masking import score_mask
from trainables.models.decoder import Decoder
from trainables.models.editing.editor import Editor, attend_to_all
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.models.speech_transformer import SpeechTransformer

BATCH, FRAMES, TOKENS, HYPOTHESES = 2, 50, 5, 3  # sizes of the traced example


class EncoderGraph(nn.Module):
    """Normalisation, encoder and CTC head of an encoder-decoder, and the decoder's projections of the states."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.normalize = recognizer.normalizer()
        self.encoder, self.ctc_head = with_onnx_lstms(recognizer.model.encoder), recognizer.model.ctc_head
        self.decoder = cast(SpeechTransformer, recognizer.model).decoder

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features and lengths in frames -> states, their lengths, CTC logits (B, S, V), and keys and values of the
        decoder's cross-attention (L, B, H, S, E)."""
        states_BSD, state_lengths_B = self.encoder(self.normalize(features_BTF, lengths_B), lengths_B)
        projections = [layer.cross_attention for layer in self.decoder.stack if layer.cross_attention is not None]
        cross = [part for projection in projections for part in projection.project(states_BSD)]
        return states_BSD, state_lengths_B, self.ctc_head(states_BSD), torch.stack(cross)


class StepGraph(nn.Module):
    """One step of a decoder: the latest token of each hypothesis, with a cache of the tokens before it."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens_BK: Tensor, cache_LBKHUE: Tensor, cross_LBHSE: Tensor, state_lengths_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latest tokens, keys and values of the tokens before, those of the states and number of these -> logits of
        the next token (B, K, V), and the cache with one token more."""
        decoder, position = self.decoder, cache_LBKHUE.shape[4]
        mask_B11S = score_mask(state_lengths_B, cross_LBHSE.shape[3], cross_LBHSE.dtype)
        x_BKD = decoder.embedding(tokens_BK) * decoder.scale
        positions_1D, rotation = decoder.positions(1, position), decoder.rotation(1, position)
        if positions_1D is not None:
            x_BKD = x_BKD + positions_1D
        extended: list[Tensor] = []

        def attend(query_BHKE: Tensor, key_BHKE: Tensor, value_BHKE: Tensor) -> Tensor:
            if rotation is not None:
                query_BHKE, key_BHKE = rotation(query_BHKE), rotation(key_BHKE)
            for latest_BHKE in (key_BHKE, value_BHKE):
                before_BKHUE = cache_LBKHUE[len(extended)]
                extended.append(torch.cat([before_BKHUE, latest_BHKE.transpose(1, 2)[..., None, :]], dim=3))
            query_NH1E = query_BHKE.transpose(1, 2).flatten(0, 1)[:, :, None]
            key_NHUE, value_NHUE = (each.flatten(0, 1) for each in extended[-2:])
            found_NH1E = F.scaled_dot_product_attention(query_NH1E, key_NHUE, value_NHUE)
            return found_NH1E[:, :, 0].unflatten(0, tokens_BK.shape).transpose(1, 2)

        for index, layer in enumerate(decoder.stack):
            x_BKD = layer(x_BKD, attend, (cross_LBHSE[2 * index], cross_LBHSE[2 * index + 1]), mask_B11S)
        return decoder.logits(x_BKD), torch.stack(extended)


class DraftGraph(nn.Module):
    """Normalisation, encoder, mid head, pooling and head of the draft of a transcript editor as one module."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.normalize, self.model = recognizer.normalizer(), with_onnx_lstms(recognizer.model)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features and lengths in frames -> states of the layers read (B, S, K x D) and their lengths, logits of the
        draft (B, P, V) and their lengths."""
        model = cast(TranscriptEditor, self.model)
        draft = model.encode(self.normalize(features_BTF, lengths_B), lengths_B)
        return torch.cat(draft.states, dim=-1), draft.lengths_B, draft.logits_BPV, draft.pooled_lengths_B


class ProjectorGraph(nn.Module):
    """The projector of a transcript editor, with the states of all layers in one tensor."""

    def __init__(self, model: TranscriptEditor) -> None:
        super().__init__()
        self.projector, self.width = model.projector, model.config.d_model

    def forward(self, states_BSD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, K x D) and their lengths -> audio positions (B, A, D) and their number (B,)."""
        return self.projector(list(states_BSD.split(self.width, dim=-1)), lengths_B)


class EditorGraph(nn.Module):
    """The editor of a transcript editor, for one utterance without padding."""

    def __init__(self, editor: Editor) -> None:
        super().__init__()
        self.editor = editor

    def forward(self, audio_1AD: Tensor, tokens_1U: Tensor) -> Tensor:
        """Audio positions, and tokens and slots -> logits (U, V)."""
        x_1ND = torch.cat([audio_1AD, self.editor.embed(tokens_1U)], dim=1)
        position_N = torch.arange(x_1ND.shape[1], device=x_1ND.device)
        return self.editor.logits(self.editor.run(x_1ND, position_N, attend_to_all)[0, audio_1AD.shape[1] :])


class OnnxLSTM(nn.Module):
    """An LSTM of one layer and direction as ONNX's own operator.

    torch's exporter (2.13) unrolls `nn.LSTM` into a loop that is correct for the traced batch and length alone.
    """

    inputs: Tensor
    states: Tensor
    biases: Tensor

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size = lstm.hidden_size
        inputs, states, *biases = (in_onnx_order(weight.detach()) for weight in lstm.all_weights[0])
        self.register_buffer("inputs", inputs)
        self.register_buffer("states", states)
        self.register_buffer("biases", torch.cat(biases, dim=-1))

    def forward(self, x_BSF: Tensor) -> tuple[Tensor, None]:
        """(B, S, F) -> (B, S, hidden size), and None in place of the last state."""
        batch, length, _ = x_BSF.shape
        y_S1BD = torch.onnx.ops.symbolic(
            "LSTM",
            [x_BSF.transpose(0, 1), self.inputs, self.states, self.biases],
            {"hidden_size": self.hidden_size},
            dtype=x_BSF.dtype,
            shape=[length, 1, batch, self.hidden_size],
        )
        return y_S1BD[:, 0].transpose(0, 1), None


def in_onnx_order(weight: Tensor) -> Tensor:
    """Weights of the four gates, (4 x hidden size, ...), in ONNX's order, with a first axis for the direction."""
    input, forget, cell, output = weight.chunk(4)
    return torch.cat([input, output, forget, cell])[None]


def with_onnx_lstms(module: nn.Module) -> nn.Module:
    """A copy of a module with every `nn.LSTM` replaced by `OnnxLSTM`."""
    copied = copy.deepcopy(module)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.LSTM):
                setattr(parent, name, OnnxLSTM(child))
    return copied


def write_encoder(recognizer: Recognizer, path: Path) -> None:
    """Writes the graph of an encoder-decoder from features and their lengths to states, their lengths, CTC logits, and
    the keys and values of the decoder's cross-attention."""
    outputs = ["states", "state_lengths", "ctc_logits", "cross"]
    _write(EncoderGraph(recognizer), _features(recognizer), outputs, path)


def write_decoder(recognizer: Recognizer, path: Path) -> None:
    """Writes the graph of a step from the latest tokens, the cache, and `cross` and `state_lengths` of the encoder to
    the logits of the tokens that follow, and the cache after the step."""
    decoder = cast(SpeechTransformer, recognizer.model).decoder
    config, parts = decoder.config, 2 * len(decoder.stack)
    heads, width = config.heads, config.head_width
    inputs = {
        "tokens": (torch.full((BATCH, HYPOTHESES), SOS), ["batch", "hypotheses"]),
        "cache": (
            torch.zeros(parts, BATCH, HYPOTHESES, heads, TOKENS, width), ["", "batch", "hypotheses", "", "tokens"]
        ),
        "cross": (torch.zeros(parts, BATCH, heads, FRAMES, width), ["", "batch", "", "states"]),
        "state_lengths": (torch.full((BATCH,), FRAMES), ["batch"]),
    }  # fmt: skip
    _write(StepGraph(decoder), inputs, ["logits", "extended_cache"], path)


def write_drafter(recognizer: Recognizer, path: Path) -> None:
    """Writes the graph of a transcript editor from features and their lengths to the states that the projector reads,
    their lengths, the logits of the draft and their lengths."""
    outputs = ["states", "state_lengths", "draft_logits", "draft_lengths"]
    _write(DraftGraph(recognizer), _features(recognizer), outputs, path)


def write_projector(recognizer: Recognizer, path: Path) -> None:
    """Writes the graph from the states of a transcript editor and their lengths to audio positions and their number."""
    graph = ProjectorGraph(cast(TranscriptEditor, recognizer.model))
    width = len(graph.projector.norms) * graph.width
    _write(graph, _states(width), ["audio", "audio_lengths"], path)


def write_editor(recognizer: Recognizer, path: Path) -> None:
    """Writes the graph from the audio positions and tokens of one utterance to logits at the tokens' positions."""
    graph = EditorGraph(cast(TranscriptEditor, recognizer.model).editor)
    inputs = {
        "audio": (torch.zeros(1, FRAMES, graph.editor.config.d_model), ["", "audio"]),
        "tokens": (torch.full((1, TOKENS), SOS), ["", "tokens"]),
    }
    _write(graph, inputs, ["logits"], path)


Inputs = dict[str, tuple[Tensor, list[str]]]
"""Inputs of a graph by name, in order: an example, and the names of its first axes, whose sizes are free; an axis
without a name has the example's size."""


def _features(recognizer: Recognizer) -> Inputs:
    return {
        "features": (torch.zeros(BATCH, FRAMES, recognizer.recipe.bins), ["batch", "frames"]),
        "lengths": (torch.full((BATCH,), FRAMES), ["batch"]),
    }


def _states(width: int) -> Inputs:
    return {
        "states": (torch.zeros(BATCH, FRAMES, width), ["batch", "states"]),
        "state_lengths": (torch.full((BATCH,), FRAMES), ["batch"]),
    }


def _write(graph: nn.Module, inputs: Inputs, outputs: list[str], path: Path) -> None:
    """Exports a module, whose `forward` takes `inputs`, as one file."""
    free = tuple({axis: name for axis, name in enumerate(axes) if name} for _, axes in inputs.values())
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            graph.eval(),
            tuple(example for example, _ in inputs.values()),
            path,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=free,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
