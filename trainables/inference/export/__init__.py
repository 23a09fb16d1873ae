"""Export of a recogniser as ONNX graphs, for programs without torch.

Beside the graphs the folder has the tokenizer, `recognizer.json`, and an example script, `transcribe.py` (a copy of
onnx_transcribe.py), with the module `common.py`.

An encoder-decoder has two graphs:

- `encoder.onnx`: `features` (batch, frames, bins), log-mel features of the recipe, and `lengths` (batch) in frames ->
  `states` (batch, states, width), `state_lengths` (batch), `ctc_logits` (batch, states, vocabulary), and `cross` (2 x
  layers, batch, heads, states, head width): keys, then values, of each decoder layer's cross-attention. The graph
  normalises the features.
- `decoder.onnx`, one step of a search: `tokens` (batch, hypotheses), the latest token of each hypothesis, at first the
  start token; `cache` (2 x layers, batch, hypotheses, heads, tokens, head width), keys and values of the tokens before
  it, at first of 0 tokens; `cross` and `state_lengths` -> `logits` (batch, hypotheses, vocabulary) of the token that
  follows, and `extended_cache`, the cache of the next step. If hypotheses of the next step continue others, index its
  third axis by them.

A transcript editor has three. The first two run once for an utterance, the last once for an editing step:

- `encoder.onnx`: `features` and `lengths`, as above -> `states` (batch, states, layers x width) of all layers that the
  projector reads, `state_lengths` (batch), `draft_logits` (batch, pooled states, vocabulary), `draft_lengths` (batch).
- `projector.onnx`: `states` and `state_lengths` -> `audio` (batch, audio positions, editor width), `audio_lengths`
  (batch). Positions behind an utterance's number are padding.
- `editor.onnx`: `audio` (1, audio positions, editor width) of one utterance without padding, and `tokens` (1, tokens),
  with a slot before, between and behind them -> `logits` (tokens, vocabulary). Argmax, merging of equal neighbours and
  dropping of slots give the edited tokens.

Floats are float32, integers int64. Batch sizes and lengths are free; values past a length have no influence.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainables.config.tree import Decoding
from trainables.data.corpus_writer import check_free
from trainables.data.text.tokenizer import BLANK, EOS, SOS
from trainables.decoding.tokens import SUPPRESSED_TOKENS
from trainables.errors import InputError
from trainables.folders import replaced
from trainables.inference.decoding_options import decoding_with
from trainables.inference.export import common, onnx_transcribe
from trainables.inference.export.graphs import (
    write_decoder,
    write_drafter,
    write_editor,
    write_encoder,
    write_projector,
)
from trainables.inference.model_files import TOKENIZER
from trainables.inference.recognizer import SPARE_RATE, SPARE_TOKENS, Recognizer
from trainables.models.editing.transcript_editor import TranscriptEditor

ENCODER, DECODER, PROJECTOR, EDITOR = "encoder.onnx", "decoder.onnx", "projector.onnx", "editor.onnx"
ABOUT, SCRIPT, COMMON = "recognizer.json", "transcribe.py", "common.py"
FORMAT = 2  # of `recognizer.json` and the graphs; new keys and outputs leave it as it is. 1: a decoder without a cache
PACKAGES = ("onnx", "onnxscript")  # used by torch's exporter
GRAPHS: dict[str, dict[str, Callable[[Recognizer, Path], None]]] = {
    "encoder_decoder": {ENCODER: write_encoder, DECODER: write_decoder},
    "transcript_editor": {ENCODER: write_drafter, PROJECTOR: write_projector, EDITOR: write_editor},
}
"""What writes each graph, by `model.kind` and file."""


def export(recognizer: Recognizer, out: Path, decoding: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Writes the graphs, tokenizer, `recognizer.json` and example script into a new folder.

    The folder appears only once it is complete.

    Args:
        recognizer: a recogniser on the CPU, where FlexAttention is SDPA.
        decoding: decoding options that replace those of the model; both are the defaults of the script's options.

    Raises:
        InputError: `out` is not empty, `decoding` does not fit the model, or a package that torch's exporter uses is
            not installed.
    """
    check_free(out)
    recognizer = searching_with(recognizer, decoding)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"exporting to ONNX needs {' and '.join(missing)}", f"pip install {' '.join(PACKAGES)}")
    with replaced(out) as partial:
        for name, write in GRAPHS[recognizer.config.model.kind].items():
            write(recognizer, partial / name)
        recognizer.tokenizer.save(partial / TOKENIZER)
        (partial / ABOUT).write_text(json.dumps(about(recognizer), indent=2), encoding="utf-8")
        shutil.copyfile(onnx_transcribe.__file__, partial / SCRIPT)
        shutil.copyfile(common.__file__, partial / COMMON)


def searching_with(recognizer: Recognizer, decoding: Mapping[str, Any]) -> Recognizer:
    """The recogniser with other decoding options.

    Args:
        decoding: new values of options by key.

    Raises:
        InputError: they do not fit the model.
    """
    chosen = decoding_with(recognizer.config, decoding)
    return replace(recognizer, config=recognizer.config.model_copy(update={"decoding": chosen}))


def missing_in_script(decoding: Decoding) -> list[str]:
    """Parts of a search that the example script cannot run, such as hotwords; empty if it can run all of it."""
    missing = {
        "the language model": decoding.lm_weight > 0,
        "hotwords": bool(decoding.hotword_phrases),
    }
    return [name for name, asked in missing.items() if asked]


def about(recognizer: Recognizer) -> dict[str, Any]:
    """Content of `recognizer.json`: what a program needs besides the graphs and the tokenizer.

    The section `decoding` of `config` says how to search; `blank` is the blank of CTC. A search, or an editing step,
    gives at most `tokens_per_frame` x frames + `spare_tokens` tokens, as in `Recognizer.decode`. A transcript editor
    takes `editing_steps` steps, whose tokens and slots fill `fewest_positions` at least.
    """
    model = recognizer.model
    if isinstance(model, TranscriptEditor):
        search = {
            "slot": model.slot,
            "fewest_positions": model.config.slots.minimum,
            "suppress_tokens": model.suppressed,
            "editing_steps": recognizer.config.decoding.editing_steps,
        }
    else:
        search = {
            "start": SOS,
            "end": EOS,
            "blank": BLANK,
            "suppress_tokens": SUPPRESSED_TOKENS,
        }
    return {
        "format": FORMAT,
        "tokens_per_frame": SPARE_RATE * recognizer.tokens_per_frame,
        "spare_tokens": SPARE_TOKENS,
        "kind": recognizer.config.model.kind,
        "recipe": recognizer.recipe.model_dump(mode="json"),
        **search,
        "parameters": recognizer.parameters,
        "corpus_hash": recognizer.corpus_hash,
        "config": recognizer.config.model_dump(mode="json"),
    }
