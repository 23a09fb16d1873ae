"""A run that is interrupted after any update, and goes on, equals one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import Recorder, assert_same_weights

from trainables.data.corpus import Corpus
from trainables.training.interruption import Interrupted
from trainables.training.loop import train

SHORT = {"training.epochs": 2, "training.update_seconds": 6.0, "optimizer.lr": 1e-2}
CASES: dict[str, dict[str, Any]] = {
    "all_that_is_random": {**tiny.RANDOM, **SHORT},
    "averages": {
        **SHORT,
        "training.ema": 0.9,
        "training.update_seconds": 6.0,
        "training.pass_seconds": 3.0,
        "training.average": 2,
    },
    "batch_norm": {**tiny.CONFORMER, **SHORT, "model.dropout": 0.1},
    "editor": {**tiny.EDITING, **SHORT, "drafts.threshold": 1.0, "drafts.corrupted_share": 0.5, "model.dropout": 0.1},
    "language_model": {**SHORT, "model.kind": "language_model", "training.update_tokens": 200, "model.dropout": 0.1},
}


def second() -> Callable[[], bool]:
    """Notice that is given when it is asked for the second time: after the first update."""
    answers = iter([False])
    return lambda: next(answers, True)


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_interrupted_after_every_update_equals_an_uninterrupted_one(
    case: str, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """Metrics and weights are equal bit by bit, and after an epoch its own checkpoint is enough."""
    config, straight, pieces = tiny.config(CASES[case]), Recorder(), Recorder(tmp_path)
    whole = train(config, tiny_corpus, straight)
    checkpoint, trained, begun = None, None, 0
    while trained is None:
        begun += 1
        torch.manual_seed(12345)  # another process begins with another random state
        try:
            trained = train(config, tiny_corpus, pieces, checkpoint=checkpoint, notice=second())
        except Interrupted as interrupted:
            checkpoint = tmp_path / (f"epoch_{pieces.saved[-1]}" if interrupted.save is None else "unfinished")
            if interrupted.save is not None:
                interrupted.save(checkpoint)
    assert begun > straight.history[-1]["updates"] >= 2 * config.training.epochs
    assert pieces.comparable() == straight.comparable()
    assert_same_weights(trained, whole)
