"""What only a GPU shows: bf16, and gathering in its memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from trainables.config import Features, SpecAugment
from trainables.data.batching import Batch, DeviceSplit, Normalizer
from trainables.data.corpus import Corpus
from trainables.data.tokenizer import Tokenizer
from trainables.training import Metrics, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

MASKS = SpecAugment(frequency_masks=1, frequency_width=3, time_masks=2, time_width=0.2)


def gathered(corpus: Corpus, device: str, normalization: str) -> Batch:
    assert corpus.mean is not None and corpus.std is not None
    place = torch.device(device)
    split = corpus.training_split()
    normalizer = Normalizer(Features.model_validate({"normalization": normalization}), corpus.mean, corpus.std, place)
    data = DeviceSplit(split, Tokenizer.train(split.texts or [], tiny.config().tokenizer), normalizer, place)
    masks = data.masks(MASKS, seed=0, epoch=1)
    timing = data.timing(speed=0.1, warp=5, seed=0, epoch=1)
    return data.gather(np.array([4, 0, 11]), 100, np.ones(3, dtype=np.float32), masks, timing)


@pytest.mark.parametrize("normalization", ["global_mvn", "cepstral", "none"])
def test_gathering_on_the_gpu_equals_gathering_on_the_cpu(normalization: str, tiny_corpus: Corpus) -> None:
    here, there = gathered(tiny_corpus, "cpu", normalization), gathered(tiny_corpus, "cuda", normalization)
    for name, expected in vars(here).items():
        found = getattr(there, name)
        assert found.is_cuda, name
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4, msg=name)


def history(corpus: Corpus, device: str, precision: str, **leaves: Any) -> list[Metrics]:
    rows: list[Metrics] = []
    leaves = {"training.precision": precision, "optimizer.lr": 1e-3, "loss.label_smoothing": 0.1, **leaves}
    config = tiny.config(leaves)
    train(config, corpus, lambda metrics, save: rows.append(metrics), device=torch.device(device))
    return rows


STRATEGIES: dict[str, Any] = {
    "training.stages": [{"encoder_layers": 1, "freeze": ["ctc_head.*"], "data": 0.5}],
    "training.ema": 0.9,
    "training.average": 2,
    "optimizer.layer_decay": 0.8,
    "data.speed_perturbation": 0.1,
    "specaugment.time_warp": 5,
}


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_training_in_bf16_is_finite_and_learns(precision: str, tiny_corpus: Corpus) -> None:
    rows = history(tiny_corpus, "cuda", precision)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]


@pytest.mark.parametrize("leaves", [{}, STRATEGIES])
def test_the_gpu_gives_the_losses_of_the_cpu(leaves: dict[str, Any], tiny_corpus: Corpus) -> None:
    rows = (history(tiny_corpus, device, "float32", **leaves) for device in ("cpu", "cuda"))
    for here, there in zip(*rows, strict=True):
        for name in ("train_loss", "val_loss"):
            assert there[name] == pytest.approx(here[name], rel=1e-3)
