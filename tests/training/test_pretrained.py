"""A decoder that begins with a language model's weights: copying, refusals, frozen epochs, learning-rate scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from tiny import Recorder, assert_same_weights

from trainables.checksums import CHECKSUMS
from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.corpus import Corpus
from trainables.data.text.tokenizer import corpus_tokenizer
from trainables.errors import InputError
from trainables.inference.language_model import TextModel, load_language_model
from trainables.inference.model_files import WEIGHTS
from trainables.models.speech_transformer import LanguageModel
from trainables.training.loop import Trainer, train

CPU = torch.device("cpu")


def write_language_model(folder: Path, corpus: Corpus, leaves: dict[str, Any] | None = None) -> LanguageModel:
    """Writes the model directory of an untrained language model for a corpus."""
    folder.mkdir(parents=True)
    config = tiny.config({"model.kind": "language_model", **(leaves or {})})
    tokenizer = corpus_tokenizer(corpus, corpus.training_split(), config.tokenizer)
    torch.manual_seed(7)
    model = LanguageModel(config.model, tokenizer.vocab_size)
    TextModel(config, model, tokenizer, corpus.hash).save(folder)
    return model


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
def test_the_shared_weights_move_and_nothing_else_changes(tied: bool, tiny_corpus: Corpus, tmp_path: Path) -> None:
    leaves = {"model.tied_embeddings": tied}
    language_model = write_language_model(tmp_path / "lm", tiny_corpus, leaves)
    begun = Trainer(tiny.config({**leaves, "pretrained.decoder": str(tmp_path / "lm")}), tiny_corpus, CPU)
    plain = weights(Trainer(tiny.config(leaves), tiny_corpus, CPU))
    moved = {f"decoder.{name}": weight for name, weight in language_model.named_parameters()}
    assert any("self_attention" in name for name in moved) and "decoder.embedding.weight" in moved
    for name, weight in begun.model.named_parameters():
        assert torch.equal(weight, moved.get(name, plain[name])), name
    assert all("cross_attention" in name or not name.startswith("decoder.") for name in plain if name not in moved)
    assert (begun.model.decoder.output.weight is begun.model.decoder.embedding.weight) == tied


def test_a_decoder_without_its_cross_attention_is_the_language_model(tiny_corpus: Corpus, tmp_path: Path) -> None:
    language_model = write_language_model(tmp_path / "lm", tiny_corpus).eval()
    trainer = Trainer(tiny.config({"pretrained.decoder": str(tmp_path / "lm")}), tiny_corpus, CPU)
    tokens = torch.randint(5, 12, (2, 7))
    assert torch.equal(trainer.model.decoder.eval()(tokens), language_model(tokens))


def test_frozen_weights_stay_and_then_change_at_their_own_rate(tiny_corpus: Corpus, tmp_path: Path) -> None:
    moved = {f"decoder.{name}" for name, _ in write_language_model(tmp_path / "lm", tiny_corpus).named_parameters()}
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


@pytest.mark.parametrize(
    ("leaves", "named"),
    [
        ({"model.d_model": 16}, "model.d_model is 16 there and 32 here"),
        ({"model.decoder_layers": 1}, "model.decoder_layers is 1 there and 2 here"),
        ({"model.feed_forward": 64}, "model.feed_forward is 64 there and 48 here"),
        ({"model.heads": 4}, "model.heads is 4 there and 2 here"),
        ({"tokenizer.kind": "bpe", "tokenizer.vocab_size": 16}, "bpe of 16 tokens"),
    ],
)
def test_a_language_model_that_does_not_fit_is_refused(
    leaves: dict[str, Any], named: str, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    write_language_model(tmp_path / "lm", tiny_corpus, leaves)
    with pytest.raises(InputError) as error:
        Trainer(tiny.config({"pretrained.decoder": str(tmp_path / "lm")}), tiny_corpus, CPU)
    assert named in error.value.problem and str(tmp_path / "lm") in error.value.problem
    assert error.value.problem.startswith("pretrained.decoder: ")
    if "tokenizer.kind" in leaves:
        here = corpus_tokenizer(tiny_corpus, tiny_corpus.training_split(), TokenizerConfig())
        assert f"char of {here.vocab_size} tokens" in error.value.problem


@pytest.mark.parametrize(
    ("leaves", "named", "remedy"),
    [
        ({"first_position": 2}, {"model.first_position is 2 there and 0 here"}, "with model.first_position: 0"),
        ({"output_bias": True}, {"model.output_bias is True there and False here"}, "with model.output_bias: false"),
        (
            {"output_bias": True, "decoder_layers": 3},
            {"model.output_bias is True there and False here", "model.editor.layers is 3 there and 2 here"},
            "with model.output_bias: false: an editor has no key for it. Of the rest, give both equal values.",
        ),
        ({"feed_forward": 64}, {"model.editor.feed_forward is 64 there and 48 here"}, "Give both models equal values."),
    ],
)
def test_a_language_model_that_no_editor_can_begin_as_is_what_must_change(
    leaves: dict[str, Any], named: set[str], remedy: str, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """The message names keys that exist, and those of the language model where an editor has none."""
    folder = tmp_path / "lm"
    editor = tiny.config({**tiny.EDITING, "pretrained.decoder": str(folder)})
    shape = editor.model.editor.language_model().model_dump() | leaves
    write_language_model(folder, tiny_corpus, {f"model.{key}": value for key, value in shape.items()})
    with pytest.raises(InputError) as error:
        Trainer(editor, tiny_corpus, CPU)
    assert set(error.value.problem.partition("of another shape: ")[2].split("; ")) == named
    assert remedy in error.value.remedy


def test_what_is_no_language_model_is_refused(tiny_corpus: Corpus, tmp_path: Path, learned: tiny.Learned) -> None:
    write_language_model(tmp_path / "damaged", tiny_corpus)
    (tmp_path / "damaged" / WEIGHTS).write_bytes(b"x" * 20)
    write_language_model(tmp_path / "other", tiny_corpus)
    (tmp_path / "other" / CHECKSUMS).unlink()
    save_file({"norm.bias": torch.zeros(3)}, str(tmp_path / "other" / WEIGHTS))
    (tmp_path / "recognizer").mkdir()
    learned.recognizer.save(tmp_path / "recognizer")
    for name, reason in {
        "absent": "absent: not a whole model directory: config.json",
        "damaged": "model.safetensors",
        "other": "norm.bias",
        "recognizer": "its model.kind is encoder_decoder, but language_model is needed",
    }.items():
        with pytest.raises(InputError, match=re.escape(reason)) as error:
            load_language_model(str(tmp_path / name), "pretrained.decoder")
        assert error.value.problem.startswith("pretrained.decoder: ")
        assert error.value.remedy.endswith("pretrained.decoder takes the directory of a trained language model.")
        assert name != "damaged" or error.value.remedy.startswith(
            "Use another copy; if you changed the file on purpose"
        )
