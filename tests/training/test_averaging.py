"""Averages of weights equal their definition, do not change training, and resume exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import Recorder, assert_same_weights

from trainables.checksums import CHECKSUMS
from trainables.config.tree import Config, Training
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.model_directory import TrainedModel
from trainables.inference.recognizer import Recognizer
from trainables.training.averaging import WeightAverages
from trainables.training.checkpoint_files import AVERAGES
from trainables.training.loop import Trainer, train

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {
    **tiny.RANDOM,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "training.epochs": 4,
    "training.update_seconds": 2.0,
    "optimizer.lr": 1e-2,
}
CASES: dict[str, dict[str, Any]] = {
    "running": {"training.ema": 0.9},
    "best": {"training.average": 2},
    "both": {"training.ema": 0.9, "training.average": 3},
    "both_after_a_stage": {
        "training.ema": 0.5,
        "training.average": 9,
        "training.stages": [{"epochs": 2, "encoder_layers": 1}],
        "model.encoder_layers": 2,
    },
}


@dataclass
class Run:
    """A finished run with a checkpoint of each epoch."""

    config: Config
    recorder: Recorder
    recognizer: TrainedModel
    folder: Path


@pytest.fixture(scope="module")
def run_of(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Returns a function: the name of a case -> its run; `plain` is a run without averages."""

    @cache
    def run(case: str) -> Run:
        folder = tmp_path_factory.mktemp(case)
        config, recorder = tiny.config({**SHORT, **CASES.get(case, {})}), Recorder(folder)
        return Run(config, recorder, train(config, tiny_corpus, recorder), folder)

    return run


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def saved_averages(checkpoint: Path) -> dict[str, torch.Tensor]:
    file = checkpoint / AVERAGES
    return load_file(file) if file.exists() else {}


def stepped(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    """Trains an epoch; returns the weights before it and after each update."""
    found = [weights(trainer.model)]
    trainer.optimizer.register_step_post_hook(lambda *_: found.append(weights(trainer.model)))
    trainer.history.append(trainer.epoch(1))
    return found


def test_the_running_average_is_its_definition(tiny_corpus: Corpus) -> None:
    decay = 0.6
    trainer = Trainer(tiny.config({**SHORT, "training.ema": decay, "training.update_seconds": 1.0}), tiny_corpus, CPU)
    expected, *steps = stepped(trainer)
    assert len(steps) > 8  # so that the decay has risen to its final value
    for number, step in enumerate(steps):
        current = min(decay, (1 + number) / (10 + number))
        expected = {name: current * expected[name] + (1 - current) * step[name] for name in expected}
    for name, weight in trainer.averages.running.items():
        assert torch.allclose(weight, expected[name], atol=1e-6), name


def test_the_best_epochs_are_kept_and_of_equals_the_later() -> None:
    layer = torch.nn.Linear(2, 1)
    averages = WeightAverages(Training(average=2), layer)
    for epoch, score in enumerate([0.9, 0.5, 0.7, 0.5, 0.6, 0.5], start=1):
        torch.nn.init.constant_(layer.weight, epoch)
        averages.consider(epoch, score)
    assert sorted(averages.best) == [4, 6]
    assert averages.averaged(mean=True)["weight"].tolist() == [[5.0, 5.0]]
    with averages.applied(mean=True):
        assert layer.weight.tolist() == [[5.0, 5.0]]
    assert layer.weight.tolist() == [[6.0, 6.0]]


@pytest.mark.parametrize("case", ["running", "best", "both"])
def test_training_goes_on_as_without_an_average(case: str, run_of: Callable[[str], Run]) -> None:
    plain, averaged = run_of("plain").recorder.history, run_of(case).recorder.history
    for one, other in zip(plain, averaged, strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert one["gradient_norm"] == other["gradient_norm"]
    assert plain[-1]["val_loss"] != averaged[-1]["val_loss"]


def test_the_last_epoch_is_that_of_the_mean(run_of: Callable[[str], Run]) -> None:
    """The run without averages has the models whose mean is expected."""
    plain, averaged = run_of("plain"), run_of("best")
    *before, last = averaged.recorder.history
    assert last["val_cer_single"] == plain.recorder.history[-1]["val_cer"]
    assert all("val_cer_single" not in row for row in before)
    scores = [(row["val_cer"], -row["epoch"]) for row in plain.recorder.history]
    best = [-epoch for _, epoch in sorted(scores)[:2]]
    models = [load_file(plain.folder / f"epoch_{epoch}" / "model.safetensors") for epoch in best]
    for name, weight in averaged.recognizer.model.named_parameters():
        assert torch.allclose(weight, (models[0][name] + models[1][name]) / 2, atol=1e-7), name


@pytest.mark.parametrize("case", CASES)
def test_a_model_directory_holds_what_was_validated(
    case: str, run_of: Callable[[str], Run], tiny_corpus: Corpus
) -> None:
    run = run_of(case)
    assert_same_weights(Recognizer.load(run.folder / "epoch_4"), run.recognizer)
    for row in run.recorder.history[2:]:
        trainer = Trainer(run.config, tiny_corpus, CPU)
        trainer.model.load_state_dict(Recognizer.load(run.folder / f"epoch_{row['epoch']}").model.state_dict())
        assert tiny.timeless(trainer.validate()).items() <= row.items()


@pytest.mark.parametrize("stop", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(
    case: str, stop: int, run_of: Callable[[str], Run], tiny_corpus: Corpus
) -> None:
    run, recorder = run_of(case), Recorder()
    resumed = train(run.config, tiny_corpus, recorder, checkpoint=run.folder / f"epoch_{stop}")
    assert recorder.comparable() == run.recorder.comparable()[stop:]
    assert_same_weights(resumed, run.recognizer)


@pytest.mark.parametrize("case", ["running", "best", "both"])
def test_a_finished_run_goes_on_longer_from_what_it_trained(case: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Training resumes from the trained weights, not from the mean in the model directory."""
    leaves = {**SHORT, "optimizer.schedule": "constant", "optimizer.warmup": 0.0}
    short, long = ({**leaves, **CASES[case], "training.epochs": epochs} for epochs in (2, 3))
    straight, second = Recorder(), Recorder()
    train(tiny.config(long), tiny_corpus, straight)
    train(tiny.config(short), tiny_corpus, Recorder(tmp_path))
    train(tiny.config(long), tiny_corpus, second, checkpoint=tmp_path / "epoch_2")
    assert second.comparable() == straight.comparable()[2:]


def test_an_average_may_begin_or_end_with_a_resumed_run(run_of: Callable[[str], Run], tiny_corpus: Corpus) -> None:
    plain, running, ended, begun = run_of("plain"), run_of("running"), Recorder(), Recorder()
    train(plain.config, tiny_corpus, ended, checkpoint=running.folder / "epoch_2")
    train(running.config, tiny_corpus, begun, checkpoint=plain.folder / "epoch_2")
    after = plain.recorder.comparable()[2:]
    assert ended.comparable() == after
    assert [row["train_loss"] for row in begun.history] == [row["train_loss"] for row in after]
    assert begun.history[0]["val_loss"] != after[0]["val_loss"]


def test_a_checkpoint_holds_averages_only_where_they_are_asked_for(run_of: Callable[[str], Run]) -> None:
    folders = {case: run_of(case).folder / "epoch_3" for case in ("plain", "running", "best")}
    assert not (folders["plain"] / AVERAGES).exists()
    kinds = {case: {name.partition(".")[0] for name in saved_averages(folder)} for case, folder in folders.items()}
    assert kinds == {"plain": set(), "running": {"trained", "running"}, "best": {"best"}}


def test_epochs_of_a_stage_are_not_averaged(run_of: Callable[[str], Run]) -> None:
    """Layers that took no part in a stage are untrained."""
    for epoch, best in [(2, set()), (3, {"3"}), (4, {"3", "4"})]:
        names = saved_averages(run_of("both_after_a_stage").folder / f"epoch_{epoch}")
        assert {name.split(".")[1] for name in names if name.startswith("best.")} == best


def test_damaged_averages_are_refused(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = tiny.config({"training.epochs": 1, "training.ema": 0.5})
    train(config, tiny_corpus, Recorder(tmp_path))
    file = tmp_path / "epoch_1" / AVERAGES
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"epoch_1/averages\.safetensors: damaged"):
        train(config, tiny_corpus, Recorder(), checkpoint=tmp_path / "epoch_1")
    (tmp_path / "epoch_1" / CHECKSUMS).unlink()  # as earlier checkpoints
    with pytest.raises(InputError, match="epoch_1: not a whole checkpoint"):
        train(config, tiny_corpus, Recorder(), checkpoint=tmp_path / "epoch_1")


def test_tied_weights_are_averaged_once_and_stay_tied(tiny_corpus: Corpus, tmp_path: Path) -> None:
    leaves = {**SHORT, "model.tied_embeddings": True, "training.ema": 0.9, "training.average": 2}
    trained = train(tiny.config(leaves), tiny_corpus, Recorder(tmp_path))
    assert trained.model.decoder.output.weight is trained.model.decoder.embedding.weight
    assert_same_weights(Recognizer.load(tmp_path / "epoch_4"), trained)
