"""A language model: its text, its training, its perplexity, and a decoder that begins with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from trainables.data.batch_plan import Rows
from trainables.data.corpus import Corpus
from trainables.data.text.token_batches import DeviceTexts, read_texts
from trainables.data.text.tokenizer import EOS, PAD, SOS
from trainables.errors import InputError
from trainables.evaluation.metrics import objective
from trainables.inference.language_model import TextModel
from trainables.inference.recognizer import Recognizer
from trainables.training.loop import Metrics, Trainer, train

LANGUAGE: dict[str, Any] = {
    "model.kind": "language_model",
    "training.epochs": 12,
    "training.update_tokens": 64,
    "optimizer.lr": 1e-2,
}


def trained(corpus: Corpus, leaves: dict[str, Any]) -> tuple[TextModel, list[Metrics]]:
    history: list[Metrics] = []
    model = train(tiny.config({**LANGUAGE, **leaves}), corpus, lambda metrics, save: history.append(metrics))
    assert isinstance(model, TextModel)
    return model, history


@pytest.fixture(scope="module")
def language(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a trained language model."""
    folder = tmp_path_factory.mktemp("language_model")
    trained(tiny_corpus, {})[0].save(folder)
    return folder


def test_it_learns_the_text(tiny_corpus: Corpus) -> None:
    _, history = trained(tiny_corpus, {})
    assert history[-1]["val_perplexity"] < history[0]["val_perplexity"] / 2
    assert objective(history[-1]) == "val_character_perplexity"
    assert "val_cer" not in history[-1]


def test_perplexity_is_that_of_the_texts_one_by_one(tiny_corpus: Corpus) -> None:
    """exp of the negative mean log-likelihood: per token with EOS, per character with the end as one."""
    model, history = trained(tiny_corpus, {"training.epochs": 2})
    texts = tiny_corpus.validation_split().texts or []
    nats, tokens = 0.0, 0
    model.model.eval()
    for ids in model.tokenizer.encode(texts):
        with torch.no_grad():
            log_probs_UV = model.model(torch.tensor([[SOS, *ids]]))[0].log_softmax(-1)
        nats -= sum(log_probs_UV[place, token].item() for place, token in enumerate([*ids, EOS]))
        tokens += len(ids) + 1
    characters = sum(len(text) + 1 for text in texts)
    assert history[-1]["val_perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert history[-1]["val_character_perplexity"] == pytest.approx(math.exp(nats / characters), rel=1e-4)


def test_characters_are_a_measure_that_tokenizers_share(tiny_corpus: Corpus) -> None:
    """With characters for tokens both perplexities are one."""
    _, history = trained(tiny_corpus, {"training.epochs": 1})
    assert history[0]["val_perplexity"] == pytest.approx(history[0]["val_character_perplexity"])


def test_saving_and_loading_changes_nothing(tiny_corpus: Corpus, tmp_path: Path) -> None:
    model, _ = trained(tiny_corpus, {"training.epochs": 1})
    model.save(tmp_path)
    again = TextModel.load(tmp_path)
    tokens_BU = torch.tensor([[SOS, 7, 8, 9]])
    assert again.config == model.config and again.corpus_hash == tiny_corpus.hash
    assert torch.equal(again.model.eval()(tokens_BU), model.model.eval()(tokens_BU))


def test_an_interrupted_training_goes_on_exactly(tiny_corpus: Corpus, tmp_path: Path) -> None:
    whole, history = trained(tiny_corpus, {"training.epochs": 3})
    config = tiny.config({**LANGUAGE, "training.epochs": 3})
    trainer = Trainer(config, tiny_corpus, torch.device("cpu"))
    trainer.history.append(trainer.epoch(1))
    trainer.save(tmp_path / "checkpoint")
    rest: list[Metrics] = []
    again = train(config, tiny_corpus, lambda metrics, save: rest.append(metrics), checkpoint=tmp_path / "checkpoint")
    assert [row["train_loss"] for row in rest] == [row["train_loss"] for row in history[1:]]
    assert all(
        torch.equal(one, other) for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True)
    )


def test_more_text_is_learned_from(tiny_corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("A FACE\n\nBEAD\n" * 30, encoding="utf-8")
    _, with_more = trained(tiny_corpus, {"training.epochs": 1, "data.text": str(tmp_path / "more.txt")})
    _, without = trained(tiny_corpus, {"training.epochs": 1})
    assert with_more[0]["tokens"] == without[0]["tokens"] + 30 * (len("A FACE") + len("BEAD") + 2)


def test_text_is_read_from_lines_and_from_arrays(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("ONE\nTWO\n", encoding="utf-8")
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "a.npy", np.array("ONE"))
    np.save(folder / "b.npy", np.array(list("TWO")))
    assert read_texts(tmp_path / "lines.txt") == read_texts(folder) == ["ONE", "TWO"]


def test_the_course_s_text(speech_data: Path) -> None:
    folder = speech_data / "hw4_data_subset" / "hw4p1_data"
    texts = read_texts(folder)
    assert texts == read_texts(folder / "train")
    assert len(texts) == 267 and texts[0] == "TOM THE PIPER'S SON"


def test_text_that_is_none_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "empty.txt").write_text("\n")
    for path, reason in [(tmp_path / "none.txt", "none.txt"), (tmp_path, "a.npy"), (tmp_path / "empty.txt", "no text")]:
        with pytest.raises(InputError, match=reason):
            read_texts(path)


def test_texts_are_shifted_and_padded(tiny_corpus: Corpus) -> None:
    tokenizer = trained(tiny_corpus, {"training.epochs": 1})[0].tokenizer
    data = DeviceTexts(["CAB", "A"], tokenizer, torch.device("cpu"))
    batch = data.gather(Rows.of(np.array([1, 0])), 5)
    (a,), cab = tokenizer.encode(["A"])[0], tokenizer.encode(["CAB"])[0]
    assert batch.inputs_BU.tolist() == [[SOS, a, PAD, PAD, PAD], [SOS, *cab, PAD]]
    assert batch.targets_BU.tolist() == [[a, EOS, PAD, PAD, PAD], [*cab, EOS, PAD]]


def test_a_model_of_the_other_kind_is_refused(language: Path) -> None:
    with pytest.raises(
        InputError, match=r"model\.kind is language_model, but encoder_decoder or transcript_editor is needed"
    ):
        Recognizer.load(language)
