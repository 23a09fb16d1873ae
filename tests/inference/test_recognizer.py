"""A model directory gives back the recogniser that was saved, and batching never changes a transcript."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from tiny import Learned

from trainables.checksums import CHECKSUMS
from trainables.config.parsing import FORMER_VALUES
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.evaluation.metrics import character_error_rate
from trainables.inference.model_directory import copy_model
from trainables.inference.model_files import CONFIG, FEATURES, TOKENIZER, WEIGHTS
from trainables.inference.recognizer import USUAL_SECONDS, Recognizer
from trainables.training.loop import train

TEXTS = ["CAB", "A BAD CAB", "BEAD", "FADE A BEAD", "ACE"]


@pytest.fixture(scope="module")
def speech() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(7)
    return [tiny.utterance(text, random) for text in TEXTS]


@pytest.fixture(params=["learned", "learned_editor"])
def either(request: pytest.FixtureRequest) -> Learned:
    """A recogniser of each kind, by turns."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def saved(learned: Learned, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    learned.recognizer.save(folder)
    return folder


def test_transcripts_come_in_the_order_of_the_audio(either: Learned, speech: list[NDArray[np.float32]]) -> None:
    assert character_error_rate(TEXTS, either.recognizer.transcribe(speech)) < 0.15
    backwards = either.recognizer.transcribe(speech[::-1])
    assert backwards == either.recognizer.transcribe(speech)[::-1]
    assert either.recognizer.transcribe([]) == []


def test_a_batch_gives_what_one_by_one_gives(either: Learned, speech: list[NDArray[np.float32]]) -> None:
    one_by_one = [either.recognizer.transcribe([features])[0] for features in speech]
    assert either.recognizer.transcribe(speech) == one_by_one
    assert either.recognizer.transcribe(speech, batch_frames=100) == one_by_one


def test_it_transcribes_what_validation_heard(either: Learned, tiny_corpus: Corpus) -> None:
    split = tiny_corpus.split("dev")
    spans = zip(split.offsets, split.frames, strict=True)
    texts = either.recognizer.transcribe([split.features[start : start + frames] for start, frames in spans])
    assert split.texts is not None
    assert character_error_rate(split.texts, texts) == either.history[-1]["val_cer"]


def test_a_round_trip_keeps_everything(either: Learned, speech: list[NDArray[np.float32]], tmp_path: Path) -> None:
    recognizer = either.recognizer
    recognizer.save(tmp_path)
    loaded = Recognizer.load(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*Recognizer.FILES, CHECKSUMS}
    assert loaded.transcribe(speech) == recognizer.transcribe(speech)
    for name in ("config", "recipe", "tokens_per_frame", "usual_seconds", "corpus_hash", "parameters"):
        assert getattr(loaded, name) == getattr(recognizer, name)
    assert loaded.tokenizer.content_hash == recognizer.tokenizer.content_hash
    assert torch.equal(loaded.mean, recognizer.mean) and torch.equal(loaded.std, recognizer.std)
    for one, other in zip(loaded.model.parameters(), recognizer.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_from_before_a_key_existed_has_its_former_value(
    tiny_corpus: Corpus, speech: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    config = tiny.config({**FORMER_VALUES, "training.epochs": 1})
    recognizer = train(config, tiny_corpus, lambda metrics, save: None)
    recognizer.save(tmp_path)
    loaded = Recognizer.load(tiny.written_before(tmp_path))
    assert loaded.config == config != tiny.config({"training.epochs": 1})
    assert isinstance(recognizer, Recognizer) and loaded.transcribe(speech) == recognizer.transcribe(speech)


def test_a_model_may_not_say_how_long_its_utterances_were(saved: Path) -> None:
    """As those do not that were trained earlier, before there were checksums."""
    (saved / CHECKSUMS).unlink()
    tree = json.loads((saved / FEATURES).read_text(encoding="utf-8"))
    assert tree.pop("usual_seconds") < USUAL_SECONDS
    (saved / FEATURES).write_text(json.dumps(tree), encoding="utf-8")
    assert Recognizer.load(saved).usual_seconds == USUAL_SECONDS


def test_words_are_found_where_they_were_said(either: Learned) -> None:
    """Within a few frames, of several utterances at once as of one; a character that was never seen is a word too."""
    random = np.random.default_rng(3)
    texts = ["A BAD CAB", "BEAD", "  FADE A  BEAD "]
    speech, spoken = [], []
    for text in texts:
        words = text.split()
        said = [tiny.utterance(part, random) for word in words for part in (word, " ")][:-1]
        ends = np.cumsum([len(part) for part in said]) * tiny.RECIPE.hop_seconds
        speech.append(np.concatenate(said))
        spoken.append(list(zip(words, np.concatenate([[0.0], ends[1::2]]), ends[::2], strict=True)))
    found = tiny.align(either.recognizer, speech, texts)
    for words, truth in zip(found, spoken, strict=True):
        assert [word.text for word in words] == [text for text, _, _ in truth]
        for word, (_, start, end) in zip(words, truth, strict=True):
            assert abs(word.start - start) < 0.06 and abs(word.end - end) < 0.06
    assert tiny.align(either.recognizer, speech[:1], texts[:1]) == found[:1]
    (unseen,) = tiny.align(either.recognizer, speech[:1], ["A Ω? CAB"])
    assert [word.text for word in unseen] == ["A", "Ω?", "CAB"]
    assert all(word.start < word.end for word in unseen)
    assert tiny.align(either.recognizer, speech[:1], [""]) == [[]]
    assert tiny.align(either.recognizer, [], []) == []


def test_loading_leaves_the_model_ready_to_transcribe(saved: Path) -> None:
    assert not Recognizer.load(saved).model.training


@pytest.mark.parametrize("missing", Recognizer.FILES)
def test_a_missing_file_is_named(missing: str, saved: Path) -> None:
    (saved / missing).unlink()
    with pytest.raises(InputError, match=f"not a whole model directory: {missing} missing"):
        Recognizer.load(saved)


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        Recognizer.load(tmp_path)
    assert all(name in error.value.problem for name in Recognizer.FILES)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, b"[]"),
        (CONFIG, b"{"),
        (CONFIG, b'{"format": 1}'),
        (CONFIG, b'{"format": 2, "config": {"model": {"d_modle": 3}}, "corpus_hash": ""}'),
        (FEATURES, b'{"mean": [1.0]}'),
        (FEATURES, b"null"),
        (FEATURES, b'{"recipe": {"name": "librosa"}, "mean": [1.0], "std": [1.0]}'),
        (FEATURES, b'{"recipe": {}, "mean": ["1.0"], "std": [1.0]}'),
        (TOKENIZER, b"not a tokenizer"),
        (WEIGHTS, b"\x80\x04K\x01."),
        (WEIGHTS, b""),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, saved: Path) -> None:
    (saved / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        Recognizer.load(saved)


def test_another_format_is_refused(saved: Path) -> None:
    tree = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    (saved / CONFIG).write_text(json.dumps({**tree, "format": 99}), encoding="utf-8")
    with pytest.raises(InputError, match="model format 99, but this version reads 2"):
        Recognizer.load(saved)


def test_weights_of_another_shape_are_refused(learned: Learned, saved: Path) -> None:
    (saved / CHECKSUMS).unlink()
    tree = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    tree["config"]["model"]["feed_forward"] += 8
    (saved / CONFIG).write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(InputError, match=WEIGHTS):
        Recognizer.load(saved)


def test_a_copy_is_a_model_and_replaces_an_earlier_one(saved: Path, tmp_path: Path) -> None:
    for extra in ("optimizer.safetensors", "training.json"):
        (saved / extra).touch()
    copied = copy_model(saved, tmp_path / "winners" / "best")
    assert {path.name for path in copied.iterdir()} == {*Recognizer.FILES, CHECKSUMS}
    (copied / "from_before").touch()
    assert copy_model(saved, copied) == copied
    assert {path.name for path in copied.iterdir()} == {*Recognizer.FILES, CHECKSUMS}
    assert list(copied.parent.iterdir()) == [copied]
    assert Recognizer.load(copied).parameters == Recognizer.load(saved).parameters


def test_a_copy_that_fails_leaves_the_earlier_model(saved: Path, tmp_path: Path) -> None:
    copied = copy_model(saved, tmp_path / "winners" / "best")
    (saved / WEIGHTS).unlink()
    with pytest.raises(OSError, match=WEIGHTS):
        copy_model(saved, copied)
    assert Recognizer.load(copied).parameters
    assert list(copied.parent.iterdir()) == [copied]
