"""A recogniser that has learned something, made once."""

from __future__ import annotations

import pytest
import tiny

from trainables.data.corpus import Corpus
from trainables.training import Metrics, train


@pytest.fixture(scope="session")
def learned(tiny_corpus: Corpus) -> tiny.Learned:
    """Trained until it transcribes the tiny corpus."""
    history: list[Metrics] = []
    leaves = {
        "training.epochs": 36,
        "optimizer.lr": 4e-3,
        "model.encoder_layers": 1,
        "model.decoder_layers": 1,
    }
    recognizer = train(tiny.config(leaves), tiny_corpus, lambda metrics, save: history.append(metrics))
    return tiny.Learned(recognizer, history)
