"""JSONL manifests: good lines, and every mistake with its file and line."""

from __future__ import annotations

import json
import pickle
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from trainables.data.features import FeatureRecipe
from trainables.data.importers.manifest import manifest_utterances
from trainables.data.mistakes import Mistakes
from trainables.data.utterance import AudioSegment
from trainables.errors import InputError

HW4 = FeatureRecipe(name="hw4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds audio/a.wav (8 kHz, one second) and audio/b.flac (16 kHz, two seconds)."""
    (tmp_path / "audio").mkdir()
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / "audio" / "a.wav", 0.1 * random.standard_normal(8000), 8000)
    soundfile.write(tmp_path / "audio" / "b.flac", 0.1 * random.standard_normal(32000), 16000)
    return tmp_path


def manifest(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_good_lines(folder: Path) -> None:
    path = manifest(
        folder,
        {"audio_filepath": "audio/a.wav", "text": "HELLO  WORLD ", "speaker": "anna", "other": "ignored"},
        "",
        {
            "audio_filepath": str(folder / "audio" / "b.flac"),
            "text": "GRÜẞE",
            "offset": 0.5,
            "duration": 1,
            "split": "dev",
            "speaker": 17,
        },
        {"audio_filepath": "audio/b.flac", "split": "test", "id": "mine", "offset": None, "duration": None},
    )
    utterances = manifest_utterances(path)
    assert [(item.id, item.split, item.text) for item in utterances] == [
        ("a-000001", "train", "HELLO WORLD"),
        ("b-000003", "dev", "GRÜẞE"),
        ("mine", "test", None),
    ]
    assert [item.source.features(HW4)[1] for item in utterances] == [1, 1, 2]
    assert [item.speaker for item in utterances] == ["anna", "17", None]
    assert utterances[1].source.features(HW4)[0].shape == (126, 80)
    assert pickle.loads(pickle.dumps(utterances)) == manifest_utterances(path)


def test_other_names_of_keys(folder: Path) -> None:
    names = {"audio_filepath": "path", "text": "sentence", "speaker": "client"}
    path = manifest(
        folder, {"path": "audio/a.wav", "sentence": "A", "client": "anna", "text": 3, "split": "dev"}, {"sentence": 4}
    )
    bad = Mistakes(1)
    (utterance,) = manifest_utterances(path, bad, names)
    assert (utterance.text, utterance.speaker, utterance.split) == ("A", "anna", "dev")
    assert bad.problems == [f"{path}:2: path must be a path, but got None; sentence must be a string, but got 4"]
    with pytest.raises(InputError, match=r"(?s)--keys: no key named words.*text"):
        manifest_utterances(path, keys={"words": "text"})


def test_byte_order_marks_and_home_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark inside comes from joined files."""
    monkeypatch.setenv("HOME", str(folder))
    line = json.dumps({"audio_filepath": "~/audio/a.wav", "text": "A\tB"})
    utterances = manifest_utterances(
        manifest(folder, "\ufeff" + line, "\ufeff" + line, '{"audio_filepath": "~/none"}'), Mistakes(1)
    )
    assert [(item.text, item.source.features(HW4)[1]) for item in utterances] == 2 * [("A B", 1)]


@pytest.mark.parametrize(("there", "named"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_are_found_in_either_form(folder: Path, there: Any, named: Any) -> None:
    (folder / "audio" / "a.wav").rename(folder / "audio" / unicodedata.normalize(there, "été.wav"))
    path = manifest(folder, {"audio_filepath": unicodedata.normalize(named, "audio/été.wav"), "text": "A"})
    (utterance,) = manifest_utterances(path)
    assert utterance.source.features(HW4)[1] == 1


def test_lines_with_mistakes_can_be_left_out(folder: Path) -> None:
    good = {"audio_filepath": "audio/a.wav", "text": "A"}
    path = manifest(folder, "{", good, {"audio_filepath": "audio/none.wav", "text": 3})
    bad = Mistakes(2)
    assert [item.id for item in manifest_utterances(path, bad)] == ["a-000002"]
    assert [problem.partition(" ")[0] for problem in bad.problems] == [f"{path}:1:", f"{path}:3:"]
    with pytest.raises(InputError, match="raise --skip-bad above 1"):
        manifest_utterances(path, Mistakes(1))


MISTAKES: list[tuple[dict[str, Any] | str, str]] = [
    ('{"audio_filepath": ', "not JSON"),
    ("[1]", "not a JSON object"),
    ({"text": "A"}, "audio_filepath must be a path, but got None"),
    ({"audio_filepath": 3, "text": "A"}, "audio_filepath must be a path, but got 3"),
    ({"audio_filepath": "audio/none.wav", "text": "A"}, "no such file"),
    ({"audio_filepath": "audio/a.wav", "text": ""}, "empty transcript"),
    ({"audio_filepath": "audio/a.wav", "text": " \t"}, "empty transcript"),
    ({"audio_filepath": "audio/a.wav", "text": 7}, "text must be a string, but got 7"),
    ({"audio_filepath": "audio/a.wav", "text": "A", "offset": -1}, "offset must be seconds from 0, but got -1"),
    ({"audio_filepath": "audio/a.wav", "text": "A", "offset": "1"}, "offset must be seconds from 0, but got '1'"),
    ({"audio_filepath": "audio/a.wav", "text": "A", "duration": 0}, "duration must be seconds above 0, but got 0"),
    (
        '{"audio_filepath": "audio/a.wav", "text": "A", "duration": NaN}',
        "duration must be seconds above 0, but got nan",
    ),
    ({"audio_filepath": "audio/a.wav", "text": "A", "duration": True}, "duration must be seconds above 0"),
    ({"audio_filepath": "audio/a.wav", "text": "A", "split": ""}, "split must be a name, but got ''"),
    ({"audio_filepath": "audio/a.wav", "text": "A", "id": 5}, "id must be a name, but got 5"),
    ({"audio_filepath": "audio/a.wav", "text": "A", "speaker": True}, "speaker must be a name, but got True"),
]


def test_every_mistake_has_its_line(folder: Path) -> None:
    path = manifest(folder, *[line for line, _ in MISTAKES])
    with pytest.raises(InputError) as caught:
        manifest_utterances(path)
    problems = caught.value.problem.splitlines()
    assert len(problems) == len(MISTAKES)
    for number, (problem, (_, expected)) in enumerate(zip(problems, MISTAKES, strict=True), start=1):
        assert problem.startswith(f"{path}:{number}: {expected}")


KEYS = st.sampled_from(["audio_filepath", "text", "offset", "duration", "split", "id", "speaker"])
TEXTS = st.text(st.characters(exclude_categories=()))
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.lists(st.integers(), max_size=2)


@given(st.dictionaries(KEYS, VALUES | st.sampled_from([10**400, "a.wav", "~nobody/a.wav", "x" * 5000, "\0"])))
def test_any_object_is_an_utterance_or_a_mistake(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.wav").touch()
    path = manifest(folder, record)
    try:
        (utterance,) = manifest_utterances(path)
    except InputError as error:
        assert error.problem.startswith(f"{path}:1: ")
    else:
        assert utterance.source == AudioSegment(folder / "a.wav", record.get("offset") or 0.0, record.get("duration"))


def test_nesting_without_end_is_no_json(folder: Path) -> None:
    with pytest.raises(InputError, match=r"data\.jsonl:1: not JSON"):
        manifest_utterances(manifest(folder, "[" * 100_000))


def test_many_mistakes_are_counted(folder: Path) -> None:
    path = manifest(folder, *["{"] * 50)
    with pytest.raises(InputError) as caught:
        manifest_utterances(path)
    assert caught.value.problem.splitlines()[-1] == "and 30 more"


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    for name, problem in {"empty": "no utterances", "binary": "unreadable", "missing": "unreadable"}.items():
        with pytest.raises(InputError, match=rf"{name}\.jsonl: {problem}"):
            manifest_utterances(tmp_path / f"{name}.jsonl")
