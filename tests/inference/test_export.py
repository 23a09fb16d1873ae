"""What onnxruntime makes of an exported recogniser is what torch makes of it, whatever the configuration."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from tiny import Learned

from asr_platform.cli.main import cli
from trainables.config import Decoding, Features, Model
from trainables.config import Tokenizer as TokenizerConfig
from trainables.data.corpus import Corpus
from trainables.data.features import FeatureRecipe
from trainables.data.text.tokenizer import Tokenizer
from trainables.errors import InputError
from trainables.inference import export as exporting
from trainables.inference import onnx_transcribe
from trainables.inference.export import DECODER, ENCODER, SCRIPT, export, write_decoder, write_encoder
from trainables.inference.recognizer import Recognizer
from trainables.training.tasks import build_recognizer

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX graphs need it to run (a test dependency)")
pytest.importorskip("onnxscript", reason="torch exports to ONNX with it (a test dependency)")

LAYERS = {"model.encoder_layers": 1, "model.decoder_layers": 1}
# Together they have every choice that changes a graph; the exporter takes seconds for each.
ENCODERS: dict[str, dict[str, Any]] = {
    "conv": {"model.encoder_positions": "rotary", "features.normalization": "cepstral"},
    "conv2d": {"model.encoder_positions": "relative", "model.reduction_factor": 3, "model.activation": "relu"},
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
        "model.decoder_positions": "none", "model.qkv_bias": False,
    },
    "layer": {
        "model.norm": "layer", "model.qk_norm": "layer", "model.activation": "relu", "model.first_position": 3,
        "model.tied_embeddings": True, "model.scale_embeddings": False,
    },
    "rotary": {"model.decoder_positions": "rotary", "model.output_bias": True, "model.sinusoids": "concatenated"},
}  # fmt: skip
# Neither has the traced batch size, nor its lengths.
LENGTHS = [[37, 81, 3, 54], [1], [64, 64]]


def recognizer_of(leaves: dict[str, Any], corpus: Corpus) -> Recognizer:
    """An untrained one in which every parameter tells."""
    config = tiny.config({**LAYERS, **leaves})
    found = build_recognizer(config, corpus, corpus.training_split(), torch.device("cpu"))
    torch.manual_seed(0)
    for name, parameter in found.model.named_parameters():
        if parameter.dim() == 1 or "relative_bias" in name:
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3)
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
        found_BSD, found_B, found_BSV = run(tmp_path / ENCODER, features_BTF, lengths_B)
        assert torch.equal(found_B, state_lengths_B)
        for row, states in enumerate(state_lengths_B.tolist()):
            close(found_BSD[row, :states], states_BSD[row, :states])
            close(found_BSV[row, :states], recognizer.model.ctc_head(states_BSD[row, :states]))


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_every_decoder_is_the_same_in_onnxruntime(kind: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    recognizer = recognizer_of(DECODERS[kind], tiny_corpus)
    recognizer.model.decoder.lay_out_for_steps()  # as a loaded model's
    write_decoder(recognizer, tmp_path / DECODER)
    for lengths in LENGTHS:
        lengths_B = torch.tensor(lengths)
        states_BSD = torch.randn(len(lengths), max(lengths), recognizer.config.model.d_model)
        for count in (1, 7):
            tokens_BU = torch.randint(recognizer.tokenizer.vocab_size, (len(lengths), count))
            (found_BUV,) = run(tmp_path / DECODER, tokens_BU, states_BSD, lengths_B)
            close(found_BUV, recognizer.model.decoder(tokens_BU, states_BSD, lengths_B))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_no_choice_is_left_untried() -> None:
    """One that a later version offers has to be exported here, or refused."""
    encoders = [{"model.reduction": kind, **leaves} for kind, leaves in ENCODERS.items()]
    decoders: list[dict[str, Any]] = [{}, *DECODERS.values()]  # the first is in the folder below
    for key, tried in {
        "reduction": encoders,
        "encoder_positions": encoders,
        "encoder_block": encoders,
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
        field = section.model_fields[key]
        assert {each.get(f"{name}.{key}", field.default) for each in tried} >= set(get_args(field.annotation)), key


# The folder


@pytest.fixture(scope="module")
def exported(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser that transcribes the tiny corpus, exported by the command."""
    place = tmp_path_factory.mktemp("export")
    (place / "model").mkdir()
    learned.recognizer.save(place / "model")
    ended = CliRunner().invoke(cli, ["export", str(place / "model"), "--out", str(place / "onnx")])
    assert (ended.exit_code, ended.stderr) == (0, ""), ended.output
    assert ended.stdout.splitlines()[-1].split() == ["transcribe:", "python", str(place / "onnx" / SCRIPT), "FILE.wav"]
    return place / "onnx"


def speech(corpus: Corpus) -> list[np.ndarray]:
    """Features of the validation split."""
    split = corpus.split("dev")
    spans = zip(split.offsets, split.frames, strict=True)
    return [split.features[start : start + frames].float().numpy() for start, frames in spans]


def test_the_folder_is_whole(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "encoder.onnx", "decoder.onnx", "recognizer.json", "tokenizer.model", "transcribe.py",
    }  # fmt: skip
    assert sorted(path.name for path in exported.parent.iterdir()) == ["model", "onnx"]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_the_transcripts_are_those_of_greedy_search(
    penalty: float, learned: Learned, exported: Path, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    folder = changed(exported, tmp_path / "onnx", {"decoding": {"repeat_penalty": penalty}})
    search = learned.recognizer.search(Decoding(method="greedy", repeat_penalty=penalty))
    utterances = speech(tiny_corpus)
    expected = learned.recognizer.transcribe(utterances, search)
    assert len(set(expected)) > 5
    reader = onnx_transcribe.Recognizer(folder)
    assert [reader.transcribe(features) for features in utterances] == expected


def changed(exported: Path, folder: Path, sections: dict[str, dict[str, Any]]) -> Path:
    """A copy with another configuration."""
    shutil.copytree(exported, folder)
    about = json.loads((folder / "recognizer.json").read_text())
    for name, section in sections.items():
        about["config"][name] |= section
    (folder / "recognizer.json").write_text(json.dumps(about))
    return folder


def test_hypotheses_without_an_end_stop_where_ours_do(
    learned: Learned, exported: Path, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """With an end token that is never the likeliest."""
    folder = changed(exported, tmp_path / "onnx", {})
    about = json.loads((folder / "recognizer.json").read_text())
    about |= {"end": -1, "suppress_tokens": [*about["suppress_tokens"], 3]}
    (folder / "recognizer.json").write_text(json.dumps(about))
    features = speech(tiny_corpus)[0]
    text = onnx_transcribe.Recognizer(folder).transcribe(features)
    limit = np.ceil(len(features) * 1.25 * learned.recognizer.tokens_per_frame) + 10
    assert len(text) == limit


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_the_script_knows_every_kind_of_token(kind: str, exported: Path, tmp_path: Path) -> None:
    folder = changed(exported, tmp_path / "onnx", {"tokenizer": {"kind": kind}})
    texts = [*tiny.SENTENCES, " SPACE  BETWEEN "]
    tokenizer = Tokenizer.train(texts, TokenizerConfig.model_validate({"kind": kind, "vocab_size": size(kind)}))
    tokenizer.save(folder / "tokenizer.model")
    reader = onnx_transcribe.Recognizer(folder)
    assert [reader.text(tokens) for tokens in tokenizer.encode(texts)] == texts


def size(kind: str) -> int | None:
    return None if kind == "char" else 30


@pytest.mark.parametrize("name", ["hw4", "kaldi"])
def test_the_script_computes_the_same_features(name: str, exported: Path, tmp_path: Path) -> None:
    reader = onnx_transcribe.Recognizer(exported)
    recipe = FeatureRecipe.model_validate({"name": name})
    reader.about["recipe"] = recipe.model_dump(mode="json")
    samples = noise()
    np.testing.assert_allclose(reader.features(samples), recipe.compute(samples), atol=2e-3)


def noise() -> np.ndarray:
    """Half a second that grows louder."""
    random = np.random.default_rng(0)
    return (random.normal(0, 0.1, 8000) * np.linspace(0.01, 1, 8000)).astype(np.float32)


def test_the_script_needs_neither_torch_nor_this_package(learned: Learned, exported: Path, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((noise() * 2**15).astype("<i2").tobytes())
    absent = "import sys; sys.modules |= dict.fromkeys(['torch', 'trainables', 'asr_platform', 'onnx', 'soundfile'])"
    run = f"import runpy; runpy.run_path({str(exported / SCRIPT)!r}, run_name='__main__')"
    words = [sys.executable, "-c", f"{absent}; {run}", str(tmp_path / "noise.wav")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    recipe = learned.recognizer.recipe
    samples = (noise() * 2**15).astype("<i2").astype(np.float32) / 2**15
    (expected,) = learned.recognizer.transcribe([recipe.compute(samples)])
    assert done.stdout == f"{tmp_path / 'noise.wav'}\t{expected}\n"


def test_a_wav_file_of_another_rate_is_refused(exported: Path, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "low.wav"), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(bytes(100))
    with pytest.raises(SystemExit, match=r"low\.wav: not 16 kHz mono"):
        onnx_transcribe.read_wav(str(tmp_path / "low.wav"))


def test_a_folder_that_holds_something_is_left_alone(learned: Learned, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        export(learned.recognizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_missing_packages_are_named(learned: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PACKAGES", ("onnx", "nosuchpackage"))
    with pytest.raises(InputError, match="needs nosuchpackage") as error:
        export(learned.recognizer, tmp_path / "onnx")
    assert error.value.remedy == "pip install onnx nosuchpackage"
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(learned: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "write_encoder", lambda recognizer, path: path.write_bytes(b"half"))
    monkeypatch.setattr(exporting, "write_decoder", lambda recognizer, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(learned.recognizer, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []
