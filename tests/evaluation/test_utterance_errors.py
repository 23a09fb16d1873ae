"""The errors kept of each utterance are those that the reported rates count, in the corpus' order."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.config.parsing import parse_config
from trainables.data.corpus import Corpus
from trainables.evaluation.metrics import character_error_rate, word_error_rate
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_directory import copy_model
from trainables.inference.model_files import ERRORS
from trainables.training.loop import Trainer

CPU = torch.device("cpu")
texts = st.text(st.sampled_from("AB É"), max_size=12)
spoken = texts.filter(str.strip)


@given(st.lists(st.tuples(spoken, texts), min_size=1, max_size=8))
def test_they_sum_to_the_rates(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [one for one, _ in pairs], [other for _, other in pairs]
    errors = UtteranceErrors.of("dev", 1, [str(number) for number in range(len(pairs))], references, hypotheses)
    assert errors.cer == character_error_rate(references, hypotheses)
    assert errors.wer == word_error_rate(references, hypotheses)
    for index, pair in enumerate(pairs):
        alone = UtteranceErrors.of("dev", 1, ["0"], [pair[0]], [pair[1]])
        assert (errors.character_errors[index], errors.words[index]) == (alone.character_errors[0], alone.words[0])


@pytest.mark.parametrize("average", [1, 3])
def test_a_checkpoint_has_those_of_the_reported_validation(average: int, tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Exactly: also where the last epoch's model is an average, which is validated after the epoch's own weights."""
    trainer = Trainer(tiny.config({"training.epochs": 3, "training.average": average}), tiny_corpus, CPU)
    split = tiny_corpus.validation_split()
    for epoch in (1, 2, 3):
        trainer.history.append(trainer.epoch(epoch))
        trainer.save(tmp_path / "checkpoint")
        errors = UtteranceErrors.load(tmp_path / "checkpoint" / ERRORS)
        assert errors is not None
        assert (errors.split, errors.epoch) == ("dev", epoch)
        assert (errors.ids, errors.references) == (split.ids, split.texts)
        assert errors.cer == trainer.history[-1]["val_cer"]
        assert errors.wer == trainer.history[-1]["val_wer"]
        frames = [split.features[start : start + count] for start, count in
                  zip(split.offsets, split.frames, strict=True)]  # fmt: skip
        with trainer.averages.applied(trainer.averages.ends_with_mean(epoch)):
            assert trainer.task.trained.transcribe(frames) == errors.hypotheses  # type: ignore[attr-defined]


def test_a_model_directory_keeps_them(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trainer = Trainer(tiny.config(), tiny_corpus, CPU)
    trainer.history.append(trainer.epoch(1))
    trainer.save(tmp_path / "checkpoint")
    model = copy_model(tmp_path / "checkpoint", tmp_path / "model")
    assert trainer.task.examples is not None
    assert UtteranceErrors.load(model / ERRORS) == trainer.task.examples.errors


def test_a_language_model_has_none(tiny_corpus: Corpus, tmp_path: Path) -> None:
    tree = {"model": {**tiny.TREE["model"], "kind": "language_model"}, "training": {"epochs": 1, "update_tokens": 100}}
    trainer = Trainer(parse_config(tree, "test"), tiny_corpus, CPU)
    trainer.history.append(trainer.epoch(1))
    trainer.save(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint" / ERRORS).exists()
    copy_model(tmp_path / "checkpoint", tmp_path / "model")


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / ERRORS
    assert UtteranceErrors.load(path) is None
    UtteranceErrors.of("dev", 1, ["a"], ["CAB"], ["CAT"]).save(path)
    whole = path.read_text()
    for content in (whole[: len(whole) // 2], "{}", "[]", '{"epoch": 3}'):
        path.write_text(content)
        assert UtteranceErrors.load(path) is None


def test_speakers_are_kept(tmp_path: Path) -> None:
    path, anna = tmp_path / ERRORS, UtteranceErrors.of("dev", 1, ["a", "b"], ["CAB", "A"], ["CAT", "A"], ["anna", None])
    anna.save(path)
    assert UtteranceErrors.load(path) == anna and anna.speakers == ["anna", None]
    path.write_text(json.dumps({key: value for key, value in asdict(anna).items() if key != "speakers"}))
    assert UtteranceErrors.load(path) == replace(anna, speakers=None), "as versions without speakers wrote it"
    assert UtteranceErrors.of("dev", 1, ["a"], ["CAB"], ["CAT"], [None]).speakers is None


def test_only_the_same_utterances_can_be_paired() -> None:
    def errors(ids: list[str], references: list[str]) -> UtteranceErrors:
        return UtteranceErrors.of("dev", 1, ids, references, ["CAT"] * len(ids))

    one = errors(["a", "b"], ["CAB", "BEE"])
    assert one.same_utterances(UtteranceErrors.of("test", None, ["a", "b"], ["CAB", "BEE"], ["", ""]))
    assert not one.same_utterances(errors(["a"], ["CAB"]))
    assert not one.same_utterances(errors(["b", "a"], ["CAB", "BEE"]))
    assert not one.same_utterances(errors(["a", "b"], ["CAB", "BED"]))
