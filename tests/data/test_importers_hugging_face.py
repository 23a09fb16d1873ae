"""Data sets of real speech, written by the package datasets itself."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from trainables.data.features import FeatureRecipe
from trainables.data.importers.hugging_face import AudioCell, hugging_face_utterances
from trainables.data.importers.librispeech import librispeech_utterances
from trainables.data.mistakes import Mistakes
from trainables.data.utterance import AudioSegment, Utterance
from trainables.errors import InputError

datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra: hugging-face)")

HW4 = FeatureRecipe(name="hw4")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, so that nothing is left in the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield


@pytest.fixture
def speech(speech_data: Path) -> list[Utterance]:
    return librispeech_utterances(speech_data / "librispeech", ["test-clean"])


def path_of(item: Utterance) -> str:
    assert isinstance(item.source, AudioSegment)
    return str(item.source.path)


@pytest.fixture
def rows(speech: list[Utterance]) -> Any:
    """LibriSpeech's test-clean as a data set with a column of the type Audio."""
    columns: dict[str, list[Any]] = {
        "audio": [path_of(item) for item in speech],
        "text": [item.text for item in speech],
        "speaker_id": [int(item.speaker or "") for item in speech],
        "id": [item.id for item in speech],
    }
    return datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())


def check_same(found: list[Utterance], expected: list[Utterance]) -> None:
    """Ids, texts, speakers and audio are equal."""
    assert [(item.id, item.text, item.speaker) for item in found] == [
        (item.id, item.text, item.speaker) for item in expected
    ]
    for one, other in zip(pickle.loads(pickle.dumps(found)), expected, strict=True):
        np.testing.assert_array_equal(one.source.features(HW4)[0], other.source.features(HW4)[0])


def test_a_saved_data_set_with_splits(rows: Any, speech: list[Utterance], tmp_path: Path) -> None:
    parts = {"train": rows.select(range(3)).shuffle(seed=1), "validation": rows.select([3])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved", num_shards={"train": 2, "validation": 1})
    found = hugging_face_utterances(tmp_path / "saved")
    assert hugging_face_utterances(tmp_path / "saved") == found
    assert [item.split for item in found] == ["train", "train", "train", "validation"]
    assert [item.id for item in found] == [*parts["train"]["id"], speech[3].id], "in the order of its rows"
    check_same(sorted(found, key=lambda item: item.id), speech)
    assert all(isinstance(item.source, AudioCell) and item.source.recordings == () for item in found)
    assert found[0].origin.endswith("data-00000-of-00002.arrow: row 0")


def test_a_saved_data_set_without_splits_is_for_training(rows: Any, speech: list[Utterance], tmp_path: Path) -> None:
    rows.save_to_disk(tmp_path / "saved")
    found = hugging_face_utterances(tmp_path / "saved")
    assert {item.split for item in found} == {"train"}
    check_same(found, speech)


def test_rows_of_several_batches(speech: list[Utterance], tmp_path: Path) -> None:
    """An Arrow file has its rows in batches: each row's audio is its own."""
    many = [speech[number % 4] for number in range(23)]
    columns = {"audio": [path_of(item) for item in many], "text": [item.text for item in many]}
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
    made.map(lambda row: row, writer_batch_size=5).save_to_disk(tmp_path / "saved")
    found = hugging_face_utterances(tmp_path / "saved")
    assert len({item.id for item in found}) == 23
    for place in (0, 4, 5, 14, 22):
        assert found[place].source.features(HW4)[1] == many[place].source.features(HW4)[1]


def test_downloaded_parquet_files(rows: Any, speech: list[Utterance], tmp_path: Path) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    rows.select(range(2)).to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet")
    rows.select([2]).to_parquet(tmp_path / "hub" / "data" / "train-00001-of-00002.parquet")
    rows.select([3]).to_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    found = hugging_face_utterances(tmp_path / "hub")
    assert sorted(item.split for item in found) == ["test", "train", "train", "train"]
    check_same(sorted(found, key=lambda item: item.id), speech)


def test_one_of_several_data_sets(rows: Any, tmp_path: Path) -> None:
    for name, count in (("cy", 1), ("de", 2)):
        (tmp_path / "hub" / name).mkdir(parents=True)
        rows.select(range(count)).to_parquet(tmp_path / "hub" / name / "train.parquet")
    lines = [f"- config_name: {name}\n  data_files: {name}/*.parquet" for name in ("cy", "de")]
    (tmp_path / "hub" / "README.md").write_text("---\nconfigs:\n" + "\n".join(lines) + "\n---\n")
    assert len(hugging_face_utterances(tmp_path / "hub", config="de")) == 2
    with pytest.raises(InputError, match=r"(?s)not readable as a data set.*cy.*--config"):
        hugging_face_utterances(tmp_path / "hub")


def test_other_names_of_columns_and_paths_without_content(speech: list[Utterance], tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict({"where": [path_of(speech[0])], "said": [" ONE  TWO"], "who": ["anna"]})
    made.save_to_disk(tmp_path / "saved")
    (found,) = hugging_face_utterances(tmp_path / "saved", keys={"audio": "where", "text": "said", "speaker": "who"})
    assert (found.text, found.speaker, found.source) == ("ONE TWO", "anna", AudioSegment(Path(path_of(speech[0]))))
    assert found.source.features(HW4)[1] == speech[0].source.features(HW4)[1]
    with pytest.raises(InputError, match=r"(?s)train: no column audio.*where, said, who: name them with --keys"):
        hugging_face_utterances(tmp_path / "saved")
    with pytest.raises(InputError, match=r"no column gone \(text\)"):
        hugging_face_utterances(tmp_path / "saved", keys={"audio": "where", "text": "gone"})
    with pytest.raises(InputError, match="--keys: no key named words"):
        hugging_face_utterances(tmp_path / "saved", keys={"words": "said"})


# Mistakes


def test_rows_without_audio_are_named_together(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    made = datasets.Dataset.from_dict({"audio": [str(tmp_path / "a.wav"), None, None], "text": ["A", "B", "C"]})
    made.cast_column("audio", datasets.Audio()).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError) as caught:
        hugging_face_utterances(tmp_path / "saved")
    assert caught.value.problem.count("no audio in the column audio") == 2
    assert "row 1: no audio" in caught.value.problem and "row 2: no audio" in caught.value.problem
    assert len(hugging_face_utterances(tmp_path / "saved", Mistakes(2))) == 1


def test_content_that_is_no_audio(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict({"audio": [{"bytes": b"no audio", "path": "a.wav"}], "text": ["A"]})
    made.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(tmp_path / "saved")
    (found,) = hugging_face_utterances(tmp_path / "saved")
    with pytest.raises(InputError, match="row 0"):
        found.source.features(HW4)


def test_what_is_no_data_set(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        hugging_face_utterances(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"(?s)empty: not readable as a data set.*save_to_disk"):
        hugging_face_utterances(tmp_path / "empty")
    rows.save_to_disk(tmp_path / "cut")
    (file,) = (tmp_path / "cut").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="cut: not readable as a data set"):
        hugging_face_utterances(tmp_path / "cut")
    (tmp_path / "cut" / "state.json").write_text("{")
    with pytest.raises(InputError, match="cut: not readable as a data set"):
        hugging_face_utterances(tmp_path / "cut")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"(?s)not installed.*pip install datasets"):
        hugging_face_utterances(tmp_path)
