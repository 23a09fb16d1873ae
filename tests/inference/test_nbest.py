"""The best hypotheses of a search: in Python, in JSON on the command line, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import babbler
import numpy as np
import pytest
import soundfile
import tiny
from place import Run
from recorded import RATE, tones
from tiny import Learned

from asr_platform import load_model
from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.recognizer import Recognizer

SEARCHES = [{"method": "beam", "beam": 6}, {"method": "ctc_beam", "beam": 6}, {"method": "joint", "beam": 6}]


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    random = np.random.default_rng(7)
    said = [tiny.utterance(text, random) for text in ("A BAD CAB", "BEAD", "DAB A BEE")]
    return [frames + random.normal(0, 12, frames.shape).astype(np.float32) for frames in said]


@pytest.mark.parametrize("options", SEARCHES, ids=lambda options: options["method"])
def test_the_first_hypothesis_is_the_text(learned: Learned, speech: list[np.ndarray], options: dict[str, Any]) -> None:
    """All differ, the best is first, and asking for more changes none of the first."""
    recognizer = learned.recognizer
    search = recognizer.search(Decoding(**options))
    plain = recognizer.transcribe(speech, search)
    many = recognizer.transcribe_timed(speech, search, nbest=6)
    few = recognizer.transcribe_timed(speech, search, nbest=2)
    for text, more, less in zip(plain, many, few, strict=True):
        texts, scores = zip(*more.alternatives, strict=True)
        assert texts[0] == text == more.text == less.text
        assert len({*texts}) == len(texts) and list(scores) == sorted(scores, reverse=True)
        assert 1 < len(less.alternatives) <= 2 and less.alternatives == more.alternatives[:2]
        assert [word.text for word in more.words] == text.split()
    assert recognizer.transcribe_timed(speech, search)[0].alternatives == []


def test_scores_are_log_probabilities(learned: Learned, speech: list[np.ndarray]) -> None:
    """Scores of a beam search are log-probabilities of the decoder, whose probabilities sum up to at most 1."""
    recognizer = learned.recognizer
    (found,) = recognizer.transcribe_timed(speech[:1], recognizer.search(Decoding(method="beam", beam=40)), nbest=40)
    assert 0.5 < sum(np.exp(one.score) for one in found.alternatives) <= 1.0001


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "a.wav"
    soundfile.write(path, tones(12), RATE)
    return path


def test_pieces_of_a_recording_have_hypotheses(place: Path, run: Run, recording: Path) -> None:
    """A long recording is cut into pieces, each with its own; without --nbest there are none."""
    babbler.save_model(Corpus.open(place / "corpus"), place / "nbest")
    command = ("transcribe", "nbest", str(recording), "--format", "json", "--method", "joint", "--beam", "4")
    (tree,) = json.loads(run(*command, "--nbest", "3", "--piece-seconds", "4").out)
    (plain,) = json.loads(run(*command, "--piece-seconds", "4").out)
    pieces = tree.pop("pieces")
    assert tree == plain and len(pieces) > 1
    assert pieces[0]["start"] >= 0 and pieces[-1]["end"] <= tree["duration"]
    assert all(1 <= len(piece["alternatives"]) <= 3 for piece in pieces)
    model = load_model(place / "nbest")
    found = model.transcripts(recording, piece_seconds=4, nbest=3, method="joint", beam=4)
    assert found[0]["pieces"] == pieces


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (["--nbest", "2"], "--nbest 2 with --format txt"),
        (["--nbest", "2", "--format", "json"], "nbest=2: method=greedy finds one hypothesis"),
        (["--nbest", "9", "--format", "json", "--method", "joint"], "nbest=9 is above beam=5"),
        (["--hotwords", "CAB"], "hotwords have no meaning with method=greedy: use joint or beam"),
        (["--hotwords", "ÄX", "--method", "joint"], "hotwords: 'ÄX' has 'XÄ', which the model never writes"),
    ],
)
def test_what_a_search_cannot_do(place: Path, run: Run, recording: Path, asked: list[str], problem: str) -> None:
    ended = run("transcribe", "model", str(recording), *asked)
    assert ended.code == 2 and problem in ended.err and not ended.out


@pytest.mark.parametrize("nbest", [-1, 3])
def test_python_refuses_it_too(place: Path, recording: Path, nbest: int) -> None:
    with pytest.raises(InputError, match="nbest"):
        load_model(place / "model").transcripts(recording, nbest=nbest)


@pytest.mark.parametrize("method", ["beam", "joint"])
def test_hotwords_win_where_they_could_have_been_said(learned: Learned, speech: list[np.ndarray], method: str) -> None:
    """More of them are written as their weight grows; a weight of 0 changes nothing."""
    recognizer: Recognizer = learned.recognizer
    counts = []
    for weight in (0.0, 2.0, 20.0):
        decoding = Decoding(method=method, beam=8, hotwords="FACE, A  CAFE", hotword_weight=weight)
        texts = recognizer.transcribe(speech, recognizer.search(decoding))
        if weight == 0:
            assert texts == recognizer.transcribe(speech, recognizer.search(Decoding(method=method, beam=8)))
        counts.append(sum(f" {text} ".count(f" {word} ") for text in texts for word in ("FACE", "A CAFE")))
    assert counts == sorted(counts) and counts[-1] > counts[0]
