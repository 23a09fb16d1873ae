"""A run that is interrupted after any update or in any validation, and goes on, equals one that is not."""

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
from trainables.training.tasks import recognition

SHORT = {
    "training.epochs": 2,
    "training.update_seconds": 6.0,
    "training.pass_seconds": 6.0,  # of a batch of validation, too
    "optimizer.lr": 1e-2,
}
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
    "language_model": {**SHORT, "model.kind": "language_model", "training.update_tokens": 60, "model.dropout": 0.1},
}


class Patience:
    """Notices to run after run: one that makes progress is given notice when it is asked for the second time.

    If a run makes none, since its validation was interrupted as that of the run before, the next one is asked once more
    before it is given notice.
    """

    def __init__(self) -> None:
        self.asked, self.last = 1, (0, 0)
        self.stuck = 0  # number of runs that made no progress

    def notice(self) -> Callable[[], bool]:
        answers = iter([False] * self.asked)
        return lambda: next(answers, True)

    def interrupted(self, epochs: int, updates: int) -> None:
        """A run ended after this many epochs, and updates of the next."""
        stuck = updates > 0 and (epochs, updates) == self.last
        self.stuck += stuck
        self.asked, self.last = self.asked + 1 if stuck else 1, (epochs, updates)


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_interrupted_wherever_it_can_be_equals_an_uninterrupted_one(
    case: str, tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every update and before every batch of a validation, the one of the mean of epochs included.

    Metrics and weights are equal bit by bit, and after an epoch its own checkpoint is enough.
    """
    monkeypatch.setattr(recognition, "VALIDATION_SECONDS", {False: 0.0, True: 0.0})
    config, straight, pieces = tiny.config(CASES[case]), Recorder(), Recorder(tmp_path)
    whole = train(config, tiny_corpus, straight)
    checkpoint, trained, begun, patience = None, None, 0, Patience()
    while trained is None:
        begun += 1
        torch.manual_seed(12345)  # another process begins with another random state
        try:
            trained = train(config, tiny_corpus, pieces, checkpoint=checkpoint, notice=patience.notice())
        except Interrupted as interrupted:
            checkpoint = tmp_path / (f"epoch_{pieces.saved[-1]}" if interrupted.save is None else "unfinished")
            if interrupted.save is not None:
                interrupted.save(checkpoint)
            patience.interrupted(len(pieces.history), interrupted.updates)
    validations = config.training.epochs + (config.training.average > 1)
    assert patience.stuck >= 2 * validations, "each has two batches or more"
    assert begun > straight.history[-1]["updates"] >= 2 * config.training.epochs
    assert pieces.comparable() == straight.comparable()
    assert_same_weights(trained, whole)
