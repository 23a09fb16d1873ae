"""Export of a recogniser as a `Speech2TextForConditionalGeneration` of transformers.

The folder has what `from_pretrained` reads (config.json, generation_config.json, model.safetensors), the tokenizer,
`recognizer.json`, and an example script, `transcribe.py` (a copy of speech2text_transcribe.py), with the module
`common.py`. The CTC head has no counterpart and stays behind.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainables.config.tree import Decoding
from trainables.data.corpus_writer import check_free
from trainables.data.text.tokenizer import EOS, PAD, SOS
from trainables.decoding.tokens import SUPPRESSED_TOKENS
from trainables.errors import InputError
from trainables.folders import replaced
from trainables.inference.export import ABOUT, COMMON, SCRIPT, about, common, searching_with, speech2text_transcribe
from trainables.inference.model_files import TOKENIZER
from trainables.inference.recognizer import Recognizer
from trainables.models.speech2text import speech2text_fields, to_speech2text, unlike_speech2text

SEARCHES = ("greedy", "beam")  # that transformers' `generate` has


def export_speech2text(recognizer: Recognizer, out: Path, decoding: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Writes a recogniser into a new folder, which appears only once it is complete.

    Args:
        decoding: decoding options that replace those of the model; `generate` searches with them.

    Raises:
        InputError: Speech2Text cannot express the model or search as asked, `out` is not empty, or transformers is not
            installed.
    """
    check_free(out)
    if importlib.util.find_spec("transformers") is None:
        raise InputError("exporting to transformers needs transformers", "pip install transformers")
    from transformers import GenerationConfig, Speech2TextForConditionalGeneration
    from transformers.utils import logging

    recognizer = searching_with(recognizer, decoding)
    model = Speech2TextForConditionalGeneration(equal_config(recognizer)).eval()
    model.load_state_dict(to_speech2text(recognizer.model.state_dict()))
    model.generation_config = GenerationConfig(**generation(recognizer.config.decoding))
    logging.disable_progress_bar()
    with replaced(out) as partial:
        model.save_pretrained(partial)
        recognizer.tokenizer.save(partial / TOKENIZER)
        statistics = {"mean": recognizer.mean.tolist(), "std": recognizer.std.tolist()}
        (partial / ABOUT).write_text(json.dumps(about(recognizer) | statistics, indent=2), encoding="utf-8")
        shutil.copyfile(common.__file__, partial / COMMON)
        shutil.copyfile(speech2text_transcribe.__file__, partial / SCRIPT)


def equal_config(recognizer: Recognizer) -> Any:
    """The `Speech2TextConfig` with which the recogniser's weights give its logits.

    Raises:
        InputError: there is none; the message lists the keys of the configuration that are in the way.
    """
    from transformers import Speech2TextConfig

    if recognizer.config.model.kind != "encoder_decoder":
        problem = f"Speech2Text has no {recognizer.config.model.kind}"
        raise InputError(problem, "Export it as ONNX graphs: leave --format out.")
    model, bins = recognizer.config.model, recognizer.config.features.num_feats or recognizer.recipe.bins
    theirs = Speech2TextConfig(
        **speech2text_fields(model, recognizer.tokenizer.vocab_size, bins),
        decoder_start_token_id=SOS,
        bos_token_id=SOS,
        eos_token_id=EOS,
    )
    if unlike := unlike_speech2text(model, theirs):
        raise InputError(
            f"Speech2Text cannot express this model: {'; '.join(unlike)}",
            "Train one with these keys of model as Speech2Text has them, or leave --format out for ONNX graphs.",
        )
    return theirs


def generation(decoding: Decoding) -> dict[str, Any]:
    """Options of transformers' `generate` for a search: a beam search in place of what it does not have."""
    beam = 1 if decoding.method in ("greedy", "ctc") else decoding.beam
    return {
        "num_beams": beam,
        "do_sample": False,
        "suppress_tokens": SUPPRESSED_TOKENS,
        "repetition_penalty": decoding.repeat_penalty,
        "decoder_start_token_id": SOS,
        "bos_token_id": SOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        **({"length_penalty": decoding.length_penalty, "early_stopping": "never"} if beam > 1 else {}),
    }


def missing_in_generate(decoding: Decoding) -> list[str]:
    """Parts of a search that transformers' `generate` cannot run, such as `hotwords`; empty if it can run all of it."""
    missing = {
        f"method {decoding.method}": decoding.method not in SEARCHES,
        "the language model": decoding.lm_weight > 0,
        "hotwords": bool(decoding.hotword_phrases),
        "a temperature in beam search": decoding.temperature != 1 and decoding.method != "greedy",
    }
    return [name for name, asked in missing.items() if asked]
