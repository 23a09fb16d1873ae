"""A training that begins with another recogniser's weights: what fits is taken, token by token where it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.recognizer import Recognizer
from trainables.models.speech_transformer import SpeechModel
from trainables.training.loop import Trainer, train
from trainables.training.pretrained import LEAST_SHARE, load_initial_model

CPU = torch.device("cpu")
OTHER_TEXTS = [text.replace("F", "X") for text in tiny.SENTENCES]  # one character more or less, others at other ids


@pytest.fixture(scope="module")
def source(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """A recogniser with three encoder layers, trained for an epoch, in the folder `models/source`."""
    config = tiny.config({"model.encoder_layers": 3, "training.epochs": 1})
    folder = tmp_path_factory.mktemp("models") / "source"
    folder.mkdir()
    trained = train(config, tiny_corpus, lambda metrics, save: None)
    trained.save(folder)
    return Recognizer.load(folder)


@pytest.fixture
def folder(source: Recognizer, tmp_path: Path) -> str:
    source.save(tmp_path)
    return str(tmp_path)


def started(corpus: Corpus, leaves: dict[str, Any]) -> Trainer:
    return Trainer(tiny.config(leaves), corpus, CPU)


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def test_what_has_equal_name_and_shape_is_taken(folder: str, source: Recognizer, tiny_corpus: Corpus) -> None:
    """A shallower model takes all, a deeper one keeps its own last layers, a wider sublayer its own weights."""
    theirs = state(source.model)
    for leaves in ({}, {"model.encoder_layers": 4}, {"model.feed_forward": 64}):
        plain, begun = (state(started(tiny_corpus, {**leaves, **more}).model) for more in (
            {}, {"pretrained.model": folder}
        ))  # fmt: skip
        for name, weight in begun.items():
            fits = name in theirs and theirs[name].shape == weight.shape
            assert torch.equal(weight, theirs[name] if fits else plain[name]), name
    assert any("encoder.layers.3" in name for name in state(started(tiny_corpus, {"model.encoder_layers": 4}).model))


def test_tokens_are_taken_by_their_text(folder: str, source: Recognizer, tmp_path: Path) -> None:
    """Embeddings, output and CTC head of the characters and special tokens that both have; the others are new."""
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train": OTHER_TEXTS, "dev": OTHER_TEXTS[:2]})
    plain, trainer = started(corpus, {}), started(corpus, {"pretrained.model": folder})
    ours, there = trainer.task.trained.tokenizer.texts, list(source.tokenizer.texts)
    assert "X" in ours and "X" not in there and len(ours) == len(there)
    for name in ("decoder.embedding.weight", "decoder.output.weight", "ctc_head.weight", "ctc_head.bias"):
        begun, fresh, theirs = (state(model)[name] for model in (trainer.model, plain.model, source.model))
        for number, text in enumerate(ours):
            known = number if number < 5 else there.index(text) if text in there else None
            assert torch.equal(begun[number], fresh[number] if known is None else theirs[known]), (name, text)
        assert name not in trainer.task.pretrained, "so that new tokens are never frozen"
    assert 0.9 < trainer.task.pretrained_share < 1


def test_the_share_is_in_the_metrics_and_a_resumed_run_is_equal(
    folder: str, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    config = tiny.config({"pretrained.model": folder, "pretrained.lr_scale": 0.5, "training.epochs": 2})
    straight, second = tiny.Recorder(tmp_path), tiny.Recorder()
    whole = train(config, tiny_corpus, straight)
    assert [row["pretrained_share"] for row in straight.comparable()] == [1.0, 1.0]
    resumed = train(config, tiny_corpus, second, checkpoint=tmp_path / "epoch_1")
    assert second.comparable() == straight.comparable()[1:]
    tiny.assert_same_weights(resumed, whole)


def test_it_starts_where_the_other_has_ended(folder: str, source: Recognizer, tiny_corpus: Corpus) -> None:
    trainer = started(tiny_corpus, {"model.encoder_layers": 3, "pretrained.model": folder})
    assert isinstance(trainer.model, SpeechModel)
    features, lengths = torch.rand(2, 30, tiny.BINS), torch.tensor([30, 20])
    (ours, _), (theirs, _) = (
        model.eval().ctc_logits(model.encode(features, lengths)) for model in (trainer.model, source.model)
    )
    assert torch.equal(ours, theirs)


def test_a_model_of_another_width_is_refused(folder: str, tiny_corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"pretrained\.model: \d+% of the parameters fit") as error:
        started(tiny_corpus, {"model.d_model": 48, "pretrained.model": folder})
    assert "model.d_model is 32 there and 48 here" in error.value.problem and LEAST_SHARE > 0


def test_where_all_would_be_frozen_the_key_is_named(folder: str, tiny_corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"pretrained\.frozen_epochs: every parameter"):
        started(tiny_corpus, {"pretrained.model": folder, "pretrained.frozen_epochs": 1})


def test_what_is_no_recogniser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^pretrained\.model: .*not a whole model directory") as error:
        load_initial_model(str(tmp_path / "absent"))
    assert error.value.remedy.endswith("pretrained.model takes the directory of a trained recogniser.")
