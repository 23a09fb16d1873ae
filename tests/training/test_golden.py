"""Fixed tiny runs reproduce recorded losses: a refactoring that changes a number fails here.

A change that is meant to alter them records new ones, to be committed with it:
`RECORD_GOLDEN=1 pytest tests/training/test_golden.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from trainables.data.corpus import Corpus
from trainables.training.loop import train

FOLDER = Path(__file__).parents[1] / "assets" / "losses"
TOLERANCE = 1e-4  # relative: other CPUs add in another order
RECORDED = (
    "train_loss", "train_cross_entropy", "train_ctc", "train_editing", "train_copying", "train_drafting",
    "train_spelling", "val_loss",
)  # fmt: skip
FORMER = {"model.sinusoids": "concatenated"}  # the layout when the losses were recorded
RUNS: dict[str, dict[str, Any]] = {
    "masks_and_layer_drop": {**tiny.MASKED, **FORMER, "model.dropout": 0.0},
    "masks_layer_drop_and_dropout": {**tiny.MASKED, **FORMER},
    "editor": {**tiny.MASKED, **tiny.EDITING, **tiny.CONFORMER, "model.dropout": 0.0, "drafts.threshold": 1.0},
}


def dropout_stream() -> str:
    """The dropout mask of one seed on this machine: torch has different generators for CPUs of different makers."""
    torch.manual_seed(0)
    return "".join("x" if value else "." for value in torch.nn.functional.dropout(torch.ones(64), 0.5))


def curve(leaves: dict[str, Any], corpus: Corpus) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    config = tiny.config({**leaves, "training.epochs": 4, "loss.label_smoothing": 0.1, "optimizer.lr": 2e-3})
    train(
        config, corpus, lambda metrics, save: rows.append({name: metrics[name] for name in RECORDED if name in metrics})
    )
    return rows


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_recorded(name: str, tiny_corpus: Corpus) -> None:
    file, leaves = FOLDER / f"{name}.json", RUNS[name]
    stream = dropout_stream() if leaves["model.dropout"] else ""
    if os.environ.get("RECORD_GOLDEN"):
        record = {"dropout_stream": stream, "losses": curve(leaves, tiny_corpus)}
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(file.read_text(encoding="utf-8"))
    if golden["dropout_stream"] != stream:
        pytest.skip("torch draws other dropout on this processor than where the losses were recorded")
    for found, expected in zip(curve(leaves, tiny_corpus), golden["losses"], strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE)
