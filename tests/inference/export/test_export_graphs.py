"""What onnxruntime makes of an exported recogniser is what torch makes of it, whatever the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import tiny
import torch
from pydantic.fields import FieldInfo

from trainables.config.data import Features
from trainables.config.model import Editor, MidHead, Model, Pooling, Projector
from trainables.data.corpus import Corpus
from trainables.inference.export import DECODER, EDITOR, ENCODER, PROJECTOR
from trainables.inference.export.graphs import (
    write_decoder,
    write_drafter,
    write_editor,
    write_encoder,
    write_projector,
)
from trainables.inference.recognizer import Recognizer
from trainables.models.conformer import MaskedBatchNorm
from trainables.models.editing.slots import TokenRows
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.training.tasks import build_recognizer

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX graphs need it to run (a test dependency)")
pytest.importorskip("onnxscript", reason="torch exports to ONNX with it (a test dependency)")

LAYERS = {"model.encoder_layers": 1, "model.decoder_layers": 2}
# Together they have every choice that changes a graph; the exporter takes seconds for each.
ENCODERS: dict[str, dict[str, Any]] = {
    "conv": {
        "model.encoder_positions": "rotary",
        "features.normalization": "cepstral",
        "model.bin_reduction": 3,
    },
    "conv2d": {
        "model.encoder_positions": "relative",
        "model.reduction_factor": 3,
        "model.activation": "relu",
        "features.normalization": "sliding",
    },
    "lstm": {"model.encoder_positions": "sinusoidal", "model.first_position": 2, "model.scale_states": True},
    "both": {
        "model.encoder_positions": "none",
        "model.reduction_factor": 6,
        "features.normalization": "none",
        "model.encoder_block": "conformer",
        "model.context_size": 4,
    },
    "pool": {
        "model.encoder_positions": "relative_keys",
        "model.encoder_causal": True,
        "features.num_feats": 5,
        "model.reduction_factor": 8,
        "model.qk_norm": "layer",
        "model.gated": True,
    },
    "stack": {
        "model.encoder_positions": "transformer_xl",
        "model.frame_norm": "layer",
        "model.stack_bias": True,
        "model.norm_positions": True,
        "model.encoder_output": 24,
        "model.reduction_factor": 5,
        "model.stack_norm": "layer",
        "model.qk_norm": "rms",
        "model.norm": "rms",
        "model.embedding_norm": True,
    },
    "stack of another norm": {
        "model.reduction": "stack",
        "model.stack_norm": "rms",
        "model.attention": "flex",
        "model.frame_norm": "rms",
        "model.sinusoids": "concatenated",
    },
}
DECODERS: dict[str, dict[str, Any]] = {
    "rms": {
        "model.norm": "rms", "model.qk_norm": "rms", "model.activation": "silu", "model.gated": True,
        "model.decoder_positions": "none", "model.qkv_bias": False, "model.attention_multiplier": 0.3,
        "model.logits_scaling": 2.0,
    },
    "layer": {
        "model.norm": "layer", "model.qk_norm": "layer", "model.activation": "relu", "model.first_position": 3,
        "model.tied_embeddings": True, "model.scale_embeddings": False, "model.residual_multiplier": 0.5,
    },
    "rotary": {
        "model.decoder_positions": "rotary", "model.output_bias": True, "model.kv_heads": 1, "model.head_size": 10,
        "model.embedding_multiplier": 3.0, "model.rotary_base": 100.0,
    },
    "concatenated": {"model.sinusoids": "concatenated", "model.encoder_output": 24},
}  # fmt: skip
# Neither has the traced batch size, nor its lengths.
LENGTHS = [[37, 81, 3, 54], [1], [64, 64]]


def recognizer_of(leaves: dict[str, Any], corpus: Corpus) -> Recognizer:
    """An untrained one in which every parameter and every running statistic tells."""
    config = tiny.config({**LAYERS, **leaves})
    found = build_recognizer(config, corpus, corpus.training_split(), torch.device("cpu"))
    torch.manual_seed(0)
    for name, parameter in found.model.named_parameters():
        if parameter.dim() == 1 or "relative_bias" in name:
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3)
    for module in found.model.modules():
        if isinstance(module, MaskedBatchNorm):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    found.model.eval()
    return found


def run(path: Path, *inputs: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(path)
    names = [item.name for item in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, feeds)]


@pytest.mark.parametrize("kind", ENCODERS)
@torch.no_grad()
def test_every_encoder_is_the_same_in_onnxruntime(kind: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    recognizer = recognizer_of({"model.reduction": kind.partition(" ")[0], **ENCODERS[kind]}, tiny_corpus)
    write_encoder(recognizer, tmp_path / ENCODER)
    normalize = recognizer.normalizer()
    for lengths in LENGTHS:
        features_BTF, lengths_B = 20 * torch.randn(len(lengths), max(lengths), tiny.BINS) - 40, torch.tensor(lengths)
        states_BSD, state_lengths_B = recognizer.model.encoder(normalize(features_BTF, lengths_B), lengths_B)
        found_BSD, found_B, found_BSV, cross_LBHSE = run(tmp_path / ENCODER, features_BTF, lengths_B)
        assert torch.equal(found_B, state_lengths_B)
        for row, states in enumerate(state_lengths_B.tolist()):
            close(found_BSD[row, :states], states_BSD[row, :states])
            close(found_BSV[row, :states], recognizer.model.ctc_head(states_BSD[row, :states]))
            cache = recognizer.model.decoder.start(states_BSD[[row], :states], state_lengths_B[[row]], 1)
            close(cross_LBHSE[:, [row], :, :states], stacked(cache.cross))


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_every_decoder_takes_the_same_steps_in_onnxruntime(kind: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Steps with a cache, whose hypotheses follow others, give the logits of whole hypotheses without one."""
    recognizer = recognizer_of(DECODERS[kind], tiny_corpus)
    decoder, config = recognizer.model.decoder, recognizer.config.model
    decoder.lay_out_for_steps()  # as a loaded model's
    write_decoder(recognizer, tmp_path / DECODER)
    for lengths, beam in zip(LENGTHS, (2, 4, 1), strict=True):
        lengths_B, batch = torch.tensor(lengths), len(lengths)
        states_BSD = torch.randn(batch, max(lengths), config.states_width)
        cross_LBHSE = stacked(decoder.start(states_BSD, lengths_B, 1).cross)
        cache_LBKHUE = torch.zeros(len(cross_LBHSE), batch, beam, config.heads, 0, config.head_width)
        said_BKU = torch.empty(batch, beam, 0, dtype=torch.long)
        row_B1 = torch.arange(batch)[:, None]
        for _ in range(4):
            parents_BK, tokens_BK = (torch.randint(n, (batch, beam)) for n in (beam, recognizer.tokenizer.vocab_size))
            said_BKU = torch.cat([said_BKU[row_B1, parents_BK], tokens_BK[..., None]], -1)
            cache_LBKHUE = cache_LBKHUE[:, row_B1, parents_BK]
            logits_BKV, cache_LBKHUE = run(tmp_path / DECODER, tokens_BK, cache_LBKHUE, cross_LBHSE, lengths_B)
            repeated_NSD, repeated_N = states_BSD.repeat_interleave(beam, 0), lengths_B.repeat_interleave(beam)
            expected_NUV = decoder(said_BKU.flatten(0, 1), repeated_NSD, repeated_N)
            close(logits_BKV.flatten(0, 1), expected_NUV[:, -1])


def stacked(cross: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Keys and values of each layer in one tensor, as the graphs have them."""
    return torch.stack([part for pair in cross for part in pair])


# An editor's graphs: together they have every choice of its own keys; its encoder's positions are those above.
DRAFTERS: dict[str, dict[str, Any]] = {
    "conformer": {
        "model.encoder_block": "conformer", "model.context_size": 4, "model.encoder_positions": "relative_keys",
        "model.pooling.window": 3, "model.mid_head.layer": 2, "model.projector.states": (0, 2, 1),
    },
    "conformer of another norm": {
        "model.encoder_block": "conformer", "model.conv_norm": "rms", "model.encoder_positions": "transformer_xl",
        "model.encoder_layers": 1,
    },
    "conformer of a third norm": {
        "model.encoder_block": "conformer", "model.conv_norm": "layer", "model.conv_kernel": 4,
        "model.pooling.window": 1, "features.normalization": "none", "model.encoder_layers": 1,
    },
    "transformer": {
        "model.reduction": "lstm", "model.encoder_positions": "relative", "model.pooling.epsilon": 1e-8,
        "model.pooling.window": 7,
    },
}  # fmt: skip
PROJECTORS: dict[str, dict[str, Any]] = {
    "mask": {"model.projector.states": (1, 2)},
    "drop": {
        "model.projector.last_window": "drop", "model.projector.undo_multiplier": True,
        "model.editor.embedding_multiplier": 3.0, "model.projector.qkv_bias": False, "model.projector.bias": False,
        "model.projector.d_model": 24, "model.projector.heads": 3, "model.projector.layers": 1,
        "model.projector.window": 8, "model.projector.reduction_factor": 4,
    },
}  # fmt: skip
EDITORS: dict[str, dict[str, Any]] = {
    "rotary": {
        "model.editor.kv_heads": 1, "model.editor.rotary_base": 100.0, "model.editor.embedding_multiplier": 3.0,
        "model.editor.attention_multiplier": 0.3, "model.editor.residual_multiplier": 0.5,
        "model.editor.logits_scaling": 2.0, "model.editor.head_size": 10,
    },
    "sinusoidal": {
        "model.editor.positions": "sinusoidal", "model.editor.norm": "layer", "model.editor.activation": "relu",
        "model.editor.qk_norm": "layer", "model.editor.tied_embeddings": False, "model.editor.scale_embeddings": False,
    },
    "concatenated": {
        "model.editor.positions": "sinusoidal", "model.editor.sinusoids": "concatenated", "model.attention": "flex",
        "model.editor.attention": "flex",
        "model.d_model": 64, "model.editor.layers": 1,
    },
    "none": {
        "model.editor.positions": "none", "model.editor.activation": "gelu", "model.editor.gated": False,
        "model.editor.qk_norm": "rms", "model.editor.bias": True, "model.editor.qkv_bias": True,
    },
}  # fmt: skip
AUDIO_AND_TOKENS = [(7, 5), (1, 8), (40, 21), (0, 8), (3, 1)]


def editor_of(leaves: dict[str, Any], corpus: Corpus) -> tuple[Recognizer, TranscriptEditor]:
    """An untrained editor in which every parameter tells."""
    found = recognizer_of({**tiny.EDITING, "model.encoder_layers": 2, **leaves}, corpus)
    assert isinstance(found.model, TranscriptEditor)
    return found, found.model


@pytest.mark.parametrize("kind", DRAFTERS)
@torch.no_grad()
def test_every_encoder_drafts_the_same_in_onnxruntime(kind: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    recognizer, model = editor_of(DRAFTERS[kind], tiny_corpus)
    write_drafter(recognizer, tmp_path / ENCODER)
    normalize = recognizer.normalizer()
    for lengths in LENGTHS:
        features_BTF, lengths_B = 20 * torch.randn(len(lengths), max(lengths), tiny.BINS) - 40, torch.tensor(lengths)
        draft = model.encode(normalize(features_BTF, lengths_B), lengths_B)
        found_BSD, found_B, found_BPV, pooled_B = run(tmp_path / ENCODER, features_BTF, lengths_B)
        assert torch.equal(found_B, draft.lengths_B) and torch.equal(pooled_B, draft.pooled_lengths_B)
        for row, (states, pooled) in enumerate(zip(found_B.tolist(), pooled_B.tolist(), strict=True)):
            close(found_BSD[row, :states], torch.cat(draft.states, -1)[row, :states])
            close(found_BPV[row, :pooled], draft.logits_BPV[row, :pooled])


@pytest.mark.parametrize("kind", PROJECTORS)
@torch.no_grad()
def test_every_projector_is_the_same_in_onnxruntime(kind: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    recognizer, model = editor_of(PROJECTORS[kind], tiny_corpus)
    write_projector(recognizer, tmp_path / PROJECTOR)
    for lengths in LENGTHS:
        lengths_B = torch.tensor(lengths)
        states = [torch.randn(len(lengths), max(lengths), model.config.d_model) for _ in model.projector.norms]
        audio_BAD, audio_lengths_B = model.projector(states, lengths_B)
        found_BAD, found_B = run(tmp_path / PROJECTOR, torch.cat(states, -1), lengths_B)
        assert torch.equal(found_B, audio_lengths_B)
        for row, count in enumerate(found_B.tolist()):
            close(found_BAD[row, :count], audio_BAD[row, :count])


@pytest.mark.parametrize("kind", EDITORS)
@torch.no_grad()
def test_every_editor_is_the_same_in_onnxruntime(kind: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    """As is without audio, too, which is what a dropped last window can leave."""
    recognizer, model = editor_of(EDITORS[kind], tiny_corpus)
    write_editor(recognizer, tmp_path / EDITOR)
    for audio, count in AUDIO_AND_TOKENS:
        audio_1AD = torch.randn(1, audio, model.config.editor.d_model)
        tokens_1U = torch.randint(recognizer.tokenizer.vocab_size, (1, count))
        joined = model.editor.join(audio_1AD, torch.tensor([audio]), TokenRows(tokens_1U, torch.tensor([count])))
        (found_UV,) = run(tmp_path / EDITOR, audio_1AD, tokens_1U)
        close(found_UV, model.editor(*joined))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_no_choice_is_left_untried() -> None:
    """One that a later version offers has to be exported here, or refused."""
    encoders = [{"model.reduction": kind, **leaves} for kind, leaves in ENCODERS.items()]
    drafters = list(DRAFTERS.values())
    decoders: list[dict[str, Any]] = [{}, *DECODERS.values()]  # the first is in the folder below
    for key, tried in {
        "reduction": encoders,
        "encoder_positions": encoders,
        "encoder_block": encoders + drafters,
        "conv_norm": drafters,
        "sinusoids": encoders,
        "stack_norm": encoders,
        "frame_norm": encoders,
        "attention": encoders,
        "norm": decoders,
        "qk_norm": decoders,
        "activation": decoders,
        "decoder_positions": decoders,
        "normalization": encoders,
    }.items():
        section, name = (Features, "features") if key == "normalization" else (Model, "model")
        assert_all_tried(section.model_fields[key], f"{name}.{key}", tried)
    for name, section, tried in (
        ("mid_head", MidHead, drafters),
        ("pooling", Pooling, drafters),
        ("projector", Projector, list(PROJECTORS.values())),
        ("editor", Editor, list(EDITORS.values())),
    ):
        for key, field in section.model_fields.items():
            assert_all_tried(field, f"model.{name}.{key}", tried)


def assert_all_tried(field: FieldInfo, key: str, tried: list[dict[str, Any]]) -> None:
    """Every choice of a key, or both values of a flag, is its default or in one of the configurations."""
    choices = {True, False} if field.annotation is bool else set(get_args(field.annotation))
    if field.annotation is bool or get_origin(field.annotation) is Literal:
        assert {each.get(key, field.default) for each in tried} >= choices, key
