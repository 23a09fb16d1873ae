"""Folds of speakers: every speaker is validated on once, by models that have not heard it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainables.config.data import Data
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.folds import Fold, balanced
from trainables.data.text.tokenizer import corpus_tokenizer
from trainables.errors import InputError
from trainables.inference.recognizer import Recognizer
from trainables.training.loop import train

SPEAKERS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0.5, 30)), min_size=1, max_size=40)


@given(utterances=SPEAKERS, folds=st.integers(2, 6))
def test_every_utterance_is_validated_on_once_and_no_voice_is_on_both_sides(
    utterances: list[tuple[str, float]], folds: int
) -> None:
    speakers, seconds = [speaker for speaker, _ in utterances], np.array([s for _, s in utterances], np.float32)
    if len(set(speakers)) < folds:
        with pytest.raises(InputError, match=rf"data.folds: {folds}: train has {len(set(speakers))} speakers"):
            Fold("train", 1, folds, True).places(speakers, seconds)
        return
    validated = []
    for number in range(1, folds + 1):
        inside, outside = (Fold("train", number, folds, side).places(speakers, seconds) for side in (True, False))
        assert len(inside) and sorted([*inside, *outside]) == list(range(len(speakers)))
        assert not {speakers[place] for place in inside} & {speakers[place] for place in outside}
        validated += inside.tolist()
    assert sorted(validated) == list(range(len(speakers)))


@given(amounts=st.dictionaries(st.text(min_size=1), st.floats(1, 100), min_size=2, max_size=30),
       folds=st.integers(2, 5))  # fmt: skip
def test_folds_differ_by_one_speaker_at_most(amounts: dict[str, float], folds: int) -> None:
    found = balanced([*amounts], [*amounts.values()], folds)
    totals = [sum(amounts[key] for key in found if found[key] == fold) for fold in range(1, folds + 1)]
    assert max(totals) - min(totals) <= max(amounts.values()) + 1e-6
    assert found == balanced([*reversed(amounts)], [*reversed(amounts.values())], folds), "whatever their order"


@given(split=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True), folds=st.integers(2, 9), data=st.data())
def test_a_side_is_found_by_its_name(split: str, folds: int, data: st.DataObject) -> None:
    fold = Fold(split, data.draw(st.integers(1, folds)), folds, data.draw(st.booleans()))
    assert Fold.named(fold.name) == fold


@pytest.mark.parametrize("name", ["train", "train.fold-0-of-5", "train.fold-6-of-5", ".fold-1-of-2", "a.part-1-of-2"])
def test_other_names_are_of_no_fold(name: str) -> None:
    assert Fold.named(name) is None


@pytest.fixture
def voices(tmp_path: Path) -> Corpus:
    return spoken_by(tmp_path / "voices", ["anna", "béla", "carl", "dora"] * 5)


def spoken_by(folder: Path, speakers: list[str | None]) -> Corpus:
    with CorpusWriter(folder, tiny.RECIPE, "test") as writer:
        for number, speaker in enumerate(speakers):
            text = tiny.SENTENCES[number % len(tiny.SENTENCES)]
            frames = tiny.utterance(text, np.random.default_rng(number))
            writer.add("train", f"{number:03d}", text, len(frames) / 100, frames, speaker)
        return writer.finish()


def test_a_corpus_opens_folds_as_splits(voices: Corpus) -> None:
    data = Data(folds=4, fold=2)
    training, validation = voices.training_split(data), voices.validation_split(data)
    assert (training.name, validation.name) == ("train.except-2-of-4", "train.fold-2-of-4")
    assert (len(training), len(validation)) == (15, 5)
    assert set(validation.speakers or ()).isdisjoint(training.speakers or ())
    assert voices.summary(validation.name) == validation.summary() and validation.summary().speakers == 1
    whole = voices.split("train")
    for place, id in enumerate(validation.ids):
        assert validation.utterance(place).equal(whole.utterance(whole.ids.index(id)))


def test_a_model_learns_from_other_voices_than_it_is_validated_on(voices: Corpus) -> None:
    rows: list[dict[str, object]] = []
    config = tiny.config({"data.folds": 2, "training.epochs": 1})
    model = train(config, voices, lambda metrics, save: rows.append(metrics))
    heard = voices.training_split(config.data)
    assert rows[0]["audio_hours"] == pytest.approx(heard.seconds.sum() / 3600)
    whole = corpus_tokenizer(voices, voices.split("train"), config.tokenizer)
    assert isinstance(model, Recognizer) and model.tokenizer.content_hash == whole.content_hash
    assert model.config.data.folds == 2


@pytest.mark.parametrize("speakers", [[None] * 4, ["anna", "béla", None, "anna"]])
def test_speakers_must_be_known(tmp_path: Path, speakers: list[str | None]) -> None:
    corpus = spoken_by(tmp_path / "unknown", speakers)
    with pytest.raises(InputError, match=r"of 4 utterances of train are not known[\s\S]*--speaker"):
        corpus.training_split(Data(folds=2))
    with pytest.raises(InputError, match=r"no split named 'dev\.fold-1-of-2'"):
        corpus.split("dev.fold-1-of-2")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"folds": 5, "fold": 6}, "fold=6 is above folds=5"),
        ({"fold": 2}, "fold=2 needs folds"),
        ({"folds": 5, "validation": "dev"}, "folds=5 and validation=dev exclude each other"),
        ({"folds": 1}, "greater than or equal to 2"),
    ],
)
def test_keys_must_fit(keys: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Data.model_validate(keys)
