"""A plain folder of recordings with their texts beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainables.data.features import FeatureRecipe
from trainables.data.importers.folder import folder_utterances
from trainables.data.mistakes import Mistakes
from trainables.errors import InputError

HW4 = FeatureRecipe(name="hw4")


def write(root: Path, name: str, text: str | None = "Hello.\n") -> None:
    """A recording of a tenth of a second, and its text beside it."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(len(name)).normal(size=1600), 16_000)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def found(root: Path, **options: str) -> list[tuple[str, str, str | None, str | None]]:
    return [(item.split, item.id, item.text, item.speaker) for item in folder_utterances(root, **options)]


def test_folders_are_splits_and_speakers(tmp_path: Path) -> None:
    write(tmp_path, "train/anna/day one/1.wav", "Good\n  morning\n")
    write(tmp_path, "Train/zoe/2.FLAC", "\ufeffNight")
    write(tmp_path, "dev-clean/3.ogg")
    write(tmp_path, "interviews/bert/4.wav", "Four")
    write(tmp_path, "5.v1.wav", "Five")
    write(tmp_path, "test/6.wav", None)
    write(tmp_path, ".hidden/7.wav")
    (tmp_path / "README.txt").write_text("Recorded by us.")
    (tmp_path / "._5.v1.txt").write_bytes(b"\0\5\x16\7")
    assert found(tmp_path) == [
        ("Train", "zoe/2", "Night", "zoe"),
        ("dev-clean", "3", "Hello.", None),
        ("test", "6", None, None),
        ("train", "5.v1", "Five", None),
        ("train", "interviews/bert/4", "Four", "interviews"),
        ("train", "anna/day one/1", "Good morning", "anna"),
    ]
    first = folder_utterances(tmp_path)[0]
    assert first.source.features(HW4)[1] == pytest.approx(0.1)


def test_the_real_recordings_have_their_speakers_in_the_names(speech_data: Path, tmp_path: Path) -> None:
    for path in sorted((speech_data / "fsdd" / "recordings").glob("7_*_0.wav")):
        (tmp_path / path.name).symlink_to(path)
        (tmp_path / path.name).with_suffix(".txt").write_text("seven")
    utterances = folder_utterances(tmp_path, speaker=r"\d_(.+)_\d+")
    assert [item.speaker for item in utterances] == ["george", "jackson", "lucas", "theo", "yweweler"]
    assert {item.text for item in utterances} == {"seven"}


def test_recordings_and_texts_must_pair(tmp_path: Path) -> None:
    write(tmp_path, "a.wav")
    write(tmp_path, "b.wav", None)
    write(tmp_path, "test/c.wav", None)
    write(tmp_path, "test/d.wav")
    (tmp_path / "e.txt").write_text("E")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    bad = Mistakes(4)
    assert [item.id for item in folder_utterances(tmp_path, bad)] == ["d"]
    assert [problem.replace(f"{tmp_path}/", "") for problem in bad.problems] == [
        "test/c.wav: no text c.txt beside it",
        "a.txt: unreadable: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        "b.wav: no text b.txt beside it",
        "e.txt: no recording of that name beside it",
    ]
    with pytest.raises(InputError, match=r"(?s)b\.wav: no text.*raise --skip-bad above 3"):
        folder_utterances(tmp_path, Mistakes(3))


def test_what_is_no_folder_of_recordings(tmp_path: Path, speech_data: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        folder_utterances(tmp_path / "absent")
    with pytest.raises(InputError, match="no recordings with texts"):
        folder_utterances(tmp_path)
    with pytest.raises(InputError) as caught:
        folder_utterances(speech_data / "librispeech")
    assert "platform prepare librispeech" in caught.value.remedy


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("(", "no regular expression"),
        (r"\d_.+_", "without a group"),
        ("(x)", r"a\.wav: no speaker by --speaker"),
    ],
)
def test_an_expression_without_a_speaker(tmp_path: Path, expression: str, problem: str) -> None:
    write(tmp_path, "a.wav")
    with pytest.raises(InputError, match=problem):
        folder_utterances(tmp_path, speaker=expression)
