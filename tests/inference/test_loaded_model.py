"""A model in Python says what the commands say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import babbler
import numpy as np
import pytest
import soundfile
import tiny
from place import Run
from recorded import tones

from asr_platform import InputError, load_model
from asr_platform.inference.loaded_model import LoadedModel
from trainables.data.corpus import Corpus


@pytest.fixture(scope="module")
def model(place: Path) -> LoadedModel:
    return load_model(place / "model")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Mono at 16 kHz, stereo at 44.1 kHz, and a short one: each is said to be something else."""
    found = []
    for number, (rate, shape) in enumerate([(16_000, (9000,)), (44_100, (40_000, 2)), (16_000, (500,))]):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, shape), rate)
        found.append(path)
    return found


def test_files_are_transcribed_as_by_the_command(model: LoadedModel, files: list[Path], place: Path, run: Run) -> None:
    printed = run("transcribe", "model", *map(str, files)).out
    texts = [line.split("\t")[1] for line in printed.splitlines()]
    assert len(set(texts)) == len(files)
    assert model.transcribe(files) == model.transcribe([str(file) for file in files]) == texts
    assert model.transcribe(files[1]) == texts[1:2]
    assert model.transcribe([]) == []
    timed = json.loads(run("transcribe", "model", *map(str, files), "--format", "json").out)
    assert model.transcripts(files) == timed


def test_an_editor_is_evaluated_with_as_many_steps_as_asked(place: Path, files: list[Path], tmp_path: Path) -> None:
    corpus = Corpus.open(place / "corpus")
    babbler.save_model(corpus, tmp_path / "editor", **{key.partition(".")[2]: x for key, x in tiny.EDITING.items()})
    editor = load_model(tmp_path / "editor")
    rates = [editor.evaluate(place / "corpus", "dev", editing_steps=steps)["cer"] for steps in (1, 2, 3)]
    drafted = editor.evaluate(place / "corpus", "dev", method="ctc")["cer"]
    assert len({drafted, *rates}) >= 3
    assert editor.evaluate(place / "corpus", "dev")["cer"] == rates[0]
    assert editor.submit(place / "corpus", "test", tmp_path / "test.csv") == len(babbler.TEST_IDS)
    texts = [found["text"] for found in editor.transcripts(files)]
    assert texts == editor.transcribe(files) and any(texts)


def test_samples_are_what_their_file_is(model: LoadedModel, files: list[Path]) -> None:
    for file in files:
        for type in ("float32", "float64"):
            samples, rate = soundfile.read(file, dtype=type)
            assert model.transcribe(samples, rate) == model.transcribe([samples], rate) == model.transcribe(file)


@pytest.mark.parametrize(
    ("audio", "rate", "problem"),
    [
        (np.zeros(9000, np.int16), 16_000, r"shape \(9000,\), type int16, at 16000 Hz"),
        (np.zeros((2, 3, 4)), 16_000, r"shape \(2, 3, 4\)"),
        ([0.5, 0.25], 16_000, r"shape \(\)"),
        (np.full(9000, np.nan), 16_000, r"shape \(9000,\), type float64"),
        (np.zeros(9000), 0, "at 0 Hz"),
        (np.zeros(0), 16_000, r"shape \(0,\)"),
        (np.ones(9), 16_000, "samples: 0.6 ms of audio are too short"),
        ("absent.wav", 16_000, "absent.wav: no such file"),
    ],
)
def test_what_is_no_audio_is_refused(model: LoadedModel, audio: Any, rate: int, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        model.transcribe(audio, rate)


def test_long_samples_are_cut(model: LoadedModel) -> None:
    samples = tones(6)
    (found,) = model.transcripts(samples, piece_seconds=3.0)
    assert (
        [found["text"]] == model.transcribe(samples, piece_seconds=3.0) != model.transcribe(samples, piece_seconds=30)
    )
    for seconds, bound in ((0.5, "1 or more"), (float("nan"), "1 or more"), (float("inf"), "86400 or less")):
        with pytest.raises(InputError, match=f"piece_seconds must be {bound}, but got {seconds}"):
            model.transcribe(samples, piece_seconds=seconds)


def test_scores_are_the_commands(model: LoadedModel, place: Path, run: Run) -> None:
    asked = ["evaluate", "model", "--data", "corpus", "--split", "dev", "--json"]
    assert model.evaluate(place / "corpus", "dev") == json.loads(run(*asked).out)
    search = ["--method", "ctc_beam", "--beam", "3"]
    assert model.evaluate(place / "corpus", "dev", method="ctc_beam", beam=3) == json.loads(run(*asked, *search).out)
    with pytest.raises(InputError, match=r"decoding\.bean: unknown key"):
        model.evaluate(place / "corpus", "dev", bean=3)


def test_a_submission_is_written(model: LoadedModel, place: Path, tmp_path: Path) -> None:
    assert model.submit(place / "corpus", "test", tmp_path / "submission.csv") == 5
    with (tmp_path / "submission.csv").open() as file:
        assert [row[0] for row in csv.reader(file)] == ["id", "0", "1", "2", "3", "4"]


def test_an_export_needs_a_folder_of_its_own(model: LoadedModel, place: Path) -> None:
    with pytest.raises(InputError, match="corpus: exists and is not empty"):
        model.export(place / "corpus")


def test_a_folder_without_a_model_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match="not a whole model directory"):
        load_model(str(place / "corpus"))
    with pytest.raises(InputError, match=r"no-tokenizer: .*tokenizer\.model missing"):
        load_model(place / "no-tokenizer")


def test_it_says_what_it_is(model: LoadedModel, place: Path) -> None:
    assert repr(model) == f"LoadedModel({str(place / 'model')!r}, {model.recognizer.parameters:,} parameters)"
