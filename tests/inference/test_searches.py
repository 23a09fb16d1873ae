"""Every search that the configuration names, from features to text."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tiny
import torch
from tiny import Learned

from trainables.config.tree import Decoding, Tokenizer
from trainables.data.corpus import Corpus
from trainables.data.text.tokenizer import Tokenizer as TrainedTokenizer
from trainables.decoding.decode import Search
from trainables.errors import InputError
from trainables.evaluation.metrics import character_error_rate
from trainables.inference.recognizer import Recognizer
from trainables.training.loop import Metrics, train

METHODS = get_args(Decoding.model_fields["method"].annotation)
TEXTS = ["CAB", "A BAD CAB", "BEAD", "FADE A BEAD", "ACE"]


def speech() -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [tiny.utterance(text, random) for text in TEXTS]


def transcripts(recognizer: Recognizer, **decoding: Any) -> list[str]:
    return recognizer.transcribe(speech(), recognizer.search(Decoding.model_validate(decoding)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_hears_what_was_learned(learned: Learned, method: str) -> None:
    assert character_error_rate(TEXTS, transcripts(learned.recognizer, method=method)) < 0.2


def test_searches_that_are_one_another(learned: Learned) -> None:
    greedy = transcripts(learned.recognizer)
    assert transcripts(learned.recognizer, method="beam", beam=1) == greedy
    assert transcripts(learned.recognizer, method="joint", beam=1, ctc_weight=0.0) == greedy
    assert transcripts(learned.recognizer, method="ctc_beam", beam=1) == transcripts(learned.recognizer, method="ctc")


def test_joint_search_listens_to_ctc(learned: Learned) -> None:
    """Beside a decoder that hears nothing, CTC decides; all tokens are its candidates."""
    recognizer = copy.deepcopy(learned.recognizer)
    with torch.no_grad():
        for parameter in recognizer.model.decoder.parameters():
            parameter.mul_(0.1)
    heard = transcripts(recognizer, method="joint", ctc_weight=0.99, candidates=100, beam=10)
    assert heard == transcripts(recognizer, method="ctc_beam", beam=10)
    assert heard != transcripts(recognizer, method="beam")


def test_a_language_model_is_one_more_voice(learned: Learned, tmp_path: Path) -> None:
    """A faint one changes nothing; a loud one says the same whatever is heard."""
    folder = str(tiny.save_language_model(learned.recognizer, tmp_path / "lm"))
    frames = min(map(len, speech()))
    equally_long = [item[:frames] for item in speech()]
    for method in ("greedy", "beam", "joint"):
        asked = {"method": method, "language_model": folder}
        assert transcripts(learned.recognizer, **asked, lm_weight=1e-6) == transcripts(
            learned.recognizer, method=method
        )
        loud = Decoding.model_validate({**asked, "lm_weight": 1e4, "candidates": 100})
        assert len(set(learned.recognizer.transcribe(equally_long, learned.recognizer.search(loud)))) == 1


def test_a_language_model_of_another_tokenizer_is_refused(learned: Learned, tmp_path: Path) -> None:
    other = TrainedTokenizer.train(["ABC"], Tokenizer())
    folder = str(tiny.save_language_model(learned.recognizer, tmp_path / "lm", other))
    with pytest.raises(InputError, match=r"decoding\.language_model: .*lm has another tokenizer") as error:
        transcripts(learned.recognizer, method="beam", language_model=folder, lm_weight=0.1)
    for tokenizer in (other, learned.recognizer.tokenizer):
        assert f"char of {tokenizer.vocab_size} tokens" in error.value.problem


def test_a_language_model_that_is_not_there_stops_training_before_it_starts(
    tiny_corpus: Corpus, tmp_path: Path
) -> None:
    leaves = {"decoding.method": "beam", "decoding.language_model": str(tmp_path / "absent"), "decoding.lm_weight": 0.5}
    reported: list[Metrics] = []
    with pytest.raises(InputError, match="absent: not a whole model directory"):
        train(tiny.config(leaves), tiny_corpus, lambda metrics, save: reported.append(metrics))
    assert not reported


@pytest.mark.parametrize("method", METHODS)
def test_validation_searches_as_configured(tiny_corpus: Corpus, method: str) -> None:
    history: list[Metrics] = []
    leaves = {"training.epochs": 1, "decoding.method": method, "decoding.beam": 2, "decoding.repeat_penalty": 1.2}
    recognizer = train(tiny.config(leaves), tiny_corpus, lambda metrics, save: history.append(metrics))
    split = tiny_corpus.split("dev")
    spans = zip(split.offsets, split.frames, strict=True)
    texts = recognizer.transcribe([split.features[start : start + frames] for start, frames in spans])
    assert history[-1]["val_cer"] == character_error_rate(split.texts or [], texts)


def test_a_language_model_has_no_part_in_ctc_alone() -> None:
    with pytest.raises(ValueError, match=r"lm_weight=0\.5 has no meaning with method=ctc_beam"):
        Decoding(method="ctc_beam", language_model="lm", lm_weight=0.5)


def test_no_language_model_is_loaded_without_a_weight(learned: Learned) -> None:
    decoding = Decoding(method="beam", language_model="absent")
    assert learned.recognizer.search(decoding) == Search(decoding, ends_repetition=True)
