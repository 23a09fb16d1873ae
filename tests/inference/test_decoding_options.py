"""Decoding options are the same wherever a model is used, and a model directory may have its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import babbler
import click
import numpy as np
import pytest
import soundfile
import tiny

from asr_platform import load_model
from asr_platform.cli.main import cli
from asr_platform.inference.evaluate import evaluate_model, write_submission
from asr_platform.inference.transcribe import transcribe_to
from asr_platform.tracking.packaging import decoding_params
from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus
from trainables.errors import DamagedError, InputError
from trainables.evaluation.metrics import character_error_rate
from trainables.inference.decoding_options import DECODING, Measured, OwnDecoding, Tuning, decoding_with
from trainables.inference.model_directory import copy_model, read_decoding, read_info, write_decoding
from trainables.inference.recognizer import Recognizer

OWN = Decoding(method="beam", beam=3, repeat_penalty=3.0)
TUNING = Tuning(
    corpus_hash="c", split="dev", utterances=400, of=2703, searches=9,
    greedy=Measured(cer=0.0212, interval=(0.0117, 0.0311)), tuned=Measured(cer=0.0165, interval=(0.009, 0.025)),
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return babbler.write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def model(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory whose own options are another search than its configuration's."""
    folder = tmp_path_factory.mktemp("own") / "model"
    babbler.save_model(corpus, folder)
    write_decoding(folder, OwnDecoding(decoding=OWN, tuning=TUNING))
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "a.wav"
    soundfile.write(path, np.random.default_rng(3).normal(0, 0.1, 16_000), 16_000)
    return path


def said(corpus: Corpus, model: Path, split: str, decoding: Decoding) -> list[str]:
    found, recognizer = corpus.split(split), Recognizer.load(model)
    spans = zip(found.offsets, found.frames, strict=True)
    return recognizer.transcribe([found.features[at : at + count] for at, count in spans], recognizer.search(decoding))


@pytest.mark.parametrize("changes", [{}, {"method": "greedy"}, {"beam": 1, "repeat_penalty": 1.5}])
def test_every_use_searches_as_the_model_says_unless_told_otherwise(
    corpus: Corpus, model: Path, recording: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    decoding = OWN.model_copy(update=changes)
    texts = corpus.split("dev").texts or []
    expected = said(corpus, model, "dev", decoding)
    scores = evaluate_model(model, corpus.path, "dev", changes)
    assert scores["cer"] == character_error_rate(texts, expected)
    loaded = load_model(model)
    assert loaded.evaluate(corpus.path, "dev", **changes) == scores
    (heard,) = loaded.transcribe(recording, **changes)
    assert loaded.transcripts(recording, **changes)[0]["text"] == heard
    assert list(transcribe_to(model, [str(recording)], "txt", None, None, changes)) == [f"{recording}\t{heard}"]
    for write in (lambda out: write_submission(model, corpus.path, "test", out, changes),
                  lambda out: loaded.submit(corpus.path, "test", out, **changes)):  # fmt: skip
        write(tmp_path / "test.csv")
        with (tmp_path / "test.csv").open(newline="") as file:
            rows = [row[1] for row in csv.reader(file)][1:]
        by_id = dict(zip(corpus.split("test").ids, said(corpus, model, "test", decoding), strict=True))
        assert rows == [by_id[id] for id in sorted(by_id)]


def test_the_searches_of_these_tests_differ(corpus: Corpus, model: Path) -> None:
    greedy, own = Decoding(), OWN
    assert len({tuple(said(corpus, model, "test", each)) for each in (greedy, own)}) == 2


def test_commands_take_the_same_options() -> None:
    """Those of the section `decoding`, all of them, with their bounds."""
    found = []
    for name in ("evaluate", "transcribe", "submit", "export", "confirm"):
        options = {param.name: param for param in cli.commands[name].params if isinstance(param, click.Option)}
        assert {*Decoding.model_fields} <= {*options}, name
        found.append({key: str(options[key].to_info_dict()) for key in Decoding.model_fields})
    assert all(one == found[0] for one in found)
    served = {spec.name for spec in decoding_params()}
    assert served == {*Decoding.model_fields} - {"language_model"}


def test_own_options_go_with_a_copy(model: Path, tmp_path: Path) -> None:
    copied = copy_model(model, tmp_path / "copy")
    assert read_decoding(copied) == OwnDecoding(decoding=OWN, tuning=TUNING)
    assert read_info(copied).config.decoding == OWN
    (copied / DECODING).unlink()
    assert read_info(copied).config.decoding == Decoding()
    (copied / DECODING).write_text('{"decoding": {"beam": 9}}')  # by hand, without the figures of a study
    assert Recognizer.load(copied).config.decoding == Decoding(beam=9)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not readable as JSON"),
        ("[]", "should be a valid dictionary"),
        ("{}", "decoding: Field required"),
        ('{"decoding": {"beam": 0}}', "decoding.beam: Input should be greater than or equal to 1, but got 0"),
        ('{"decoding": {"bean": 3}}', "decoding.bean: unknown key"),
        ('{"decoding": {"lm_weight": 0.3}}', "lm_weight=0.3 needs decoding.language_model"),
        ('{"decoding": {}, "tuning": {"searches": 1}}', "tuning.split: Field required"),
    ],
)
def test_mistakes_in_own_options_are_named(model: Path, tmp_path: Path, content: str, problem: str) -> None:
    copied = copy_model(model, tmp_path / "copy")
    (copied / DECODING).write_text(content)
    with pytest.raises(DamagedError) as error:
        Recognizer.load(copied)
    assert str(copied / DECODING) in error.value.problem and problem in error.value.problem


def test_own_options_must_fit_the_kind_of_model(corpus: Corpus, tmp_path: Path) -> None:
    leaves = {key.removeprefix("model."): value for key, value in tiny.EDITING.items()}
    editor = babbler.save_model(corpus, tmp_path / "editor", **leaves)
    (tmp_path / "editor" / DECODING).write_text(json.dumps({"decoding": {"method": "joint"}}))
    with pytest.raises(DamagedError, match="method=joint has no meaning") as error:
        Recognizer.load(tmp_path / "editor")
    assert error.value.remedy == f"Correct or delete {tmp_path / 'editor' / DECODING}."
    with pytest.raises(InputError, match=r"ctc_weight=0\.3 has no meaning with model\.kind=transcript_editor"):
        decoding_with(editor.config, {"ctc_weight": 0.3})


def test_figures_are_said_in_words() -> None:
    assert str(TUNING.greedy) == "2.12% (1.17–3.11%)"
    assert TUNING.utterances_text == "400 of 2,703 utterances of dev"
    assert TUNING.model_copy(update={"of": 400}).utterances_text == "400 utterances of dev"
