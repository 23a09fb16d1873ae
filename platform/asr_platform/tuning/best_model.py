"""What a sweep ends with: its best model in a directory, with pictures and a card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from asr_platform.analysis.leaderboard import ranked
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.reporting.plots import PLOTS, draw_sweep, draw_trial
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.tracking.model_card import CARD, About, model_card
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.model_directory import copy_model


def best_of(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The first in the ranking whose model is on disk."""
    return next((trial for trial in ranked(list(trials)) if trial.model), None)


def make_best_model(
    home: Home, ledger: Ledger, space: Space, corpus: Corpus, say: Callable[[str], None]
) -> Path | None:
    """The model directory of a sweep's best trial, made anew; None where no trial has a model.

    Without room for the pictures and the card the model is still one.
    """
    name, trials = ledger.name, ledger.trials()
    best = best_of(trials)
    if best is None or best.model is None:
        return None
    model = copy_model(Path(best.model), home.model(name))
    errors, store = RecordedErrors(home.sweep(name)), home.store(ledger.about).uri
    about = About(name, space, corpus, trials, best, errors.intervals(trials), errors.of(best), store)
    try:
        draw_trial(best, model / PLOTS)
        if len(trials) > 1:
            draw_sweep(trials, model / PLOTS)
        (model / CARD).write_text(model_card(about), encoding="utf-8")
    except (OSError, ValueError, InputError) as error:  # a full disk, a corpus that has changed: the model is whole
        say(f"the plots or the card cannot be written: {error}")
    return model
