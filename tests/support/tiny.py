"""Corpora and configurations so small that a test trains on them in a second.

The speech is made up: each character has its own fixed spectrum, which lasts a few frames above a noise floor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

import numpy as np
import numpy.typing as npt
import torch

from trainables.checksums import CHECKSUMS
from trainables.config.parsing import FORMER_VALUES, flatten, parse_config, unflatten
from trainables.config.tree import Config, Model
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.features import FeatureRecipe
from trainables.data.text.tokenizer import Tokenizer
from trainables.decoding import Word
from trainables.inference.language_model import TextModel
from trainables.inference.model_directory import TrainedModel
from trainables.inference.model_files import CONFIG
from trainables.inference.recognizer import Recognizer
from trainables.inference.words import words_of
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.models.speech_transformer import LanguageModel, SpeechTransformer
from trainables.training.loop import Metrics, Save, train

AnyModule = TypeVar("AnyModule", bound=torch.nn.Module)
BINS = 8
RECIPE = FeatureRecipe(name="kaldi", bins=BINS)
FRAMES_PER_CHARACTER = (5, 8)
SENTENCES = ["A BAD CAB", "BEAD", "A FACE", "CAFE", "DEAF BEE", "ACE", "FADE A BEAD", "CAB", "BAD FACE", "DAB A BEE"]
VOCABULARY, CHARACTERS = 20, 6
CLOCK = {
    "train_seconds", "validation_seconds", "audio_seconds_per_second", "real_time_factor", "real_time_factor_alone",
    "cpu_utilization", "memory_gb", "tokens_per_second",
}  # fmt: skip


TREE: dict[str, Any] = {
    "model": {
        "d_model": 32,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "feed_forward": 48,
        "conv_channels": 16,
        "dropout": 0.0,
    },
    "loss": {"label_smoothing": 0.0, "ctc_weight": 0.3},
    "training": {"epochs": 3, "update_seconds": 4.0, "precision": "float32"},
}
# Beginning of a search space of such runs, which differ in the learning rate alone.
SPACE = """
base:
  model: {d_model: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, feed_forward: 48, conv_channels: 16}
  training: {update_seconds: 4.0}
vary:
  optimizer.lr: {log: [1.0e-3, 1.0e-2]}
"""
# A transcript editor's own part of the model section; the widths of its three parts differ.
EDITOR: dict[str, Any] = {
    "kind": "transcript_editor",
    "mid_head": {"layer": 1, "dropout": 0.0},
    "projector": {"d_model": 20, "heads": 2, "layers": 1},
    "editor": {"d_model": 24, "heads": 4, "kv_heads": 2, "feed_forward": 40, "layers": 2, "dropout": 0.0},
}
# Leaves of a run in which a transcript editor learns.
EDITING: dict[str, Any] = {
    "model.kind": "transcript_editor",
    "model.editor.d_model": 32,
    "model.editor.heads": 2,
    "model.editor.feed_forward": 48,
    "model.editor.dropout": 0.0,
    "model.mid_head.dropout": 0.0,
    "model.pooling.window": 2,
    "model.projector.layers": 1,
    "model.projector.window": 6,
    "model.projector.reduction_factor": 3,
}
CONFORMER: dict[str, Any] = {"model.encoder_block": "conformer", "model.conv_kernel": 5}
# What draws random numbers in training; with other voices, rooms and noise, all that does.
MASKED: dict[str, Any] = {
    "model.dropout": 0.1,
    "model.layer_drop": 0.2,
    "specaugment.frequency_masks": 1,
    "specaugment.frequency_width": 2,
    "specaugment.time_masks": 2,
    "specaugment.time_width": 0.1,
}
RANDOM: dict[str, Any] = {
    **MASKED,
    "augmentation.vocal_tract": 0.1,
    "augmentation.gain": 3.0,
    "augmentation.noise_share": 0.5,
    "augmentation.reverberation_share": 0.5,
}


def timeless(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same however busy the machine is."""
    return {key: value for key, value in metrics.items() if key not in CLOCK}


def config(leaves: Mapping[str, Any] | None = None) -> Config:
    """A tiny run, with the leaves given, such as `{"model.dropout": 0.1}`, in place of its own."""
    return parse_config(unflatten(dict(flatten(TREE)) | dict(leaves or {})), "test")


def shape(**fields: Any) -> Model:
    """A tiny model section."""
    return Model.model_validate({**TREE["model"], **fields})


def editor_shape(**fields: Any) -> Model:
    """A tiny model section of a transcript editor; a section given, such as `editor`, adds to the tiny one."""
    for section, keys in EDITOR.items():
        fields[section] = {**keys, **fields.get(section, {})} if isinstance(keys, dict) else keys
    return shape(**fields)


def choices(key: str) -> list[Any]:
    """The values of a key of the model section; empty for a key that is no choice, such as a number."""
    annotation = Model.model_fields[key].annotation
    return list(get_args(annotation)) if get_origin(annotation) is Literal else []


def model(seed: int = 0, **fields: Any) -> SpeechTransformer:
    """An untrained model of `VOCABULARY` tokens in evaluation mode, with every bias drawn at random."""
    torch.manual_seed(seed)
    return randomized(SpeechTransformer(shape(**fields), VOCABULARY, BINS))


def editor(seed: int = 0, **fields: Any) -> TranscriptEditor:
    """An untrained transcript editor of `editor_shape`, `VOCABULARY` tokens and `CHARACTERS`, like `model`."""
    torch.manual_seed(seed)
    return randomized(TranscriptEditor(editor_shape(**fields), VOCABULARY, CHARACTERS, BINS))


def randomized(module: AnyModule) -> AnyModule:
    """The module in evaluation mode with every bias drawn at random: at their initial values a mistake hides."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return module.eval()


def utterance(text: str, random: np.random.Generator, bins: int = BINS) -> npt.NDArray[np.float32]:
    """Features (T, F) in dB of a made-up voice that says `text`."""
    frames = []
    for character in text:
        spectrum = np.random.default_rng(ord(character)).normal(0, 10, bins)
        frames.append(np.repeat(spectrum[None], random.integers(*FRAMES_PER_CHARACTER, endpoint=True), axis=0))
    speech = np.concatenate(frames)
    return (speech - 40 + random.normal(0, 3, speech.shape)).astype(np.float32)


def write_corpus(
    folder: Path,
    splits: Mapping[str, Sequence[str | tuple[str, str]]],
    bins: int = BINS,
    seed: int = 0,
    source: str = "tiny",
) -> Corpus:
    """Writes a corpus with one utterance for each text, or for each (reference, what is really said)."""
    random = np.random.default_rng(seed)
    recipe = RECIPE.model_copy(update={"bins": bins})
    with CorpusWriter(folder, recipe, source) as writer:
        for split, texts in splits.items():
            for number, text in enumerate(texts):
                reference, said = (text, text) if isinstance(text, str) else text
                features = utterance(said, random, bins)
                writer.add(split, f"{number:03}", reference, len(features) * recipe.hop_seconds, features)
        return writer.finish()


@dataclass
class Learned:
    """What a whole training gave."""

    recognizer: Recognizer
    history: list[Metrics]


def learn(corpus: Corpus, leaves: Mapping[str, Any]) -> Learned:
    """Trains a recogniser with a learning rate at which it learns a tiny corpus within about twenty epochs."""
    history: list[Metrics] = []
    settings = config({"optimizer.lr": 4e-3, **leaves})
    trained = train(settings, corpus, lambda metrics, save: history.append(metrics))
    return Learned(cast(Recognizer, trained), history)


class Recorder:
    """Takes reports: keeps the metrics, and writes each checkpoint that comes with them into `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.history: list[Metrics] = []
        self.saved: list[int] = []

    def __call__(self, metrics: Metrics, save: Save | None) -> None:
        self.history.append(metrics)
        if save and self.folder:
            save(self.folder / f"epoch_{metrics['epoch']}")
            self.saved.append(metrics["epoch"])

    def comparable(self) -> list[Metrics]:
        """All but what a clock measured."""
        return [timeless(row) for row in self.history]


def assert_same_weights(one: TrainedModel, other: TrainedModel) -> None:
    """Bit by bit."""
    there = other.model.state_dict()
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, there[name]), name


def written_before(folder: Path) -> Path:
    """Rewrites a model directory as versions did in which the keys of `FORMER_VALUES` did not exist."""
    tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key in FORMER_VALUES:
        section, name = key.split(".")
        del tree["config"][section][name]
    (folder / CONFIG).write_text(json.dumps(tree), encoding="utf-8")
    (folder / CHECKSUMS).unlink()
    return folder


def save_language_model(recognizer: Recognizer, folder: Path, tokenizer: Tokenizer | None = None) -> Path:
    """Writes an untrained language model, sure of every token, with the recogniser's tokenizer or another one."""
    tokenizer = tokenizer or recognizer.tokenizer
    settings = config({"model.kind": "language_model", "model.decoder_layers": 1})
    torch.manual_seed(0)
    network = LanguageModel(settings.model, tokenizer.vocab_size)
    with torch.no_grad():
        network.output.weight.mul_(10)
    folder.mkdir()
    TextModel(settings, network, tokenizer, recognizer.corpus_hash).save(folder)
    return folder


def align(recognizer: Recognizer, features: Sequence[np.ndarray], texts: Sequence[str]) -> list[list[Word]]:
    """Words of given texts with the times at which utterances have them."""
    found: list[list[Word]] = [[] for _ in features]
    with torch.no_grad():
        for indices, encoded, _ in recognizer.encode(features):
            rows = words_of(recognizer, [texts[index] for index in indices], encoded)
            for index, words in zip(indices, rows, strict=True):
                found[index] = words
    return found
