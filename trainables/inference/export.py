"""Export of a recogniser as ONNX graphs, for programs without torch.

Beside the two graphs the folder has the tokenizer, `recognizer.json`, and an example script, `transcribe.py` (a copy of
onnx_transcribe.py).

- `encoder.onnx`: `features` (batch, frames, bins), log-mel features of the recipe, and `lengths` (batch) in frames ->
  `states` (batch, states, width), `state_lengths` (batch), `ctc_logits` (batch, states, vocabulary). The graph
  normalises the features.
- `decoder.onnx`: `tokens` (batch, tokens), which are the start token and the tokens so far, `states` and
  `state_lengths` -> `logits` (batch, tokens, vocabulary) of the token that follows each. There is no cache: each step
  computes all tokens again, which keeps the interface to one call.

Floats are float32, integers int64. Batch sizes and lengths are free; values past a length have no influence.

Shapes: B batch, T frames, S subsampled frames, U tokens, F mel bins, D model width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables.data.corpus_writer import check_free
from trainables.data.text.tokenizer import EOS, SOS
from trainables.decoding.tokens import SUPPRESSED_TOKENS
from trainables.errors import InputError
from trainables.folders import replaced
from trainables.inference import onnx_transcribe
from trainables.inference.model_directory import TOKENIZER
from trainables.inference.recognizer import SPARE_RATE, SPARE_TOKENS, Recognizer
from trainables.models.speech_transformer import SpeechTransformer

ENCODER, DECODER, ABOUT, SCRIPT = "encoder.onnx", "decoder.onnx", "recognizer.json", "transcribe.py"
FORMAT = 1
PACKAGES = ("onnx", "onnxscript")  # used by torch's exporter
BATCH, FRAMES, TOKENS = 2, 50, 5  # sizes of the traced example


class EncoderGraph(nn.Module):
    """Normalisation, encoder and CTC head of a recogniser as one module."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.normalize = recognizer.normalizer()
        self.encoder, self.ctc_head = with_onnx_lstms(recognizer.model.encoder), recognizer.model.ctc_head

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features and lengths in frames -> states, their lengths and CTC logits (B, S, V)."""
        states_BSD, state_lengths_B = self.encoder(self.normalize(features_BTF, lengths_B), lengths_B)
        return states_BSD, state_lengths_B, self.ctc_head(states_BSD)


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


def export(recognizer: Recognizer, out: Path) -> None:
    """Writes the graphs, tokenizer, `recognizer.json` and example script into a new folder.

    The folder appears only once it is complete.

    Args:
        recognizer: a recogniser on the CPU, where FlexAttention is SDPA.

    Raises:
        InputError: `out` is not empty, or a package that torch's exporter uses is not installed.
    """
    check_free(out)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"exporting to ONNX needs {' and '.join(missing)}", f"pip install {' '.join(PACKAGES)}")
    with replaced(out) as partial:
        write_encoder(recognizer, partial / ENCODER)
        write_decoder(recognizer, partial / DECODER)
        recognizer.tokenizer.save(partial / TOKENIZER)
        (partial / ABOUT).write_text(json.dumps(about(recognizer), indent=2), encoding="utf-8")
        shutil.copyfile(onnx_transcribe.__file__, partial / SCRIPT)


def about(recognizer: Recognizer) -> dict[str, Any]:
    """Content of `recognizer.json`: what a program needs besides the graphs and the tokenizer.

    A hypothesis has at most `tokens_per_frame` x frames + `spare_tokens` tokens, as in `Recognizer.decode`.
    """
    return {
        "format": FORMAT,
        "recipe": recognizer.recipe.model_dump(mode="json"),
        "start": SOS,
        "end": EOS,
        "suppress_tokens": SUPPRESSED_TOKENS,
        "never_said": SUPPRESSED_TOKENS,  # former name, for programs written for earlier exports
        "tokens_per_frame": SPARE_RATE * recognizer.tokens_per_frame,
        "spare_tokens": SPARE_TOKENS,
        "parameters": recognizer.parameters,
        "corpus_hash": recognizer.corpus_hash,
        "config": recognizer.config.model_dump(mode="json"),
    }


def write_encoder(recognizer: Recognizer, path: Path) -> None:
    """Writes the graph from features and their lengths to states, their lengths and CTC logits."""
    inputs = {
        "features": (torch.zeros(BATCH, FRAMES, recognizer.recipe.bins), ["batch", "frames"]),
        "lengths": (torch.full((BATCH,), FRAMES), ["batch"]),
    }
    _write(EncoderGraph(recognizer), inputs, ["states", "state_lengths", "ctc_logits"], path)


def write_decoder(recognizer: Recognizer, path: Path) -> None:
    """Writes the graph from tokens, states and their lengths to the logits of the token that follows each token."""
    inputs = {
        "tokens": (torch.full((BATCH, TOKENS), SOS), ["batch", "tokens"]),
        "states": (torch.zeros(BATCH, FRAMES, recognizer.config.model.states_width), ["batch", "states"]),
        "state_lengths": (torch.full((BATCH,), FRAMES), ["batch"]),
    }
    _write(cast(SpeechTransformer, recognizer.model).decoder, inputs, ["logits"], path)


def _write(graph: nn.Module, inputs: dict[str, tuple[Tensor, list[str]]], outputs: list[str], path: Path) -> None:
    """Exports a module as one file.

    Args:
        inputs: by name, in the order of `forward`, an example and the names of its first axes, whose sizes are free.
    """
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            graph.eval(),
            tuple(example for example, _ in inputs.values()),
            path,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(dict(enumerate(axes)) for _, axes in inputs.values()),
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
