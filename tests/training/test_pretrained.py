"""A decoder that begins with a language model's weights: what moves, frozen epochs, own rate, and exact resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import Recorder, assert_same_weights

from trainables.data.corpus import Corpus
from trainables.text_model import TextModel
from trainables.training import Trainer, train

CPU = torch.device("cpu")


def write_language_model(folder: Path, corpus: Corpus, leaves: dict[str, Any] | None = None) -> TextModel:
    """An untrained language model for a corpus, in a model directory."""
    folder.mkdir(parents=True)
    config = tiny.config({"model.kind": "language_model", "training.seed": 7, **(leaves or {})})
    text_model = Trainer(config, corpus, CPU).task.trained
    assert isinstance(text_model, TextModel)
    text_model.save(folder)
    return text_model


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
def test_the_shared_weights_move_and_nothing_else_changes(tied: bool, tiny_corpus: Corpus, tmp_path: Path) -> None:
    leaves = {"model.tied_embeddings": tied}
    language_model = write_language_model(tmp_path / "lm", tiny_corpus, leaves).model
    begun = Trainer(tiny.config({**leaves, "pretrained.decoder": str(tmp_path / "lm")}), tiny_corpus, CPU)
    plain = weights(Trainer(tiny.config(leaves), tiny_corpus, CPU))
    moved = {f"decoder.{name}": weight for name, weight in language_model.named_parameters()}
    assert any("self_attention" in name for name in moved) and "decoder.embedding.weight" in moved
    for name, weight in begun.model.named_parameters():
        assert torch.equal(weight, moved.get(name, plain[name])), name
    assert all("cross_attention" in name or not name.startswith("decoder.") for name in plain if name not in moved)
    output, embedding = (begun.model.get_submodule(f"decoder.{name}").weight for name in ("output", "embedding"))
    assert (output is embedding) == tied


def test_a_decoder_without_its_cross_attention_is_the_language_model(tiny_corpus: Corpus, tmp_path: Path) -> None:
    language_model = write_language_model(tmp_path / "lm", tiny_corpus).model.eval()
    trainer = Trainer(tiny.config({"pretrained.decoder": str(tmp_path / "lm")}), tiny_corpus, CPU)
    tokens = torch.randint(5, 12, (2, 7))
    decoder = trainer.model.get_submodule("decoder").eval()
    assert torch.equal(decoder(tokens), language_model(tokens))


def test_frozen_weights_stay_and_then_change_at_their_own_rate(tiny_corpus: Corpus, tmp_path: Path) -> None:
    language_model = write_language_model(tmp_path / "lm", tiny_corpus).model
    moved = {f"decoder.{name}" for name, _ in language_model.named_parameters()}
    leaves = {"pretrained.decoder": str(tmp_path / "lm"), "pretrained.frozen_epochs": 2, "pretrained.lr_scale": 0.1}
    trainer = Trainer(tiny.config({**leaves, "training.epochs": 3}), tiny_corpus, CPU)
    for epoch in (1, 2, 3):
        before = weights(trainer)
        trainer.history.append(trainer.epoch(epoch))
        changed = {name for name, weight in weights(trainer).items() if not torch.equal(weight, before[name])}
        assert changed == (set(before) if epoch == 3 else set(before) - moved)
    for group in trainer.optimizer.param_groups:
        names = {name for name, p in trainer.model.named_parameters() if any(p is other for other in group["params"])}
        assert (group["lr_scale"], names <= moved) in {(0.1, True), (1.0, False)}
        assert group["lr"] == pytest.approx(trainer.history[-1]["learning_rate"] * group["lr_scale"])


def test_it_goes_together_with_stages_and_averages_and_resumes_exactly(tiny_corpus: Corpus, tmp_path: Path) -> None:
    write_language_model(tmp_path / "lm", tiny_corpus)
    config = tiny.config(
        {
            **tiny.RANDOM,
            "pretrained.decoder": str(tmp_path / "lm"),
            "pretrained.frozen_epochs": 2,
            "pretrained.lr_scale": 0.5,
            "training.epochs": 4,
            "training.stages": [{"encoder_layers": 1, "dropout": 0.0}],
            "training.ema": 0.8,
            "training.average": 2,
            "optimizer.schedule": "plateau",
            "optimizer.layer_decay": 0.9,
            "data.speed_perturbation": 0.1,
            "specaugment.time_warp": 3,
        }
    )
    straight = Recorder(tmp_path)
    whole = train(config, tiny_corpus, straight)
    for stop in (1, 2, 3):
        second = Recorder()
        resumed = train(config, tiny_corpus, second, checkpoint=tmp_path / f"epoch_{stop}")
        assert second.comparable() == straight.comparable()[stop:]
        assert_same_weights(resumed, whole)
