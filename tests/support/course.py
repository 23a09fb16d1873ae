"""A tiny corpus with the splits of the course, and language models that were trained on it or on another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tiny

from trainables.data.corpus import Corpus
from trainables.data.device.placement import default_device
from trainables.inference.model_files import CONFIG
from trainables.training.loop import Trainer

SPLITS = {"train-clean-100": tiny.SENTENCES * 2, "dev-clean": tiny.SENTENCES[:3], "test-clean": tiny.SENTENCES[:2]}


def write_corpus(
    folder: Path, splits: Mapping[str, Sequence[str | tuple[str, str]]] = SPLITS, source: str = "hw4"
) -> Corpus:
    return tiny.write_corpus(folder, splits, source=source)


def save_language_model(corpus: Corpus, folder: Path, **about: Any) -> str:
    """Writes an untrained language model for the tiny decoder, whose `config.json` has `about` in place of its own."""
    config = tiny.config({"model.kind": "language_model"})
    folder.mkdir(parents=True)
    Trainer(config, corpus, default_device()).task.trained.write(folder)
    tree = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**tree, **about}))
    return str(folder)
