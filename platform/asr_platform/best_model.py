"""What a sweep ends with: its best model in a directory, with pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from asr_platform.home import Home
from asr_platform.leaderboard import ranked
from asr_platform.plots import PLOTS, draw_sweep, draw_trial
from asr_platform.study import Ledger, TrialRecord
from trainables.model_directory import copy_model


def best_of(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The first in the ranking whose model is on disk."""
    return next((trial for trial in ranked(list(trials)) if trial.model), None)


def make_best_model(home: Home, ledger: Ledger, say: Callable[[str], None]) -> Path | None:
    """The model directory of a sweep's best trial, made anew; None where no trial has a model.

    Without room for the pictures the model is still one.
    """
    name, trials = ledger.name, ledger.trials()
    best = best_of(trials)
    if best is None or best.model is None:
        return None
    model = copy_model(Path(best.model), home.model(name))
    try:
        draw_trial(best, model / PLOTS)
        if len(trials) > 1:
            draw_sweep(trials, model / PLOTS)
    except OSError as error:
        say(f"the plots cannot be written: {error}")
    return model
