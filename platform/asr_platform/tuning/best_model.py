"""A sweep's best model: copied into a directory with plots and a model card, tuned, and registered in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from asr_platform.analysis.kept_scores import Score, condition_scores, keep_scores, scores_of
from asr_platform.analysis.leaderboard import ranked
from asr_platform.analysis.learning import nothing_learned
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.inference.tune_decoding import tune_decoding
from asr_platform.reporting.plots import PLOTS, draw_sweep, draw_trial
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.tracking.model_card import CARD, ModelCard, with_conditions, with_decoding
from asr_platform.tracking.registry import BestModel, Registered, Registry
from asr_platform.tracking.runs import Run, Tracker
from asr_platform.tracking.store import FAILURES
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from search_spaces.space import Space
from trainables.checksums import same_file
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.model_directory import copy_model, read_decoding, read_info, write_decoding
from trainables.inference.model_files import WEIGHTS
from trainables.inference.words import read_confidence, write_confidence

MINUTES = 3.0  # longest time for which decoding options are tuned


def best_of(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The highest-ranked trial whose model is on disk; None if there is none."""
    return next((trial for trial in ranked(list(trials)) if trial.model), None)


def make_best_model(
    home: Home, ledger: Ledger, space: Space, corpus: Corpus, say: Callable[[str], None]
) -> Path | None:
    """Copies the best trial's model to the home's folder `models`; returns the copy, or None if no trial has a model.

    Plots and a model card are added. If these cannot be written, `say` prints a message. Tuned decoding options
    and scores stay if the model is the same as before.
    """
    name, trials = ledger.name, ledger.trials()
    best = best_of(trials)
    if best is None or best.model is None:
        return None
    model, own, confidence, scores = home.model(name), None, None, list[Score]()
    if model.is_dir() and same_file(model, Path(best.model), WEIGHTS):
        own, confidence, scores = read_decoding(model), read_confidence(model), scores_of(model)
    copy_model(home.whole_model(best.model), model)
    if own is not None:
        write_decoding(model, own)
    if confidence is not None:
        write_confidence(model, confidence)
    if scores:
        keep_scores(model, scores)
    errors, store = RecordedErrors(home.sweep(name)), home.store(ledger.about).uri
    card = ModelCard(name, space, corpus, trials, best, errors.cer_intervals(trials), errors.of(best), store)
    try:
        draw_trial(best, model / PLOTS)
        if len(trials) > 1:
            draw_sweep(trials, model / PLOTS)
        text = card.render()
        if own is not None:
            text = with_decoding(text, own, confidence)
        if conditions := condition_scores(model, corpus.hash):
            text = with_conditions(text, conditions)
        (model / CARD).write_text(text, encoding="utf-8")
    except (OSError, ValueError, InputError) as error:  # a full disk, a corpus that has changed: the model is whole
        say(f"the plots or the card cannot be written: {error}")
    return model


def tune_best_model(
    model: Path, best: TrialRecord, corpus: Corpus, say: Callable[[str], None], stop: Callable[[], bool]
) -> None:
    """Tunes the decoding options of a recogniser on the validation split, unless they are tuned already.

    A model that has learned nothing is left as it is: no search makes it better.

    Args:
        model: directory of the model.
        best: trial that trained it.
        say: is given what is done, or why it could not be done.
        stop: asked again and again whether to stop tuning; the best options by then are kept.
    """
    if (
        not read_info(model).config.model.is_recogniser
        or read_decoding(model) is not None
        or nothing_learned(best.best)
    ):
        return
    say(f"tuning the decoding options of the best model, for {MINUTES:g} minutes at most")
    try:
        found = tune_decoding(model, corpus.path, minutes=MINUTES, stop=stop)
        if found.not_compared:
            say(f"the tuned decoding options are not compared on a test split: {found.not_compared}")
    except (InputError, OSError, RuntimeError, MemoryError) as error:  # RuntimeError: torch is out of memory
        say(f"the decoding options are not tuned: {str(error) or type(error).__name__}")


def register_best_model(
    mlflow_callback: MLflowCallback, ledger: Ledger, best: TrialRecord, model: Path, say: Callable[[str], None]
) -> Registered | None:
    """Registers a model directory in MLflow under the sweep's name; None, after a message, if that fails.

    Args:
        mlflow_callback: callback with the connection to the store.
        best: trial that trained the model.
    """
    known, registered = mlflow_callback.away, None

    def register(tracker: Tracker, sweep_run: Run) -> None:
        nonlocal registered
        try:
            registered = Registry(tracker.client).register(BestModel.of(ledger, best, model), sweep_run.id)
        except FAILURES:
            raise
        except Exception as error:  # whatever is wrong with a model, such as a missing language model, ends no sweep
            say(f"the best model cannot be registered: {type(error).__name__}: {error}")

    if not mlflow_callback.attempt(register) and not known:
        say(f"the best model is not registered: platform doctor {ledger.name} --repair registers it")
    if registered and registered.kept:
        say(f"{registered.uri} is not the champion: {registered.kept}")
    return registered
