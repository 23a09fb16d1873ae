"""Tuned decoding options are compared on a split that the model has not met, and never lost by that comparison."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import babbler
import numpy as np
import pytest
import tiny
from place import Run

from asr_platform.inference import decoding_study
from asr_platform.inference import tune_decoding as module
from asr_platform.inference.decoding_study import OutOfTimeError, Study
from asr_platform.inference.tune_decoding import COMPARING_SECONDS, held_out_splits, tune_decoding
from asr_platform.tracking.model_card import CARD
from trainables.config.data import Data
from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.inference.decoding_options import DECODING
from trainables.inference.model_directory import read_decoding
from trainables.inference.recognizer import Recognizer


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return babbler.write_corpus(tmp_path / "corpus", transcribed=True)


@pytest.fixture
def model(corpus: Corpus, tmp_path: Path) -> Path:
    babbler.save_model(corpus, tmp_path / "model")
    (tmp_path / "model" / CARD).write_text("# small\n\n## Training data\n")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def few_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer searches than a study has."""
    monkeypatch.setattr(decoding_study, "MOST_SEARCHES", 6)


class SlowEncoder:
    """A clock that only encoding moves on: by `rate` seconds for a second of audio."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
        self.now, self.batches = 0.0, 0
        encode = Recognizer.encode

        def slow(recognizer: Recognizer, *arguments: Any) -> Iterator[Any]:
            for indices, encoded, frames_B in encode(recognizer, *arguments):
                self.now += rate * float(frames_B.sum()) * recognizer.recipe.hop_seconds
                self.batches += 1
                yield indices, encoded, frames_B

        monkeypatch.setattr(Recognizer, "encode", slow)
        monkeypatch.setattr(decoding_study, "time", SimpleNamespace(monotonic=lambda: self.now))


def check_stored(model: Path) -> None:
    """Checks that options, their figures and the card are there, without a comparison."""
    own = read_decoding(model)
    assert own is not None and own.tuning is not None and own.tuning.test is None
    card = (model / CARD).read_text()
    assert f"| own | {own.tuning.tuned.cer:.2%} |" in card and "not chosen" not in card


def test_a_damaged_test_split_leaves_the_tuned_options(corpus: Corpus, model: Path, run: Run) -> None:
    damaged = corpus.path / "test.arrow"
    damaged.write_bytes(damaged.read_bytes()[:100])
    found = tune_decoding(model, corpus.path)
    assert found.not_compared is not None and f"{damaged}: unreadable" in found.not_compared
    check_stored(model)
    (model / DECODING).unlink()
    ended = run("tune-decoding", str(model), "--data", str(corpus.path))
    printed = " ".join(ended.out.split())
    assert ended.code == 0 and "test: not compared: " in printed and "unreadable" in printed
    check_stored(model)


@pytest.mark.parametrize("fault", [OSError("gone"), RuntimeError("out of memory"), MemoryError(), KeyboardInterrupt()])
def test_what_goes_wrong_in_the_comparison_leaves_the_tuned_options(
    fault: BaseException, corpus: Corpus, model: Path
) -> None:
    """An interrupt ends the command as well."""

    def stop() -> bool:
        if "## Decoding" in (model / CARD).read_text():
            raise fault
        return False

    if isinstance(fault, Exception):
        assert tune_decoding(model, corpus.path, stop=stop).not_compared == (str(fault) or "MemoryError")
    else:
        with pytest.raises(KeyboardInterrupt):
            tune_decoding(model, corpus.path, stop=stop)
    check_stored(model)


def test_the_number_of_utterances_counts_their_encoding(
    corpus: Corpus, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that searches do not move on, and as many as fit into the time."""
    monkeypatch.setattr(module, "PROBED", 1)
    split = corpus.split("test")
    needed = np.cumsum(split.seconds[np.random.default_rng(0).permutation(len(split))])
    for count in (2, 4):
        with monkeypatch.context() as patched:
            SlowEncoder(patched, COMPARING_SECONDS / float(needed[count - 1] + needed[count]) * 2)
            found = tune_decoding(model, corpus.path)
        assert found.not_compared is None and found.tuning.test is not None
        assert (found.tuning.test.utterances, found.tuning.test.of) == (count, len(split))


def test_slow_encoding_ends_a_comparison(corpus: Corpus, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline or when it is told to, after the batch that is being encoded."""
    split, recognizer = corpus.split("test"), Recognizer.load(model)
    shortest = float(split.seconds.min())
    encoder = SlowEncoder(monkeypatch, 1.0)
    with pytest.raises(OutOfTimeError, match="the time is over"):
        Study(recognizer, split).compare(range(len(split)), [Decoding()], shortest / 2)
    assert encoder.batches == 1
    with pytest.raises(OutOfTimeError):
        Study(recognizer, split, stop=lambda: encoder.batches == 3).compare(range(len(split)), [Decoding()], 1000.0)
    assert encoder.batches == 3


def write_splits(folder: Path, names: list[str]) -> Corpus:
    """A corpus with splits of these names, of two speakers each."""
    random = np.random.default_rng(0)
    with CorpusWriter(folder, tiny.RECIPE, "tiny") as writer:
        for name in names:
            for speaker, text in zip("ab", babbler.SENTENCES, strict=False):
                features = tiny.utterance(text, random)
                seconds = len(features) * tiny.RECIPE.hop_seconds
                writer.add(name, f"{name}-{speaker}", text, seconds, features, speaker)
        return writer.finish()


def test_what_a_model_was_chosen_by_is_no_test_split(tmp_path: Path) -> None:
    """Whatever its name; a split named test* comes before splits such as Common Voice's `invalidated`."""
    corpus = write_splits(tmp_path / "corpus", ["adapt", "dev", "invalidated", "si284", "test"])

    def found(tuned_on: str, **data: Any) -> list[str]:
        return held_out_splits(corpus, Data(**data), corpus.split(tuned_on))

    assert found("dev", train="si284") == ["test", "adapt", "invalidated"]
    assert found("adapt", train="si284", validation="adapt") == ["test", "invalidated"]
    assert found("invalidated", train="si284", validation="adapt") == ["test"]
    assert found("si284.fold-1-of-2", train="si284", folds=2) == ["test", "adapt", "invalidated"]
    assert found("adapt.fold-1-of-2", train="si284", folds=2) == ["test", "invalidated"]
    assert found("dev", train="absent", validation="test") == ["adapt", "invalidated", "si284"]


def test_a_training_split_named_like_a_test_split_is_not_compared_on(tmp_path: Path) -> None:
    corpus = write_splits(tmp_path / "corpus", ["dev", "si284"])
    trained = babbler.write_corpus(tmp_path / "trained")
    recognizer = babbler.save_model(trained, tmp_path / "other")
    assert (test := tune_decoding(tmp_path / "other", corpus.path).tuning.test) and test.split == "si284"
    recognizer.config = recognizer.config.model_copy(update={"data": Data(train="si284")})
    (tmp_path / "model").mkdir()
    recognizer.save(tmp_path / "model")
    found = tune_decoding(tmp_path / "model", corpus.path)
    assert found.tuning.test is None and found.not_compared is None
