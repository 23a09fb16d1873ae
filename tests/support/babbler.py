"""A model directory without a training: its recogniser says something else to every utterance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch

from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.features import FeatureRecipe
from trainables.inference.recognizer import USUAL_SECONDS, Recognizer
from trainables.training.tasks import build_recognizer

# Texts with what a CSV file must quote.
SENTENCES = ['A, B "C"', "B A, C", '"CAB," A']
# Out of order, as a corpus may list them.
TEST_IDS = ["b-0002", "a-0010", "c-0001", "a-0001", "b-0001"]


def write_corpus(
    folder: Path,
    recipe: FeatureRecipe = tiny.RECIPE,
    transcribed: bool = False,
    sentences: Sequence[str] = SENTENCES,
) -> Corpus:
    """Splits to train on and to validate on, and one to test on, without texts unless it is `transcribed`."""
    random = np.random.default_rng(0)
    with CorpusWriter(folder, recipe, "tiny") as writer:
        for split, ids in {"train": "abcdef", "dev": "abc", "test": TEST_IDS}.items():
            for number, id in enumerate(ids):
                text = sentences[number % len(sentences)]
                features = tiny.utterance(text + "ABCDE"[number % 5] * number, random, recipe.bins)
                seconds = len(features) * recipe.hop_seconds
                writer.add(split, id, text if transcribed or split != "test" else None, seconds, features)
        return writer.finish()


def save_model(
    corpus: Corpus, folder: Path, seed: int = 1, usual_seconds: float = USUAL_SECONDS, **model: Any
) -> Recognizer:
    """Writes the model directory; the weights are so large that each utterance gets a text of its own.

    Args:
        model: keys of the section `model`.
    """
    leaves = {"training.seed": seed, "model.sinusoids": "concatenated"}  # with which it says most
    config = tiny.config({**leaves, **{f"model.{key}": value for key, value in model.items()}})
    recognizer = build_recognizer(config, corpus, corpus.training_split(), torch.device("cpu"))
    recognizer.tokens_per_frame, recognizer.usual_seconds = 0.1, usual_seconds
    with torch.no_grad():
        for parameter in recognizer.model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    folder.mkdir(parents=True)
    recognizer.save(folder)
    return recognizer
