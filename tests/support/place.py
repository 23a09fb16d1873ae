"""A folder in which commands are tried, with much that is right and much that is wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import babbler
import numpy as np
import records
import soundfile
import tiny
from safetensors.torch import load_file, save_file

from trainables.checksums import CHECKSUMS
from trainables.inference.model_files import CONFIG, WEIGHTS

FILES = Path(__file__).parents[1] / "assets" / "mistakes" / "files"  # all of them are wrong
Run = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def furnish(place: Path) -> Path:
    """Makes a corpus, a model, a home with a sweep, and much that is wrong."""
    corpus = babbler.write_corpus(place / "corpus")
    babbler.save_model(corpus, place / "model")
    damage(place)
    write_spaces(place)
    (place / "mlruns").mkdir()
    ledger = records.ledger_in(
        place / "mlruns", corpus=str(corpus.path), corpus_hash=corpus.hash, options={"address": None}
    )
    records.add(ledger, "pruned", [0.5], "rung at epoch 1")
    records.add(ledger, "complete", [0.5, 0.25])
    gone = {"corpus_hash": corpus.hash, "options": {}}
    records.ledger_in(place / "mlruns", "moved", corpus=str(place / "gone"), **gone)
    records.ledger_in(place / "mlruns", "changed", corpus=str(place / "no-dev"), **gone)
    records.ledger_in(place / "mlruns", "latest", **gone)
    return place


def damage(place: Path) -> None:
    """Corpora, models and audio files with something wrong."""
    tiny.write_corpus(place / "no-dev", {"train": tiny.SENTENCES})
    tiny.write_corpus(place / "no-train", {"dev": tiny.SENTENCES})
    tiny.write_corpus(place / "two-devs", {"train": tiny.SENTENCES, "dev-a": ["CAB"], "dev-b": ["CAB"]})
    shutil.copytree(place / "corpus", place / "other-version")
    about = json.loads((place / "corpus/corpus.json").read_text())
    (place / "other-version/corpus.json").write_text(json.dumps({**about, "format_version": 99}))
    shutil.copytree(place / "corpus", place / "outside")
    splits = {"../corpus/train" if name == "train" else name: split for name, split in about["splits"].items()}
    (place / "outside/corpus.json").write_text(json.dumps({**about, "splits": splits}))
    shutil.copytree(place / "corpus", place / "no-file")
    (place / "no-file/train.arrow").unlink()
    shutil.copytree(place / "model", place / "no-tokenizer")
    (place / "no-tokenizer/tokenizer.model").unlink()
    damage_models(place)
    soundfile.write(place / "good.wav", 0.1 * np.random.default_rng(0).normal(size=8000), 16_000)
    (place / "cut.wav").write_bytes((place / "good.wav").read_bytes()[:-99])
    (place / "link.txt").symlink_to(place / "corpus" / "corpus.json")
    for name in ("empty.wav", "file"):
        (place / name).touch()


def damage_models(place: Path) -> None:
    """Models that are not what was saved; those whose content was changed are from before there were checksums."""
    os.truncate(_copy(place, "cut-model") / WEIGHTS, 1000)
    weights = _copy(place, "flipped-model") / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    weights = _copy(place, "nan-model", checked=False) / WEIGHTS
    tensors = load_file(str(weights))
    tensors["ctc_head.bias"][0] = float("nan")
    save_file(tensors, str(weights))
    for name, change in {
        "no-layers": {"active_layers": {}},
        "many-layers": {"active_layers": {"encoder": 10**9, "decoder": 1}},
        "fewer-layers": {"active_layers": {"encoder": -5, "decoder": 1}},
        "no-hash": {"corpus_hash": None},
        "wide-model": {"config": {"model": {"d_model": 2**20}}},
    }.items():
        about = _copy(place, name, checked=False) / CONFIG
        about.write_text(json.dumps({**json.loads(about.read_text()), **change}))


def _copy(place: Path, name: str, checked: bool = True) -> Path:
    """A copy of the model, with its checksums or without."""
    folder = shutil.copytree(place / "model", place / name)
    if not checked:
        (folder / CHECKSUMS).unlink()
    return folder


def write_spaces(place: Path) -> None:
    shutil.copytree(FILES, place, dirs_exist_ok=True)
    (place / "right.yaml").write_text(records.SPACE)
    (place / "widths.yaml").write_text(records.SPACE.replace("  model.dropout: {float: [0, 0.2]}\n", ""))
    (place / "longer.yaml").write_text(records.SPACE.replace("epochs: 9", "epochs: 12"))
    (place / "impossible.yaml").write_text(records.SPACE + "budget: 1000\n")
    (place / "wrong.yaml").write_text(
        "base:\n  model: {dropuot: 0.1}\nvary:\n  optimizer.lr: {log: [0, 1]}\nbudgte: 3\n"
    )
    (place / "config.yaml").write_text("model: {d_model: 33}\ntrainign: {epochs: 3}\n")
    (place / "not.yaml").write_text("a: [")
