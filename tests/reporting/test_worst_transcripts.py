"""The worst transcripts of a report are heard where their audio is there, and link to it where it is long."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
import soundfile
from sounds import noise

from asr_platform.reporting import worst_transcripts as module
from asr_platform.reporting.worst_transcripts import SHOWN_TRANSCRIPTS, worst_transcripts
from trainables.data.corpus import Corpus
from trainables.data.features import SAMPLE_RATE, FeatureRecipe
from trainables.data.importers.manifest import manifest_utterances
from trainables.data.mistakes import Mistakes
from trainables.data.prepare import prepare
from trainables.evaluation.utterance_errors import UtteranceErrors

SECONDS = 0.5


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Ten utterances to validate on, the last of which has been deleted since."""
    lines = []
    for number in range(10):
        audio = tmp_path / f"{number}.wav"
        soundfile.write(audio, noise(round(SECONDS * SAMPLE_RATE), number), SAMPLE_RATE)
        lines.append({"audio_filepath": str(audio), "text": "A CAB", "split": "dev", "id": f"u{number}"})
    lines.append({**lines[0], "split": "train", "id": "t"})
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    utterances = manifest_utterances(manifest, Mistakes())
    made = prepare(utterances, FeatureRecipe(name="hw4"), tmp_path / "corpus", "manifest", 1)
    (tmp_path / "9.wav").unlink()
    return made


def errors_of(hypotheses: list[str], split: str = "dev") -> UtteranceErrors:
    ids = [f"u{number}" for number in range(10)]
    return UtteranceErrors.of(split, 1, ids, ["A CAB"] * 10, hypotheses)


def test_they_are_heard_the_worst_first(corpus: Corpus) -> None:
    found = worst_transcripts(errors_of(["A CAB", *["A C"] * 8, "B"]), corpus)
    assert [one.id for one in found] == ["u9", *(f"u{number}" for number in range(1, SHOWN_TRANSCRIPTS))]
    assert [one.errors for one in found][:2] == [4, 2]
    assert (found[0].audio, found[0].files) == ("", ()), "its file is gone"
    for one in found[1:]:
        content = io.BytesIO(base64.b64decode(one.audio.removeprefix("data:audio/mpeg;base64,")))
        samples, rate = soundfile.read(content)
        assert rate == SAMPLE_RATE and len(samples) / rate == pytest.approx(SECONDS, abs=0.2)


def test_long_ones_are_links(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "EMBEDDED_SECONDS", SECONDS / 2)
    found = worst_transcripts(errors_of(["B"] * 10), corpus)
    assert [(one.audio, one.files) for one in found] == [("", (tmp_path / f"{one.id[1:]}.wav",)) for one in found]


@pytest.mark.parametrize("split", ["dev", "gone"])
def test_without_the_corpus_or_its_split_there_are_texts_alone(split: str, corpus: Corpus) -> None:
    errors = errors_of(["B"] * 10, split)
    for known in (None, corpus) if split == "gone" else (None,):
        assert [(one.hypothesis, one.audio, one.files) for one in worst_transcripts(errors, known)] == [
            ("B", "", ())
        ] * 8
    assert worst_transcripts(None, corpus) == []
