"""Transcripts are the same, and in the same order, however many processes transcribe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import babbler
import pytest
from recorded import tones, write_samples

from asr_platform.inference import parallel
from asr_platform.inference import transcribe as transcription
from asr_platform.inference.evaluate import evaluate_model, frames_of
from asr_platform.inference.parallel import SECONDS_PER_JOB, Transcriber, Utterances, processes_for
from asr_platform.inference.transcribe import transcribe_to
from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus
from trainables.inference.recognizer import Recognizer

BEAM = {"method": "joint", "beam": 3, "hotwords": "CAB"}


@dataclass(frozen=True)
class Made:
    corpus: Corpus
    model: Path
    recognizer: Recognizer  # as a process loads it


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    corpus = babbler.write_corpus(folder / "corpus")
    babbler.save_model(corpus, folder / "model", usual_seconds=1.0)
    return Made(corpus, folder / "model", parallel.load(folder / "model"))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of about two utterances."""
    monkeypatch.setattr(parallel, "BATCH_FRAMES", 150)


def test_groups_keep_their_texts(made: Made) -> None:
    """With words, times and hypotheses; groups without utterances keep their places, too."""
    recognizer, split = made.recognizer, made.corpus.split("train")
    frames = frames_of(split)
    search = recognizer.search(Decoding.model_validate(BEAM))
    groups = [
        Utterances([]),
        Utterances(frames[:5], timed=True),
        Utterances([]),
        Utterances(frames[5:]),
        Utterances([]),
    ]
    transcriber = Transcriber(recognizer, search, made.model, nbest=2)
    alone, shared = (list(transcriber.transcribe(iter(groups), jobs)) for jobs in (1, 2))
    assert shared == alone and [len(texts) for texts in alone] == [0, 5, 0, 1, 0]
    for group, texts in zip(groups, alone, strict=True):
        assert [found.text for found in texts] == recognizer.transcribe(group.features, search)
    assert len({found.text for texts in alone for found in texts}) == len(frames)
    assert all(found.words and len(found.alternatives) == 2 for found in alone[1])
    assert not alone[3][0].words
    assert not split.features.is_shared(), "the whole split would have been copied into shared memory"


def test_groups_are_given_as_soon_as_they_are_transcribed(made: Made) -> None:
    """One process does not read the next group first, whose recordings may be long."""
    read: list[int] = []

    def groups() -> Iterator[Utterances]:
        for number, frames in enumerate(frames_of(made.corpus.split("dev"))):
            read.append(number)
            yield Utterances([frames])

    for number, _ in enumerate(Transcriber(made.recognizer, made.recognizer.search()).transcribe(groups(), 1)):
        assert read == list(range(number + 1))


def test_scores_are_equal(made: Made) -> None:
    alone, shared = (evaluate_model(made.model, made.corpus.path, "dev", BEAM, jobs) for jobs in (1, 2))
    assert shared == alone and alone["utterances"] == 3


def test_recordings_of_all_lengths_are_printed_alike(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcription, "FILES_AT_ONCE", 2)
    paths = []
    for number, pieces in enumerate([1, 3, 0, 1, 2]):
        paths.append(str(tmp_path / f"{number}.wav"))
        write_samples(Path(paths[-1]), tones(pieces))
    alone, shared = ("".join(transcribe_to(made.model, paths, "json", None, jobs=jobs)) for jobs in (1, 2))
    assert shared == alone and [row["file"] for row in json.loads(alone)] == paths


@pytest.mark.parametrize(("device", "cpus", "seconds", "count"), [
    ("cpu", 8, 0.0, 1), ("cpu", 8, 2.5 * SECONDS_PER_JOB, 3), ("cpu", 8, 1e6, 8), ("cpu", 1, 1e6, 1),
    ("cuda", 8, 1e6, 1),
])  # fmt: skip
def test_as_many_processes_as_are_worthwhile(
    device: str, cpus: int, seconds: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "device", lambda: device)
    monkeypatch.setattr(parallel, "available_cpus", lambda: cpus)
    assert processes_for(seconds) == count
