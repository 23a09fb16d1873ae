"""The confidence of words: high where they are right, and as high as they are right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Learned

from asr_platform.inference.calibration import calibrate, calibration_error
from asr_platform.inference.decoding_study import Batch
from trainables.data.corpus import Corpus
from trainables.decoding.evidence import LEAST, heads
from trainables.errors import DamagedError
from trainables.inference.model_directory import copy_model
from trainables.inference.model_files import CONFIDENCE
from trainables.inference.recognizer import Recognizer
from trainables.inference.words import Confidence, aligned_words, confidence_of, write_confidence


@pytest.fixture(params=["encoder_decoder", "transcript_editor"])
def either(request: pytest.FixtureRequest, learned: Learned, learned_editor: Learned) -> Recognizer:
    return {"encoder_decoder": learned, "transcript_editor": learned_editor}[request.param].recognizer


def speech(sentences: list[str], noise: float = 0.0) -> list[np.ndarray]:
    """Speech with a level of noise for each utterance, between none and `noise` dB."""
    random = np.random.default_rng(5)
    said = [tiny.utterance(text, random) for text in sentences]
    return [frames + random.uniform(0, noise) * random.normal(0, 1, frames.shape).astype(np.float32) for frames in said]


def batches(recognizer: Recognizer, texts: list[str], frames: list[np.ndarray]) -> Iterator[Batch]:
    with torch.no_grad():
        for indices, encoded, lengths_B in recognizer.encode(frames, 300):
            yield Batch([str(index) for index in indices], [texts[index] for index in indices], encoded, lengths_B)


def written(recognizer: Recognizer, found: list[Batch]) -> list[str]:
    """Texts that the recogniser gives for the utterances of all batches, in order."""
    search = recognizer.search()
    return [text for batch in found for text in recognizer.decode(search, batch.encoded, batch.frames_B)]


def test_right_words_are_surer_than_wrong_ones(either: Recognizer) -> None:
    """Evidence of the words that were said is higher than that of other words aligned with the same speech."""
    said, others = ["BAD CAB", "BEAD"], ["DAB FEE", "CAFE"]
    with torch.no_grad():
        for indices, encoded, _ in either.encode(speech(said)):
            rows = [[texts[index].split() for index in indices] for texts in (said, others)]
            right, wrong = (aligned_words(either, row, encoded, True) for row in rows)
    for one, other in zip(right, wrong, strict=True):
        assert len(one.evidence) == len(one.spans) == len(other.evidence)
        assert all(len(evidence) == len(heads(either.model)) for evidence in one.evidence)
        for sure, unsure in zip(one.evidence, other.evidence, strict=True):
            assert all(LEAST <= low < high <= 0 for low, high in zip(unsure, sure, strict=True))


def test_evidence_does_not_depend_on_the_batch(either: Recognizer) -> None:
    texts = ["A BAD CAB", "BEAD", "", "FADE A BEAD"]
    frames = speech(["A BAD CAB", "BEAD", "A", "FADE A BEAD"])

    def evidence(chosen: list[int]) -> list[list[list[float]]]:
        with torch.no_grad():
            ((indices, encoded, _),) = either.encode([frames[index] for index in chosen])
            rows = [texts[chosen[index]].split() for index in indices]
            found = [aligned.evidence for aligned in aligned_words(either, rows, encoded, True)]
        return [found[indices.index(place)] for place in range(len(chosen))]

    together = evidence([0, 1, 2, 3])
    assert together[2] == []
    for index, expected in enumerate(together):
        (alone,) = evidence([index])
        np.testing.assert_allclose(np.array(alone), np.array(expected), atol=1e-4)


@pytest.fixture
def calibrated(either: Recognizer, tiny_corpus: Corpus) -> Confidence:
    """A calibration on speech of which some is so noisy that the model gets it wrong."""
    texts = tiny.SENTENCES * 6
    found = list(batches(either, texts, speech(texts, noise=25.0)))
    confidence = calibrate(either, found, written(either, found), tiny_corpus.hash, "dev")
    assert confidence is not None
    return confidence


def test_calibration(either: Recognizer, calibrated: Confidence) -> None:
    """Clean speech is surer than noise; the error over words that were held out is small."""
    assert 0.05 < calibrated.wrong / calibrated.words < 0.95
    assert 0 <= calibrated.calibration_error < 0.15
    either.confidence = calibrated
    try:
        clean = either.transcribe_timed(speech(["A BAD CAB"]))[0].words
        noise = either.transcribe_timed(speech(["A BAD CAB"], noise=60.0))[0].words
    finally:
        either.confidence = None
    sure = [word.confidence or 0 for word in clean]
    assert [word.text for word in clean] == ["A", "BAD", "CAB"] and min(sure) > 0.6
    assert all(0 < (word.confidence or 0) < 1 for word in [*clean, *noise])
    assert np.mean([word.confidence for word in noise] or [0]) < np.mean(sure)
    assert [word.confidence for word in either.transcribe_timed(speech(["BEAD"]))[0].words] == [None]


def test_few_wrong_words_leave_some_doubt(learned: Learned, tiny_corpus: Corpus) -> None:
    """Where every word is right, none is certain; where there are hardly any utterances, there is no calibration."""
    recognizer, texts = learned.recognizer, ["BEAD", "CAB", "A FACE", "CAFE", "DEAF BEE", "BAD FACE"]
    found = list(batches(recognizer, texts, speech(texts)))
    search = recognizer.search()
    right = [replace(batch, references=recognizer.decode(search, batch.encoded, batch.frames_B)) for batch in found]
    confidence = calibrate(recognizer, right, written(recognizer, right), tiny_corpus.hash, "dev")
    assert confidence is not None and confidence.wrong == 0
    assert 0.5 < confidence.of([0.0, 0.0]) < 1
    few = list(batches(recognizer, texts[:4], speech(texts[:4])))
    assert calibrate(recognizer, few, written(recognizer, few), tiny_corpus.hash, "dev") is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error(words: list[tuple[float, bool]]) -> None:
    """The mean over ten bins of |share right - mean confidence|, weighted by their words."""
    confidence, right = np.array([one for one, _ in words]), np.array([one for _, one in words])
    expected = 0.0
    for low in range(10):
        inside = [pair for pair in words if low <= min(pair[0] * 10, 9.999) < low + 1]
        if inside:
            means = np.mean(inside, axis=0)
            expected += abs(means[0] - means[1]) * len(inside) / len(words)
    assert calibration_error(confidence, right) == pytest.approx(expected)


def test_a_calibration_is_kept_with_the_model(either: Recognizer, calibrated: Confidence, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    either.save(tmp_path / "model")
    write_confidence(tmp_path / "model", calibrated)
    copied = copy_model(tmp_path / "model", tmp_path / "copy")
    assert Recognizer.load(copied).confidence == calibrated
    tree = calibrated.model_dump(mode="json")
    for wrong, problem in (
        ("{", "not readable"),
        (json.dumps({**tree, "coefficients": [1.0] * 3}), "3 coefficients for the heads ctc"),
        (json.dumps({**tree, "words": 0}), "words: Input should be greater"),
    ):
        (copied / CONFIDENCE).write_text(wrong)
        with pytest.raises(DamagedError, match=problem):
            confidence_of(copied, either.model)


def test_a_model_without_ctc_has_no_confidences(tiny_corpus: Corpus) -> None:
    recognizer = tiny.learn(tiny_corpus, {"loss.ctc_weight": 0.0, "training.epochs": 1}).recognizer
    assert calibrate(recognizer, [], [], tiny_corpus.hash, "dev") is None
