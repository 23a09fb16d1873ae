"""An utterance searched at several speeds: the text that the model is surest of is kept, with its own times."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import Learned

from trainables.config.tree import Decoding
from trainables.data.augmentation.specaugment import EpochTiming, at_speed
from trainables.decoding.evidence import LEAST, text_evidence
from trainables.evaluation.metrics import character_error_rate
from trainables.inference.export import missing_in_script
from trainables.inference.export.speech2text import missing_in_generate
from trainables.inference.recognizer import Recognizer

TEXTS = ["CAB", "A BAD CAB", "BEAD", "FADE A BEAD", "ACE"]


@pytest.fixture(params=["encoder_decoder", "transcript_editor"])
def either(request: pytest.FixtureRequest, learned: Learned, learned_editor: Learned) -> Recognizer:
    return {"encoder_decoder": learned, "transcript_editor": learned_editor}[request.param].recognizer


@pytest.fixture(scope="module")
def speech() -> list[torch.Tensor]:
    random = np.random.default_rng(7)
    return [torch.from_numpy(tiny.utterance(text, random)) for text in TEXTS]


def texts(recognizer: Recognizer, frames: list[torch.Tensor], speeds: str, batch_frames: int = 20_000) -> list[str]:
    return recognizer.transcribe(frames, recognizer.search(Decoding(speeds=speeds)), batch_frames)


def test_slow_speech_is_understood_at_a_higher_speed(either: Recognizer, speech: list[torch.Tensor]) -> None:
    slow = [at_speed(frames, 0.5) for frames in speech]
    alone, chosen = (character_error_rate(TEXTS, texts(either, slow, speeds)) for speeds in ("1", "1, 2"))
    assert chosen < alone
    assert character_error_rate(TEXTS, texts(either, speech, "1, 2")) < 0.15


def test_each_text_is_that_of_the_surest_speed(either: Recognizer, speech: list[torch.Tensor]) -> None:
    """Neither the order of the speeds nor the batch matters."""
    frames = [at_speed(item, speed) for item in speech for speed in (0.6, 1.0, 1.5)]
    alone = [texts(either, frames, speed) for speed in ("0.7", "1", "1.6")]
    together = texts(either, frames, "0.7,1,1.6")
    assert all(text in row for text, row in zip(together, zip(*alone, strict=True), strict=True))
    assert together not in alone
    assert texts(either, frames, "1.6,0.7,1", batch_frames=100) == together


def test_times_are_those_of_the_utterance_as_it_was_said(learned: Learned, speech: list[torch.Tensor]) -> None:
    recognizer = learned.recognizer
    state = recognizer.config.model.ctc_reduction * recognizer.recipe.hop_seconds
    slow = [at_speed(frames, 0.5) for frames in speech]
    found = recognizer.transcribe_timed(slow, recognizer.search(Decoding(speeds="2")))
    for text, expected in zip(found, recognizer.transcribe_timed(speech), strict=True):
        assert text.text == expected.text
        for word, once in zip(text.words, expected.words, strict=True):
            assert (word.start, word.end) == pytest.approx((2 * once.start, 2 * once.end), abs=2.5 * state)


def test_what_was_said_is_surer_than_other_texts(either: Recognizer, speech: list[torch.Tensor]) -> None:
    others = ["FEED", "DAB", "", "CAFE", "A BAD FACE"]
    with torch.no_grad():
        for indices, encoded, _ in either.encode(speech, 200):
            right, wrong = (
                text_evidence(either.model, encoded, either.tokenizer.encode([row[index] for index in indices]))
                for row in (TEXTS, others)
            )
            assert all(2 * LEAST <= unsure < sure <= 0 for sure, unsure in zip(right, wrong, strict=True))


@given(frames=st.integers(1, 200), speed=st.floats(0.5, 2))
def test_lengths_follow_the_speed(frames: int, speed: float) -> None:
    features_TF = torch.arange(float(frames))[:, None].expand(-1, 3)
    changed_TF = at_speed(features_TF, speed)
    assert len(changed_TF) == max(1, round(frames / speed)) or abs(len(changed_TF) - frames / speed) <= 0.5
    assert (changed_TF[1:] >= changed_TF[:-1]).all() and changed_TF[0, 0] == 0
    if len(changed_TF) > 1:
        assert changed_TF[-1, 0] == frames - 1


def test_speeds_change_features_as_speed_perturbation_does() -> None:
    random = torch.Generator().manual_seed(1)
    features_TF, timing = torch.rand(57, 4, generator=random), EpochTiming(0.2, 0, 20, (0, 1), torch.device("cpu"))
    for index, rate in enumerate(timing.rates_N.tolist()):
        one = timing.of(torch.full((20,), 57))
        _, place_1T = one.resample(torch.tensor([index]), int(one.lengths_N[index]))
        expected_TF = torch.from_numpy(
            np.stack([np.interp(place_1T[0].numpy(), np.arange(57), column) for column in features_TF.T.numpy()], 1)
        )
        torch.testing.assert_close(at_speed(features_TF, rate).double(), expected_TF, atol=1e-5, rtol=0)


@pytest.mark.parametrize("speeds", ["", "fast", "1,", "0.4, 1", "3", "nan", "1,1,1,1,1,1,1,1,1"])
def test_speeds_that_are_none_are_refused(speeds: str) -> None:
    with pytest.raises(ValidationError, match="speeds"):
        Decoding(speeds=speeds)


def test_exported_models_do_not_have_them() -> None:
    for missing in (missing_in_script, missing_in_generate):
        assert missing(Decoding(speeds="0.8, 1")) == ["speeds"] and missing(Decoding(speeds="1.0")) == []
