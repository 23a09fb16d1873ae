"""The training loop learns, resumes exactly, validates correctly, and fails when the loss diverges."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import Learned, Recorder, assert_same_weights

from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.errors import DivergedError, InputError
from trainables.inference.recognizer import Recognizer
from trainables.training.loop import Metrics, Trainer, train
from trainables.training.tasks.recognition import FAST_SPEECH

CPU = torch.device("cpu")
LOSSES = ("train_loss", "train_cross_entropy", "train_ctc", "val_loss")


def test_it_learns(learned: Learned) -> None:
    first, last = learned.history[0], learned.history[-1]
    assert [row["epoch"] for row in learned.history] == list(range(1, len(learned.history) + 1))
    assert last["train_loss"] < 0.1 * first["train_loss"]
    assert last["val_loss"] < 0.1 * first["val_loss"]
    assert last["val_cer"] <= 0.05
    assert last["val_wer"] <= 0.15
    assert last["val_ctc_cer"] <= 0.1
    assert first["val_cer"] > 0.5


def test_metrics_say_what_was_done(learned: Learned, tiny_corpus: Corpus) -> None:
    row = learned.history[1]
    config = learned.recognizer.config
    assert row["audio_hours"] == pytest.approx(2 * tiny_corpus.splits["train"].seconds / 3600, rel=1e-4)
    assert row["train_loss"] == pytest.approx(row["train_cross_entropy"] + config.loss.ctc_weight * row["train_ctc"])
    assert 0 <= row["padding_share"] < 1
    assert row["gradient_norm"] > 0
    assert row["infeasible_ctc"] == 0
    assert 0 < row["real_time_factor"] * tiny_corpus.splits["dev"].seconds < row["validation_seconds"]
    peak = config.optimizer.lr
    rates = [row["learning_rate"] for row in learned.history]
    assert max(rates) <= peak
    assert rates[-1] == pytest.approx(peak * config.optimizer.final_lr)
    assert all(isinstance(value, int | float) for value in row.values())


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Metrics and weights are equal bit by bit, with everything in training that is random."""
    config = tiny.config({**tiny.RANDOM, "training.epochs": 4, "optimizer.lr": 1e-2, "optimizer.name": name})
    straight, first, second = Recorder(), Recorder(tmp_path), Recorder()
    whole = train(config, tiny_corpus, straight)

    train(config, tiny_corpus, first, until=2)
    torch.manual_seed(12345)  # another process begins with another random state
    resumed = train(config, tiny_corpus, second, checkpoint=tmp_path / "epoch_2")

    assert first.comparable() + second.comparable() == straight.comparable()
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize(("known", "expected"), [(None, [4]), (3, [4]), (1, [2, 3, 4]), (0, [1, 2, 3, 4])])
def test_epochs_that_the_caller_does_not_know_are_reported_again(
    known: int | None, expected: list[int], tiny_corpus: Corpus, tmp_path: Path
) -> None:
    config = tiny.config({"training.epochs": 4})
    trainer = Trainer(config, tiny_corpus, CPU)
    trainer.history = [trainer.epoch(epoch) for epoch in (1, 2, 3)]
    recorded = copy.deepcopy(trainer.history)
    save = trainer.saver()
    assert save is not None
    save(tmp_path / "checkpoint")

    again = Recorder(tmp_path)
    train(config, tiny_corpus, again, checkpoint=tmp_path / "checkpoint", reported_epochs=known)
    assert [row["epoch"] for row in again.history] == expected
    assert again.history[:-1] == recorded[expected[0] - 1 :]
    # Earlier weights are gone: of the repeated epochs only the last one has a checkpoint.
    assert again.saved == [epoch for epoch in expected if epoch >= 3]


def test_a_finished_run_is_not_trained_further(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = tiny.config({"training.epochs": 1})
    recorder = Recorder(tmp_path)
    trained = train(config, tiny_corpus, recorder)
    again = Recorder()
    assert_same_weights(train(config, tiny_corpus, again, checkpoint=tmp_path / "epoch_1"), trained)
    assert again.history == []


def test_the_seed_decides_and_nothing_else(tiny_corpus: Corpus) -> None:
    runs: list[list[Metrics]] = []
    for seed in (0, 0, 1):
        recorder = Recorder()
        torch.manual_seed(len(runs))
        train(tiny.config({**tiny.RANDOM, "training.epochs": 1, "training.seed": seed}), tiny_corpus, recorder)
        runs.append(recorder.comparable())
    assert runs[0] == runs[1]
    assert runs[0][0]["train_loss"] != runs[2][0]["train_loss"]


def test_validation_is_never_masked(tiny_corpus: Corpus) -> None:
    plain = Trainer(tiny.config(), tiny_corpus, CPU)
    augmented = Trainer(tiny.config({**tiny.RANDOM, "specaugment.time_width": 1.0}), tiny_corpus, CPU)
    augmented.model.train()
    found = [tiny.timeless(trainer.validate()) for trainer in (augmented, plain, plain)]
    assert found[0] == found[1] == found[2]


def validated(config: Config, corpus: Corpus, recognizer: Recognizer, budget: float | None = None) -> Metrics:
    trainer = Trainer(config, corpus, CPU)
    if budget is not None:
        trainer.task.validation_plan = replace(trainer.task.validation_plan, budget=budget)
    trainer.model.load_state_dict(recognizer.model.state_dict())
    return tiny.timeless(trainer.validate())


def test_validation_scores_the_whole_split_however_it_is_batched(learned: Learned, tiny_corpus: Corpus) -> None:
    config = learned.recognizer.config
    single = validated(config, tiny_corpus, learned.recognizer, budget=1)  # one utterance at a time
    for name, value in validated(config, tiny_corpus, learned.recognizer).items():
        assert value == pytest.approx(learned.history[-1][name], rel=1e-4)
        assert value == pytest.approx(single[name], rel=1e-4)


def test_characters_unknown_to_training_are_errors_in_validation(learned: Learned, tmp_path: Path) -> None:
    """Such characters stay in the reference, and no hypothesis can contain them."""
    said = "A BAD CAB"
    corpus = tiny.write_corpus(
        tmp_path / "corpus", {"train": tiny.SENTENCES, "dev": [("Z BXD CAB", said), ("ÉÉÉ", said)]}
    )
    found = validated(learned.recognizer.config, corpus, learned.recognizer)
    assert learned.recognizer.transcribe([tiny.utterance(said, np.random.default_rng(0))]) == [said]
    assert found["val_cer"] == pytest.approx((2 + len(said)) / (len(said) + 3), abs=0.1)
    assert math.isfinite(found["val_loss"])


def test_an_utterance_too_short_for_ctc_is_counted_and_the_loss_stays_finite(tmp_path: Path) -> None:
    texts: list[str | tuple[str, str]] = [*tiny.SENTENCES, ("A BAD CAB", "A")]
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train": texts, "dev": texts})
    recorder = Recorder()
    train(tiny.config({"training.epochs": 2}), corpus, recorder)
    assert [row["infeasible_ctc"] for row in recorder.history] == [1, 1]
    assert all(math.isfinite(row[name]) for row in recorder.history for name in LOSSES)


def test_a_learning_rate_beyond_reason_is_divergence(tiny_corpus: Corpus) -> None:
    config = tiny.config({"optimizer.lr": 1e30, "optimizer.name": "sgd", "optimizer.warmup": 0.0})
    recorder = Recorder()
    with pytest.raises(DivergedError, match=r"became (nan|inf) in epoch 1.*optimizer\.lr"):
        train(config, tiny_corpus, recorder)
    assert recorder.history == []


def test_weights_that_are_no_numbers_are_divergence(tiny_corpus: Corpus) -> None:
    trainer = Trainer(tiny.config(), tiny_corpus, CPU)
    with torch.no_grad():
        trainer.model.ctc_head.bias[0] = math.nan
    with pytest.raises(DivergedError, match="validation loss"):
        trainer.validate()
    with pytest.raises(DivergedError, match="epoch 1"):
        trainer.epoch(1)


def test_more_bins_than_the_corpus_has_are_refused(tiny_corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"features\.num_feats: 9.*has 8 bins"):
        Trainer(tiny.config({"features.num_feats": 9}), tiny_corpus, CPU)


@pytest.mark.parametrize("leaves", [{"features.num_feats": 5}, {"features.normalization": "cepstral"}])
def test_other_features_train_as_well(leaves: dict[str, Any], tiny_corpus: Corpus) -> None:
    recorder = Recorder()
    train(tiny.config({**leaves, "training.epochs": 2}), tiny_corpus, recorder)
    assert recorder.history[1]["val_loss"] < recorder.history[0]["val_loss"]


@pytest.mark.parametrize(("splits", "key"), [(["train"], "no validation splits"), (["dev"], "statistics|data.train")])
def test_a_corpus_without_the_splits_is_refused(splits: list[str], key: str, tmp_path: Path) -> None:
    corpus = tiny.write_corpus(tmp_path / "corpus", dict.fromkeys(splits, tiny.SENTENCES))
    with pytest.raises(InputError, match=key):
        Trainer(tiny.config(), corpus, CPU)


def test_a_recogniser_knows_how_fast_and_how_long_people_spoke(learned: Learned, tiny_corpus: Corpus) -> None:
    split = tiny_corpus.training_split()
    assert split.texts is not None
    rates = [len(text) / frames for text, frames in zip(split.texts, split.frames, strict=True)]
    assert learned.recognizer.tokens_per_frame == pytest.approx(np.quantile(rates, FAST_SPEECH))
    assert learned.recognizer.usual_seconds == pytest.approx(np.quantile(split.seconds, 0.9))
